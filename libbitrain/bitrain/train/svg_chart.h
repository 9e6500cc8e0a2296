#pragma once

#include <string>
#include <vector>

namespace bitrain::train {

/// One line of a chart.
struct ChartSeries {
  std::string name;
  int color = 0;  ///< Index of the page's series colours: 0 for the source language, 1 for the target.
  std::vector<double> x;
  std::vector<double> y;  ///< As long as `x`; NaN breaks the line.
};

/// A level to compare with, drawn dashed.
struct ChartReference {
  std::string name;
  int color = 0;
  double y = 0;
};

struct Chart {
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<ChartSeries> series;
  std::vector<ChartReference> references;
};

/// The chart as an inline `<figure>` with an SVG that follows the page's colours and width. Every point says
/// its figures on hover; a long series is thinned to what the width can show. A chart without points says so.
[[nodiscard]] std::string render_chart(const Chart& chart);

/// Round tick values that cover [low, high]: 1, 2 or 5 times a power of ten apart, at most `most` of them.
[[nodiscard]] std::vector<double> nice_ticks(double low, double high, int most);

/// What an axis says at each tick: "14,000", "120k" and "1.5M" where that would be too long, "0.25",
/// "0.0003", and powers of ten ("3e-05") only where there would be more zeros. All have the digits that tell
/// neighbours apart, and no more.
[[nodiscard]] std::vector<std::string> tick_labels(const std::vector<double>& ticks);

/// `text` with &, <, > and quotes escaped, for HTML text and attributes.
[[nodiscard]] std::string escape_html(const std::string& text);

}  // namespace bitrain::train
