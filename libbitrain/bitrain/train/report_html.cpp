#include <bitrain/train/report_html.h>

#include <cmath>

namespace bitrain::train {

std::string percent(double share) {
  return fixed(100 * share, 1) + (std::isfinite(share) ? " %" : "");
}

std::string tile(const std::string& label, const std::string& value, const std::string& note) {
  return "<div class=\"tile\"><span>" + escape_html(label) + "</span><b>" + escape_html(value) +
         "</b><span>" + escape_html(note) + "</span></div>";
}

/// Rows of cells; the first row is the head. Cells are HTML.
std::string table(const std::vector<std::vector<std::string>>& rows, const std::string& chosen) {
  std::string html = "<div class=\"scroll\"><table><thead><tr>";
  for (const std::string& cell : rows.front()) html += "<th>" + cell + "</th>";
  html += "</tr></thead><tbody>";
  for (std::size_t i = 1; i < rows.size(); ++i) {
    html += !chosen.empty() && rows[i].front() == chosen ? "<tr class=\"chosen\">" : "<tr>";
    for (const std::string& cell : rows[i]) html += "<td>" + cell + "</td>";
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

}  // namespace bitrain::train
