#include <bitrain/train/svg_chart.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include <bitrain/base/format.h>
#include <bitrain/base/strings.h>

namespace bitrain::train {
namespace {

constexpr double kWidth = 480;
constexpr double kHeight = 270;
constexpr double kLeft = 46;
constexpr double kRight = 14;
constexpr double kTop = 12;
constexpr double kBottom = 40;
constexpr std::size_t kMostPoints = 240;   ///< More than two a pixel show nothing new.
constexpr std::size_t kMarkerPoints = 24;  ///< Up to here each point gets a visible dot.

std::string number(double value, const char* pattern = "%.6g") {
  return format(pattern, value);
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  [[nodiscard]] bool empty() const { return low > high; }
};

/// The plot area: values to SVG coordinates.
struct Frame {
  Range x;
  Range y;
  [[nodiscard]] double px(double value) const {
    return kLeft + (value - x.low) / (x.high - x.low) * (kWidth - kLeft - kRight);
  }
  [[nodiscard]] double py(double value) const {
    return kHeight - kBottom - (value - y.low) / (y.high - y.low) * (kHeight - kTop - kBottom);
  }
};

std::string grid_and_axes(const Chart& chart, const Frame& frame, const std::vector<double>& x_ticks,
                          const std::vector<double>& y_ticks) {
  std::string svg;
  const std::vector<std::string> y_labels = tick_labels(y_ticks);
  const std::vector<std::string> x_labels = tick_labels(x_ticks);
  for (std::size_t i = 0; i < y_ticks.size(); ++i) {
    const std::string y = number(frame.py(y_ticks[i]), "%.1f");
    svg += to_text("<line class=\"grid\" x1=\"", number(kLeft), "\" x2=\"", number(kWidth - kRight),
                   "\" y1=\"", y, "\" y2=\"", y,
                   "\"/><text class=\"tick\" text-anchor=\"end\" dominant-baseline=\"middle\" x=\"",
                   number(kLeft - 7), "\" y=\"", y, "\">", y_labels[i], "</text>");
  }
  for (std::size_t i = 0; i < x_ticks.size(); ++i) {
    const double tick = x_ticks[i];
    if (tick < frame.x.low || tick > frame.x.high) continue;
    svg += "<text class=\"tick\" text-anchor=\"middle\" x=\"" + number(frame.px(tick), "%.1f") + "\" y=\"" +
           number(kHeight - kBottom + 17) + "\">" + x_labels[i] + "</text>";
  }
  svg += "<line class=\"axis\" x1=\"" + number(kLeft) + "\" x2=\"" + number(kWidth - kRight) + "\" y1=\"" +
         number(kHeight - kBottom) + "\" y2=\"" + number(kHeight - kBottom) + "\"/>";
  svg += "<text class=\"tick\" text-anchor=\"middle\" x=\"" + number((kLeft + kWidth - kRight) / 2) +
         "\" y=\"" + number(kHeight - 6) + "\">" + escape_html(chart.x_label) + "</text>";
  return svg;
}

/// Indices of at most kMostPoints points, evenly spread, the last one always among them.
std::vector<std::size_t> thinned(std::size_t count) {
  std::vector<std::size_t> kept;
  const std::size_t step = std::max<std::size_t>(1, (count + kMostPoints - 1) / kMostPoints);
  for (std::size_t i = 0; i < count; i += step) kept.push_back(i);
  if (count > 0 && kept.back() != count - 1) kept.push_back(count - 1);
  return kept;
}

std::string draw_series(const ChartSeries& series, const Chart& chart, const Frame& frame) {
  const std::string color = "s" + std::to_string(series.color);
  const std::vector<std::size_t> kept = thinned(series.x.size());
  std::string path;
  std::string points;
  bool pen_down = false;
  for (const std::size_t i : kept) {
    if (!std::isfinite(series.y[i])) {
      pen_down = false;
      continue;
    }
    const std::string x = number(frame.px(series.x[i]), "%.1f");
    const std::string y = number(frame.py(series.y[i]), "%.1f");
    path += to_text(pen_down ? "L" : "M", x, " ", y);
    pen_down = true;
    const bool dot = series.x.size() <= kMarkerPoints;
    points +=
        to_text("<circle class=\"", dot ? "dot " : "hit ", color, "\" cx=\"", x, "\" cy=\"", y, "\" r=\"",
                dot ? "3.5" : "5", "\"><title>", escape_html(series.name), ", ", escape_html(chart.x_label),
                " ", number(series.x[i]), ": ", number(series.y[i], "%.4f"), "</title></circle>");
  }
  return "<path class=\"line " + color + "\" d=\"" + path + "\"/>" + points;
}

std::string legend(const Chart& chart) {
  if (chart.series.size() + chart.references.size() < 2) return "";  // The title has said it.
  std::string html = "<div class=\"legend\">";
  for (const ChartSeries& series : chart.series)
    html += "<span><i class=\"s" + std::to_string(series.color) + "\"></i>" + escape_html(series.name) +
            "</span>";
  for (const ChartReference& reference : chart.references)
    html += "<span><i class=\"dashed s" + std::to_string(reference.color) + "\"></i>" +
            escape_html(reference.name) + "</span>";
  return html + "</div>";
}

Frame frame_of(const Chart& chart) {
  Frame frame;
  for (const ChartSeries& series : chart.series)
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (!std::isfinite(series.y[i])) continue;
      frame.x.add(series.x[i]);
      frame.y.add(series.y[i]);
    }
  if (frame.x.empty()) return frame;
  for (const ChartReference& reference : chart.references) frame.y.add(reference.y);
  if (frame.x.low == frame.x.high) {
    frame.x.low -= 1;
    frame.x.high += 1;
  }
  if (frame.y.low == frame.y.high) {
    frame.y.low -= 0.5;
    frame.y.high += 0.5;
  }
  return frame;
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string html;
  html.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&': html += "&amp;"; break;
      case '<': html += "&lt;"; break;
      case '>': html += "&gt;"; break;
      case '"': html += "&quot;"; break;
      case '\'': html += "&#39;"; break;
      default: html += c;
    }
  }
  return html;
}

