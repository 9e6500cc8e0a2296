#pragma once

#include <string>
#include <vector>

#include <bitrain/train/summary_view.h>
#include <bitrain/train/svg_chart.h>

/// Pieces of the report page that its parts share.
namespace bitrain::train {

/// "4.7 %" for 0.047.
[[nodiscard]] std::string percent(double share);
/// One figure with its name above and a note below.
[[nodiscard]] std::string tile(const std::string& label, const std::string& value, const std::string& note);
/// Rows of cells; the first row is the head. Cells are HTML. The row that begins with `chosen` is bold.
[[nodiscard]] std::string table(const std::vector<std::vector<std::string>>& rows,
                                const std::string& chosen = "");

/// Retrieval by pair of languages, with a picture of the similarities before and after; empty when none was
/// scored.
[[nodiscard]] std::string retrieval_section(const SummaryView& view);
/// Retrieval sets, by system; empty when none was searched.
[[nodiscard]] std::string search_section(const SummaryView& view);
/// Hidden words by stage and language; empty when none were predicted.
[[nodiscard]] std::string masked_section(const SummaryView& view);
[[nodiscard]] Chart masked_chart(const SummaryView& view, const std::string& stage,
                                 const nlohmann::ordered_json& evaluations);
/// A table that a stage left in its figures under "tables" (docs/formats.md); the first row is the head.
struct StageTable {
  std::string stage;
  std::string title;
  std::string note;
  std::vector<std::vector<std::string>> rows;
};
[[nodiscard]] std::vector<StageTable> stage_tables(const SummaryView& view);
/// All of them; empty when there are none.
[[nodiscard]] std::string tables_section(const SummaryView& view);
/// What the recipe claims, with figures; empty when it claims nothing.
[[nodiscard]] std::string claims_section(const SummaryView& view);
/// The same as rows of text, the head first.
[[nodiscard]] std::vector<std::vector<std::string>> claim_rows(const SummaryView& view);
[[nodiscard]] std::string retrieval_tiles(const SummaryView& view);
[[nodiscard]] Chart retrieval_chart(const SummaryView& view, const std::string& stage);
/// "English → Spanish" for "en-es".
[[nodiscard]] std::string direction_name(const std::string& pair);

}  // namespace bitrain::train
