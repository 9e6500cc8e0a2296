#include <bitrain/data/row_format.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/json_values.h>
#include <bitrain/io/file_kind.h>

namespace bitrain::data {
namespace {

using Rows = RowFormat::Rows;

/// The name's ending in small letters, before that of a compression.
std::string ending_of(const std::string& name) {
  std::filesystem::path path(lower_ascii(std::filesystem::path(name).filename().string()));
  for (const char* packed : {".gz", ".gzip", ".zst", ".zstd"})
    if (path.extension() == packed) {
      path = path.stem();
      break;
    }
  return path.extension().string();
}

/// Whether the lines of a head are JSON rows: the first, or most of them. What is before a first row, or one
/// broken row, must not make text of the others.
bool holds_json(std::string_view head) {
  if (begins_json(head)) return true;
  std::int64_t rows = 0;
  std::int64_t others = 0;
  while (!head.empty()) {
    const std::size_t end = std::min(head.find('\n'), head.size());
    const std::string_view line = trim(head.substr(0, end));
    if (starts_with(line, "{") && begins_json(line))
      ++rows;
    else if (!line.empty())
      ++others;
    head.remove_prefix(std::min(end + 1, head.size()));
  }
  return rows > others;
}

/// Whether the first line that is not blank has two columns or more.
bool has_tab(std::string_view head) {
  head = head.substr(std::min(head.find_first_not_of("\r\n"), head.size()));
  return head.substr(0, head.find('\n')).find('\t') != std::string_view::npos;
}

RowFormat json_format(std::string_view head, bool guessed) {
  return {is_json_document(head) ? Rows::kJsonValues : Rows::kJsonLines, guessed};
}

void refuse_csv(const SourceOptions& options, const std::string& ending) {
  if (ending != ".csv") return;
  throw DataError(
      options.path,
      ": is CSV by its name, whose commas and quotes would be read as text; write it as JSONL (in "
      "Python: pandas.read_csv(\"in.csv\").to_json(\"out.jsonl\", orient=\"records\", lines=True, "
      "force_ascii=False))",
      options.reads == "conversations" ? ""
                                       : ", or set format: tsv where tabs part its columns, or text "
                                         "where a line is to be read as it is");
}

}  // namespace

RowFormat find_format(const SourceOptions& options, std::string_view head) {
  head = io::without_byte_order_marks(head);
  if (options.format == "text") return {Rows::kText, false};
  if (options.format == "tsv") return {Rows::kTsv, false};
  if (options.format == "jsonl") return json_format(head, false);
  if (options.format != "auto") {
    throw ConfigError("unknown format '", options.format, "' of ", options.path,
                      did_you_mean(options.format, {"auto", "text", "tsv", "jsonl"}),
                      "; there are: auto, text, tsv, jsonl");
  }
  if (const std::optional<io::FileKind> kind = io::marked_up_kind(head))
    throw DataError(options.path, ": is ", kind->name, "; ", kind->remedy,
                    options.reads == "conversations"
                        ? ""
                        : "; or set format: text, where its lines are to be read as they are");
  const std::string ending = ending_of(options.path);
  refuse_csv(options, ending);
  if (ending == ".tsv" && !(begins_json(head) && !has_tab(head))) return {Rows::kTsv, false};
  for (const char* json : {".jsonl", ".ndjson", ".jsonlines", ".json"})
    if (ending == json) return json_format(head, false);
  return holds_json(head) ? json_format(head, true) : RowFormat{};
}

}  // namespace bitrain::data
