#include <algorithm>
#include <cmath>

#include <bitrain/base/strings.h>
#include <bitrain/train/report_html.h>

namespace bitrain::train {
namespace {

using Json = nlohmann::ordered_json;

/// Whole numbers whole, others with three digits; text as it is; anything else a dash.
std::string cell(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return with_thousands(value.get<std::int64_t>());
  return fixed(value.is_number() ? value.get<double>() : std::nan(""), 3);
}

std::vector<std::string> cells(const Json& row) {
  std::vector<std::string> texts;
  if (row.is_array())
    for (const Json& value : row) texts.push_back(cell(value));
  return texts;
}

/// "above", "at least", ...
std::string relation_of(const Json& claim) {
  std::string relation = text_at(claim, "relation");
  std::replace(relation.begin(), relation.end(), '_', ' ');
  return relation;
}

bool held(const Json& claim) {
  const auto found = claim.find("held");
  return found != claim.end() && found->is_boolean() && found->get<bool>();
}

/// Four digits: claims are often about small differences.
std::string figure(const Json& claim, const char* key) {
  return fixed(number_at(claim, key), 4);
}

}  // namespace

std::vector<StageTable> stage_tables(const SummaryView& view) {
  std::vector<StageTable> found;
  for (const auto& [name, stage] : view.stages()) {
    const Json* all = find_at(*stage, "tables");
    if (all == nullptr || !all->is_array()) continue;
    for (const Json& one : *all) {
      const Json* columns = find_at(one, "columns");
      const Json* rows = find_at(one, "rows");
      if (columns == nullptr || rows == nullptr) continue;
      StageTable& table =
          found.emplace_back(StageTable{name, text_at(one, "title"), text_at(one, "note"), {}});
      table.rows.push_back(cells(*columns));
      for (const Json& row : *rows) table.rows.push_back(cells(row));
    }
  }
  return found;
}

std::string tables_section(const SummaryView& view) {
  std::string html;
  for (StageTable& found : stage_tables(view)) {
    for (std::vector<std::string>& row : found.rows)
      for (std::string& text : row) text = escape_html(text);
    html += "<h2>" + escape_html(found.title) + "</h2><p>" + escape_html(found.stage) +
            (found.note.empty() ? "" : ": " + escape_html(found.note)) + "</p>" + table(found.rows);
  }
  return html;
}

std::string claims_section(const SummaryView& view) {
  if (view.claims().empty()) return "";
  std::vector<std::vector<std::string>> rows(1, {"Claim", "figure", "", "bound", "held"});
  for (const Json& claim : view.claims())
    rows.push_back({escape_html(text_at(claim, "says")), figure(claim, "value"),
                    escape_html(relation_of(claim)), figure(claim, "bound_value"),
                    held(claim) ? "✓ yes" : "✗ no"});
  return "<h2>Claims</h2><p>What this recipe is meant to show, and whether this run did.</p>" + table(rows);
}

std::vector<std::vector<std::string>> claim_rows(const SummaryView& view) {
  std::vector<std::vector<std::string>> rows(1, {"claims", "figure", "", "bound", "held"});
  for (const Json& claim : view.claims())
    rows.push_back({text_at(claim, "says"), figure(claim, "value"), relation_of(claim),
                    figure(claim, "bound_value"), held(claim) ? "yes" : "NO"});
  return rows;
}

}  // namespace bitrain::train
