#pragma once

#include <string_view>

#include <bitrain/data/source.h>

namespace bitrain::data {

/// What the rows of a file are.
struct RowFormat {
  enum class Rows {
    kText,        ///< Lines.
    kTsv,         ///< Lines with tabs between the columns.
    kJsonLines,   ///< A JSON object a line.
    kJsonValues,  ///< JSON objects in an array, or one after another over any number of lines.
  };
  Rows rows = Rows::kText;
  bool guessed = false;  ///< JSON by its content alone: neither the name nor an option says so.

  [[nodiscard]] bool is_json() const { return rows == Rows::kJsonLines || rows == Rows::kJsonValues; }
};

/// The format that the options name; for auto what the name's ending says (in any case of letters, before .gz
/// or .zst): .tsv (unless it begins as JSON does and has no tab), or .jsonl, .ndjson, .jsonlines, .json; for other names JSON where the content is, else
/// lines. `head` is io::ByteReader::head. Throws ConfigError for an unknown format, and for auto DataError
/// where a file is CSV by its name or HTML, XML, PDF and the like by its content.
[[nodiscard]] RowFormat find_format(const SourceOptions& options, std::string_view head);

}  // namespace bitrain::data
