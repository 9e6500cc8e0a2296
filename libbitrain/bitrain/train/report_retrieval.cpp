#include <algorithm>
#include <cmath>
#include <map>

#include <bitrain/train/report_html.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

/// Directions in order of appearance, and the colour of each: that of the language it starts from.
std::vector<std::string> directions(const std::vector<RetrievalSnapshot>& all) {
  std::vector<std::string> names;
  for (const RetrievalSnapshot& snapshot : all)
    for (const auto& [pair, figures] : snapshot.pairs)
      if (std::find(names.begin(), names.end(), pair) == names.end()) names.push_back(pair);
  return names;
}

/// Squares as dark as the cosine between line i of one language (down) and j of the other (across).
std::string picture(const SummaryView& view, const std::string& stage, const Json& rows) {
  constexpr int kCell = 10;
  const std::size_t n = rows.size();
  const std::string size = std::to_string(n * kCell);
  std::string svg = "<figure><figcaption><b>" + escape_html(stage) + "</b><span>" +
                    escape_html(language_name(view.source())) + " lines down, their " +
                    escape_html(language_name(view.target())) +
                    " translations across; darker is more alike</span></figcaption><svg class=\"matrix\" "
                    "viewBox=\"0 0 " +
                    size + " " + size + "\" role=\"img\" aria-label=\"similarities of lines\">";
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; rows[i].is_array() && j < rows[i].size(); ++j) {
      if (!rows[i][j].is_number()) continue;
      const auto value = rows[i][j].get<double>();
      svg += "<rect x=\"" + std::to_string(j * kCell) + "\" y=\"" + std::to_string(i * kCell) +
             "\" width=\"9\" height=\"9\" fill-opacity=\"" + fixed(std::clamp(value, 0.02, 1.0), 2) +
             "\"><title>" + std::to_string(i + 1) + ", " + std::to_string(j + 1) + ": " + fixed(value, 2) +
             "</title></rect>";
    }
  return svg + "</svg></figure>";
}

}  // namespace

std::string direction_name(const std::string& pair) {
  const std::size_t dash = pair.find('-');
  if (dash == std::string::npos) return language_name(pair);
  return language_name(pair.substr(0, dash)) + " → " + language_name(pair.substr(dash + 1));
}

std::string retrieval_tiles(const SummaryView& view) {
  const std::vector<RetrievalSnapshot> all = view.retrieval();
  std::string html;
  for (const std::string& pair : directions(all)) {
    std::vector<double> values;
    for (const RetrievalSnapshot& snapshot : all)
      if (const auto found = snapshot.pairs.find(pair); found != snapshot.pairs.end())
        values.push_back(found->second.accuracy_at_1);
    html += tile(direction_name(pair), fixed(values.front(), 3) + " → " + fixed(values.back(), 3),
                 "accuracy@1 of translations");
  }
  if (!all.empty() && !std::isnan(all.back().agreement))
    html += tile(language_name(view.source()) + " kept", fixed(all.back().agreement, 3),
                 "agreement with the base (Spearman)");
  return html;
}

Chart retrieval_chart(const SummaryView& view, const std::string& stage) {
  const std::vector<RetrievalSnapshot> all = view.retrieval();
  Chart chart{stage + ": translations found at rank 1", "step", "share of held-out lines", {}, {}};
  int color = 0;
  for (const std::string& pair : directions(all)) {
    ChartSeries series{direction_name(pair), color, {}, {}};
    for (const RetrievalSnapshot& snapshot : all) {
      const auto found = snapshot.pairs.find(pair);
      if (found == snapshot.pairs.end()) continue;
      if (snapshot.stage == stage && !std::isnan(snapshot.step)) {
        series.x.push_back(snapshot.step);
        series.y.push_back(found->second.accuracy_at_1);
      }
    }
    const auto first = all.front().pairs.find(pair);
    if (all.front().stage != stage && first != all.front().pairs.end())
      chart.references.push_back(
          {direction_name(pair) + ", " + all.front().label, color, first->second.accuracy_at_1});
    chart.series.push_back(std::move(series));
    color = (color + 1) % 4;
  }
  return chart;
}

std::string search_section(const SummaryView& view) {
  std::vector<std::vector<std::string>> rows(
      1, {"Set", "System", "nDCG@10", "MRR@10", "Accuracy@1", "Recall@100"});
  std::string last;
  for (const SearchFigures& figures : view.searches()) {
    rows.push_back({figures.collection == last ? "" : escape_html(figures.collection),
                    escape_html(figures.system), fixed(figures.ndcg_at_10, 3), fixed(figures.mrr_at_10, 3),
                    fixed(figures.accuracy_at_1, 3), fixed(figures.recall_at_100, 3)});
    last = figures.collection;
  }
  if (rows.size() == 1) return "";
  return "<h2>Search</h2><p>Retrieval sets, searched by words (BM25) and by the encoder of each stage.</p>" +
         table(rows);
}

std::string retrieval_section(const SummaryView& view) {
  const std::vector<RetrievalSnapshot> all = view.retrieval();
  if (all.empty()) return "";
  const std::vector<std::string> pairs = directions(all);
  std::vector<std::vector<std::string>> rows(1, {"Model"});
  for (const std::string& pair : pairs) {
    rows[0].push_back(escape_html(direction_name(pair)) + ", accuracy@1");
    rows[0].push_back("MRR@10");
  }
  rows[0].push_back(escape_html(language_name(view.source())) + " kept");
  for (const RetrievalSnapshot& snapshot : all) {
    std::vector<std::string> row{escape_html(snapshot.label)};
    for (const std::string& pair : pairs) {
      const auto found = snapshot.pairs.find(pair);
      const bool known = found != snapshot.pairs.end();
      row.push_back(fixed(known ? found->second.accuracy_at_1 : std::nan(""), 3));
      row.push_back(fixed(known ? found->second.mrr_at_10 : std::nan(""), 3));
    }
    row.push_back(fixed(snapshot.agreement, 3));
    rows.push_back(std::move(row));
  }
  std::string html =
      "<h2>Retrieval</h2><p>Held-out lines, each to be found by its translation among all others. Kept: rank "
      "correlation of the cosines between lines with those of the model that the recipe began with.</p>" +
      table(rows);
  std::vector<std::pair<std::string, const Json*>> pictures;
  for (const auto& [name, stage] : view.stages())
    if (const Json* matrix = find_at(*stage, "similarities"); matrix != nullptr && matrix->is_array())
      pictures.emplace_back(name, matrix);
  if (pictures.size() > 2) pictures = {pictures.front(), pictures.back()};
  if (pictures.empty()) return html;
  html += "<div class=\"charts\">";
  for (const auto& [name, matrix] : pictures) html += picture(view, name, *matrix);
  return html + "</div>";
}

}  // namespace bitrain::train
