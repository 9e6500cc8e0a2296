#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

namespace bitrain::train {

/// A run's `summary.json` (docs/formats.md) as one HTML page that needs nothing else: curves per language,
/// mixture shares realised against asked, initialisers and before/after as tables, speed and memory. Parts
/// whose stages the run does not have are left out. Throws FormatError when `summary` is no summary.
[[nodiscard]] std::string render_report(const nlohmann::ordered_json& summary);

/// The same in some lines of plain text for a terminal.
[[nodiscard]] std::string summarise(const nlohmann::ordered_json& summary);

}  // namespace bitrain::train
