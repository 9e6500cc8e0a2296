#include <bitrain/recipe/search_means.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace bitrain::recipe {

void add_search_means(io::Json& result) {
  const auto sets = result.find("search");
  if (sets == result.end() || sets->size() < 2) return;
  const auto count = static_cast<double>(sets->size());
  io::Json means = io::Json::object();
  for (const auto& [system, first] : sets->front().items()) {
    if (!first.is_object() || !first.contains("ndcg@10")) continue;  // A figure of the set, no system.
    std::map<std::string, double> sums;
    bool everywhere = true;
    for (const io::Json& set : *sets) {
      everywhere = everywhere && set.contains(system);
      if (!everywhere) break;
      for (const auto& [metric, value] : set.at(system).items()) sums[metric] += value.get<double>() / count;
    }
    if (everywhere) means[system] = sums;
  }
  if (means.empty()) return;
  const std::vector<std::string> metrics = {"ndcg@10", "mrr@10", "accuracy@1", "recall@100"};
  io::Json rows = io::Json::array();
  for (const auto& [system, figures] : means.items()) {
    io::Json row = io::Json::array({system});
    for (const std::string& metric : metrics) row.push_back(figures.at(metric));
    rows.push_back(std::move(row));
  }
  const std::string note = "Over " + std::to_string(sets->size()) + " retrieval sets.";
  result["mean"] = std::move(means);
  result["tables"].push_back({{"title", "Search, mean"},
                              {"note", note},
                              {"columns", {"System", "nDCG@10", "MRR@10", "Accuracy@1", "Recall@100"}},
                              {"rows", std::move(rows)}});
}

}  // namespace bitrain::recipe
