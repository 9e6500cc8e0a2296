#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/data/example.h>
#include <bitrain/fields/rule.h>

namespace bitrain::data {

/// Documents that can be asked for by number, so that a position in them is a counter. Immutable once made:
/// any thread may read.
class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;

  [[nodiscard]] virtual const std::string& name() const = 0;
  /// Every language its examples and their translations may carry. The first is the source's own.
  [[nodiscard]] virtual std::vector<std::string> languages() const = 0;
  /// Number of documents, at least 1.
  [[nodiscard]] virtual std::int64_t size() const = 0;
  /// Document `index` in [0, size).
  [[nodiscard]] virtual Example at(std::int64_t index) const = 0;
};

using SourcePtr = std::shared_ptr<const Source>;

/// Which rows of a file to read. The same options give the same two sets in every stage and process.
enum class Split { kAll, kTrain, kHeldOut };

struct SourceOptions {
  std::string path;
  std::string format = "auto";
  std::string name;
  std::string language;
  std::int64_t column = 1;
  std::optional<std::int64_t> pair_column;
  std::string pair_language;
  std::string text_field;
  std::string pair_field;
  std::string negatives_field = "negatives";
  std::string score_field;
  std::string prompt_field;
  std::string response_field;
  std::string messages_field;
  std::string reads = "any";
  std::vector<std::string> roles;
  std::vector<std::string> learnt_roles;
  std::int64_t lines_per_document = 1;
  std::string line_joiner = "\n";
  std::int64_t held_out_last = 0;
  std::int64_t held_out_every = 0;
  std::int64_t max_rows = 0;
  bool skip_invalid = false;
};

template <class Visitor>
void visit_fields(Visitor& v, SourceOptions& o) {
  v.field("path", o.path, required(not_empty()), "Text, TSV or JSONL file; also as .gz or .zst.");
  v.field("format", o.format, one_of({"auto", "text", "tsv", "jsonl"}),
          "What a row is: a line, columns of one, or JSON objects (one a line, in an array, or one after "
          "another). "
          "auto goes by the name's ending, before .gz or .zst, and else by whether it begins as JSON does.");
  v.field("name", o.name, any(),
          "Name in mixtures and logs; the language where empty, the file's name without either.");
  v.field("language", o.language, any(), "BCP-47 code of the text, for example es.");
  v.field("column", o.column, at_least(1), "TSV: column of the text, from 1.");
  v.field("pair_column", o.pair_column, at_least(1), "TSV: column of the translation, from 1.");
  v.field("pair_language", o.pair_language, any(), "Code of the translation's language.");
  v.field("text_field", o.text_field, any(), "JSONL: key of plain text; empty: text.");
  v.field("pair_field", o.pair_field, any(),
          "JSONL: key of the translation or passage beside the text; empty: there is none.");
  v.field("negatives_field", o.negatives_field, any(),
          "JSONL: key of the hard negatives of a pair, a list or one text; rows may lack it.");
  v.field("score_field", o.score_field, any(),
          "JSONL: key of the number that says how like text and pair are; empty: there is none.");
  v.field(
      "prompt_field", o.prompt_field, any(),
      "JSONL: key of the prompt of a prompt and response; without any of these keys, rows are read in the "
      "layout that the first of them has (messages, conversations, instruction and output, prompt and "
      "completion, ...).");
  v.field("response_field", o.response_field, any(), "JSONL: key of the response.");
  v.field("messages_field", o.messages_field, any(), "JSONL: key of a list of {role, content}.");
  v.field("reads", o.reads, one_of({"any", "text", "conversations"}),
          "JSONL: what is looked for in rows where no key is named; any: conversations before text.");
  v.field("roles", o.roles, any(), "Roles that messages may be of; empty: any.");
  v.field("learnt_roles", o.learnt_roles, any(),
          "Roles whose turns are learnt, so that others may be marked as not to be; empty: any role.");
  v.field("lines_per_document", o.lines_per_document, at_least(0),
          "Consecutive rows joined into one document; 0: text up to a blank line.");
  v.field("line_joiner", o.line_joiner, any(), "What stands between the rows of a document.");
  v.field("held_out_last", o.held_out_last, at_least(0), "Keep the last N rows for evaluation.");
  v.field("held_out_every", o.held_out_every, at_least(0),
          "Keep every k-th row for evaluation (rows k, 2k, ... counted from 1).");
  v.field("max_rows", o.max_rows, at_least(0), "Read no more rows of the file than this; 0: all.");
  v.field(
      "skip_invalid", o.skip_invalid, any(),
      "Count and skip rows that cannot be read: not UTF-8, too few columns, broken JSON, no text where it "
      "should be; otherwise they are errors.");
}

/// Not even the first row can be read: the file is likely of another form than the options say.
struct OtherForm : DataError {
  OtherForm(std::string what_is_wrong, const std::string& advice)
      : DataError(what_is_wrong, "; ", advice), fault(std::move(what_is_wrong)) {}

  std::string fault;  ///< With its place, without the advice.
};

/// What opening a file found.
struct SourceCounts {
  std::int64_t rows = 0;      ///< Rows looked at.
  std::int64_t invalid = 0;   ///< Skipped by skip_invalid.
  std::int64_t blank = 0;     ///< Empty, or with an empty cell or side of a pair.
  std::int64_t held_out = 0;  ///< Valid rows kept for evaluation, whichever split was asked for.
  std::int64_t documents = 0;
  std::int64_t bytes = 0;  ///< Of the rows in this split.
};

/// Reads the index of a file: every row is checked now, so that a bad one stops a run before it starts and
/// not after hours. Plain files are mapped, compressed ones are kept in memory unpacked; a row costs 16 bytes
/// more. `counts` receives what was found.
/// Throws IoError for a missing file, and, here and in Source::at, for one that somebody has written to;
/// DataError, naming file and line, for a row that is not UTF-8, lacks a column or cannot be read in the
/// layout of the rows before it (OtherForm where no row is before it); DataError for a file that is no text
/// (a Parquet file, UTF-16, ...) or a pipe, and for a source or split without documents; ConfigError for
/// options that contradict each other.
[[nodiscard]] SourcePtr open_source(const SourceOptions& options, Split split = Split::kAll,
                                    SourceCounts* counts = nullptr);

/// open_source for callers that read a path once: it may be a pipe, too.
[[nodiscard]] SourcePtr open_source_once(const SourceOptions& options, Split split = Split::kAll,
                                         SourceCounts* counts = nullptr);

/// Examples in memory, for tests and for callers with their own readers. `language` where an example has
/// none.
[[nodiscard]] SourcePtr make_source(std::string name, std::string language, std::vector<Example> examples);

/// The languages of several sources, each once, in order of appearance: what Batch::language_ids index.
[[nodiscard]] std::vector<std::string> languages_of(const std::vector<SourcePtr>& sources);

/// All texts of a source, in order, for tokenizer training and evaluation.
[[nodiscard]] std::vector<std::string> texts_of(const Source& source, std::int64_t max_documents = 0);

}  // namespace bitrain::data