std::vector<double> nice_ticks(double low, double high, int most) {
  if (!(high > low) || most < 2) return {low};
  const double rough = (high - low) / (most - 1);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double multiple : {1.0, 2.0, 5.0})
    if (multiple * power >= rough * (1 - 1e-9)) {
      step = multiple * power;
      break;
    }
  std::vector<double> ticks;
  const auto first = static_cast<long long>(std::floor(low / step + 1e-9));
  const auto last = static_cast<long long>(std::ceil(high / step - 1e-9));
  for (long long i = first; i <= last; ++i) ticks.push_back(static_cast<double>(i) * step);
  return ticks;
}

std::vector<std::string> tick_labels(const std::vector<double>& ticks) {
  constexpr int kMostDecimals = 4;
  double highest = 0;
  double apart = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    highest = std::max(highest, std::abs(ticks[i]));
    if (i > 0 && ticks[i] != ticks[i - 1]) apart = std::min(apart, std::abs(ticks[i] - ticks[i - 1]));
  }
  if (!std::isfinite(apart)) apart = highest > 0 ? highest / 1000 : 1;  // One tick alone.
  const bool millions = highest >= 1e6;
  const bool thousands = !millions && highest >= 1e5;
  const double unit = millions ? 1e6 : thousands ? 1e3 : 1;
  const char* suffix = millions ? "M" : thousands ? "k" : "";
  int decimals = std::max(0, static_cast<int>(std::ceil(-std::log10(apart / unit) - 1e-9)));
  const auto rounded = [&](double tick) {  // As in 0.25 with one decimal.
    const double shown = tick / unit * std::pow(10, decimals);
    return std::abs(shown - std::round(shown)) > 1e-3;
  };
  if (std::any_of(ticks.begin(), ticks.end(), rounded)) ++decimals;
  std::vector<std::string> labels;
  for (const double tick : ticks) {
    if (std::abs(tick) < apart * 1e-6)
      labels.emplace_back("0");  // Also where a sum of steps is nearly that.
    else if (highest >= 1e9 || decimals > kMostDecimals)
      labels.push_back(number(tick, "%.3g"));
    else if (decimals == 0)
      labels.push_back(with_thousands(std::llround(tick / unit)) + suffix);
    else
      labels.push_back(format("%.*f", decimals, tick / unit) + suffix);
  }
  return labels;
}

std::string render_chart(const Chart& chart) {
  std::string html = "<figure><figcaption><b>" + escape_html(chart.title) + "</b><span>" +
                     escape_html(chart.y_label) + "</span></figcaption>";
  Frame frame = frame_of(chart);
  if (frame.x.empty()) return html + "<p class=\"none\">Nothing was measured.</p></figure>";
  const std::vector<double> x_ticks = nice_ticks(frame.x.low, frame.x.high, 6);
  const std::vector<double> y_ticks = nice_ticks(frame.y.low, frame.y.high, 6);
  frame.y.low = std::min(frame.y.low, y_ticks.front());
  frame.y.high = std::max(frame.y.high, y_ticks.back());
  html += legend(chart);
  html += "<svg viewBox=\"0 0 " + number(kWidth) + " " + number(kHeight) + "\" role=\"img\" aria-label=\"" +
          escape_html(chart.title) + "\">" + grid_and_axes(chart, frame, x_ticks, y_ticks);
  for (const ChartReference& reference : chart.references) {
    if (!std::isfinite(reference.y)) continue;
    const std::string y = number(frame.py(reference.y), "%.1f");
    html += to_text("<line class=\"reference s", reference.color, "\" x1=\"", number(kLeft), "\" x2=\"",
                    number(kWidth - kRight), "\" y1=\"", y, "\" y2=\"", y, "\"><title>",
                    escape_html(reference.name), ": ", number(reference.y, "%.4f"), "</title></line>");
  }
  for (const ChartSeries& series : chart.series) html += draw_series(series, chart, frame);
  return html + "</svg></figure>";
}

}  // namespace bitrain::train
