#include <bitrain/data/source.h>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/row_format.h>
#include <bitrain/data/row_layout.h>
#include <bitrain/data/row_store.h>
#include <bitrain/data/row_values.h>
#include <bitrain/fields/check.h>
#include <bitrain/io/file_kind.h>
#include <bitrain/io/json.h>

namespace bitrain::data {
namespace {

using Rows = RowFormat::Rows;

/// Column `column` (from 1) of a row, or null data when there are fewer.
std::string_view column_of(std::string_view line, std::int64_t column) {
  for (std::int64_t i = 1; i < column; ++i) {
    const std::size_t tab = line.find('\t');
    if (tab == std::string_view::npos) return {};
    line.remove_prefix(tab + 1);
  }
  // Never null, also for an empty cell at the end of the file.
  return line.substr(0, line.find('\t'));
}

std::int64_t columns_of(std::string_view line) {
  return 1 + std::count(line.begin(), line.end(), '\t');
}

bool is_blank(std::string_view text) {
  return trim(text).empty();
}

void check_options(const SourceOptions& options) {
  if (options.path.empty()) throw ConfigError("a source needs a path");
  check_fields(options, options.path + ": ");
  if (options.held_out_last > 0 && options.held_out_every > 0) {
    throw ConfigError(options.path, ": set held_out_last or held_out_every, not both");
  }
  if (options.held_out_every == 1)
    throw ConfigError(options.path, ": held_out_every 1 leaves nothing to train on");
}

/// What only rows of some format can do.
void check_format(const SourceOptions& options, const RowFormat& format) {
  if (options.column != 1 && format.rows != Rows::kTsv)
    throw ConfigError(options.path, ": column ", options.column, " is asked for, but it is ",
                      format.is_json() ? "JSON" : "read as plain text",
                      "; set format to tsv where tabs part its columns");
  if (options.pair_column && format.rows != Rows::kTsv) {
    throw ConfigError(options.path, ": pair_column is for TSV files; set format to tsv");
  }
  const bool fields = !options.pair_field.empty() || !options.text_field.empty() ||
                      !options.prompt_field.empty() || !options.response_field.empty() ||
                      !options.messages_field.empty();
  if (fields && !format.is_json())
    throw ConfigError(options.path, ": ", options.pair_field.empty() ? "keys of rows are" : "pair_field is",
                      " for JSONL files; where it is one, set format to jsonl, else write its rows as JSONL");
  if (options.reads == "conversations" && !format.is_json())
    throw DataError(
        options.path,
        ": is neither called .json or .jsonl nor begins as JSON does; conversations are read from JSON "
        "rows: {\"messages\": [...]}, or {\"prompt\": ..., \"response\": ...}");
  if (options.lines_per_document != 1 && format.is_json())
    throw ConfigError(options.path, ": only plain text and TSV columns can be joined by lines_per_document");
}

/// The name in mixtures and logs: as given, or the language, or the file's.
std::string name_of(const SourceOptions& options) {
  if (!options.name.empty()) return options.name;
  if (!options.language.empty()) return options.language;
  return std::filesystem::path(options.path).filename().string();
}

bool begins_array(std::string_view head) {
  return starts_with(trim(io::without_byte_order_marks(head)), "[");
}

/// The commands that faults of rows advise are for a row a line; those of an array have to be taken out of
/// it.
std::string for_array(std::string fault) {
  constexpr std::string_view kCommand = "jq -c '";
  constexpr std::string_view kEach = ".[] | ";
  for (std::size_t at = fault.find(kCommand); at != std::string::npos; at = fault.find(kCommand, at)) {
    at += kCommand.size();
    fault.insert(at, kEach);
  }
  return fault;
}

/// A row of another layout than those before it.
struct OtherLayout : DataError {
  using DataError::DataError;
};

/// A row of no text at all.
struct NotUtf8 : DataError {
  using DataError::DataError;
};

class FileSource : public Source {
 public:
  FileSource(const SourceOptions& options, Split split, bool pipes, SourceCounts& counts)
      : options_(options),
        name_(name_of(options)),
        rows_((check_options(options), options.path), pipes),
        format_(find_format(options, rows_.head())),
        is_array_(format_.rows == Rows::kJsonValues && begins_array(rows_.head())),
        layout_(named_layout(options)),
        place_(std::make_shared<const std::string>(
            to_text(options.path, format_.rows == Rows::kJsonValues ? ", row " : ":"))) {
    check_format(options, format_);
    const auto accept_row = [&](std::string_view row, std::int64_t number, std::int64_t line) {
      return accept(row, number, line, counts);
    };
    if (format_.rows == Rows::kJsonValues)
      rows_.read_json(options.max_rows, accept_row);
    else
      rows_.read_lines(options.max_rows, accept_row);
    make_documents(split, counts);
    if (documents_.empty()) throw_empty(split, counts);
  }

  const std::string& name() const override { return name_; }
  std::vector<std::string> languages() const override {
    if (!options_.pair_column && options_.pair_field.empty()) return {options_.language};
    return {options_.language, options_.pair_language};
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(documents_.size()); }

  Example at(std::int64_t index) const override {
    if (index < 0 || index >= size()) {
      throw StateError("source '", name_, "' has ", size(), " documents; asked for number ", index);
    }
    rows_.check_unchanged();
    const Document document = documents_[static_cast<std::size_t>(index)];
    Example example;
    example.source = name_;
    example.language = options_.language;
    example.id = rows_.number(document.first) - 1;
    example.place = place_;
    const std::string_view first = rows_.text(document.first);
    if (format_.is_json()) {
      read_row(io::parse_json(first, options_.path), *layout_, options_, example);
      return example;
    }
    for (std::uint32_t i = 0; i < document.count; ++i) {
      if (i > 0) example.text += options_.line_joiner;
      const std::string_view row = rows_.text(document.first + i);
      example.text += text_of(row);
      if (!options_.pair_column) continue;
      if (i > 0) example.pair_text += options_.line_joiner;
      example.pair_text += column_of(row, *options_.pair_column);
    }
    if (options_.pair_column) example.pair_language = options_.pair_language;
    return example;
  }

 private:
  struct Document {
    std::uint32_t first;
    std::uint32_t count;
  };

  std::string_view text_of(std::string_view row) const {
    return format_.rows == Rows::kTsv ? column_of(row, options_.column) : row;
  }

  /// Whether a row is kept. Bad ones throw, with file and line, or are counted.
  bool accept(std::string_view row, std::int64_t number, std::int64_t line, SourceCounts& counts) {
    ++counts.rows;
    std::string fault;
    bool other_form = rows_.size() == 0 && !format_.guessed;
    try {
      if (!is_blank(row) && check_row(row)) return true;
      ++counts.blank;
      return false;
    } catch (const OtherLayout& error) {  // The first row may be the odd one: skipping would take all others.
      throw DataError(options_.path, ":", line, ": ", error.what());
    } catch (const NotUtf8& error) {
      fault = error.what();
      other_form = false;
    } catch (const DataError& error) {
      fault = error.what();
    } catch (const FormatError& error) {  // Of the JSON parser. A broken row does not damage the file.
      fault = error.what();
    }
    if (is_array_) fault = for_array(std::move(fault));
    std::string message = to_text(options_.path, ":", line);
    if (format_.rows == Rows::kJsonValues) message += to_text(" (row ", number, ")");
    message += to_text(": ", fault);
    if (format_.guessed && options_.reads != "conversations")
      message += "; its text begins as JSON does: format text reads it as plain lines";
    if (!options_.skip_invalid) {
      const std::string mend = "mend the row, or set skip_invalid to leave such rows out";
      if (other_form) throw OtherForm(message, mend + "; or the options that say how rows are read");
      throw DataError(message, "; ", mend);
    }
    if (counts.invalid++ == 0) first_fault_ = std::move(message);
    return false;
  }

  /// Whether a good row has text, and a pair text on both sides. Throws for a bad one, without its place.
  bool check_row(std::string_view row) {
    if (const std::size_t bad = find_invalid_utf8(row); bad != std::string_view::npos) {
      throw NotUtf8(
          "byte ", bad + 1,
          " is not UTF-8; where the file is in an older encoding (Windows-1252, Shift-JIS, ...), convert it: "
          "iconv -f ENCODING -t UTF-8 IN > OUT");
    }
    if (format_.is_json()) return check_json(row);
    if (format_.rows == Rows::kText) return true;
    const std::int64_t needed = std::max(options_.column, options_.pair_column.value_or(1));
    if (const std::int64_t there = columns_of(row); there < needed) {
      throw DataError("has ", there, " column", there == 1 ? "" : "s", ", column ", needed, " is asked for");
    }
    return !is_blank(text_of(row)) &&
           !(options_.pair_column && is_blank(column_of(row, *options_.pair_column)));
  }

  bool check_json(std::string_view text) {
    const io::Json row = io::parse_json(text, "");
    if (!row.is_object())
      throw DataError("is ", kind_of_json(row), "; a row must be an object {\"key\": ...}");
    if (!layout_)
      layout_ = layout_of(row, options_);
    else if (layout_->guessed && !layout_->fits(row))
      check_same_layout(row);
    Example example;
    read_row(row, *layout_, options_, example);
    const bool pair = !options_.pair_field.empty() && example.messages.empty();
    return !pair || !(is_blank(example.text) || is_blank(example.pair_text));
  }

  /// Throws where a row is of another layout than those before it. One that lacks a key is left to read_row.
  void check_same_layout(const io::Json& row) const {
    std::optional<RowLayout> other;
    try {
      other = layout_of(row, options_);
    } catch (const DataError&) {
      return;
    }
    throw OtherLayout(
        "has ", other->describe(), ", but the rows before it ", layout_->describe(),
        ": a file is read in one layout; put the rows of each into a file of its own, or name the "
        "keys that count (messages_field, or prompt_field and response_field)");
  }

  bool is_held_out(std::int64_t row) const {
    if (options_.held_out_every > 0) return rows_.number(row) % options_.held_out_every == 0;
    return row >= rows_.size() - options_.held_out_last;
  }

  /// Groups the rows of the split. A document never reaches over a row of the other split or, when documents
  /// are set apart by blank lines, over one of those.
  void make_documents(Split split, SourceCounts& counts) {
    bool open = false;
    std::int64_t previous_line = 0;
    for (std::int64_t row = 0; row < rows_.size(); ++row) {
      const bool held_out = is_held_out(row);
      counts.held_out += held_out ? 1 : 0;
      if (split != Split::kAll && held_out != (split == Split::kHeldOut)) {
        open = false;
        continue;
      }
      const std::int64_t line = rows_.number(row);
      counts.bytes += static_cast<std::int64_t>(text_of(rows_.text(row)).size());
      const bool full =
          open && options_.lines_per_document > 0 && documents_.back().count >= options_.lines_per_document;
      const bool apart = options_.lines_per_document == 0 && line != previous_line + 1;
      if (!open || full || apart) documents_.push_back({static_cast<std::uint32_t>(row), 0});
      ++documents_.back().count;
      open = true;
      previous_line = line;
    }
    documents_.shrink_to_fit();
    counts.documents = size();
  }

  [[noreturn]] void throw_empty(Split split, const SourceCounts& counts) const {
    const char* part = split == Split::kAll     ? ""
                       : split == Split::kTrain ? " for training"
                                                : " held out for evaluation";
    if (counts.rows == 0)
      throw DataError("source '", name_, "' (", options_.path, ") has no text: the file is empty");
    throw DataError("source '", name_, "' (", options_.path, ") has no text", part, ": ", counts.rows,
                    " rows, of which ", counts.blank, " blank, ", counts.invalid, " invalid, ",
                    counts.held_out, " held out",
                    first_fault_.empty() ? "" : "; the first that is invalid: ", first_fault_);
  }

  SourceOptions options_;
  std::string name_;
  RowStore rows_;
  RowFormat format_;
  bool is_array_;                    ///< The rows are in one JSON array.
  std::optional<RowLayout> layout_;  ///< Of JSON rows; the first good one decides where no option does.
  std::shared_ptr<const std::string> place_;
  std::string first_fault_;
  std::vector<Document> documents_;
};

class MemorySource : public Source {
 public:
  MemorySource(std::string name, std::string language, std::vector<Example> examples)
      : name_(std::move(name)), languages_{std::move(language)}, examples_(std::move(examples)) {
    if (examples_.empty()) throw DataError("source '", name_, "' has no examples");
    for (std::size_t i = 0; i < examples_.size(); ++i) {
      Example& example = examples_[i];
      if (example.language.empty()) example.language = languages_.front();
      if (example.source.empty()) example.source = name_;
      example.id = static_cast<std::int64_t>(i);
      add_language(example.language);
      if (!example.pair_text.empty()) add_language(example.pair_language);
    }
  }

  const std::string& name() const override { return name_; }
  std::vector<std::string> languages() const override { return languages_; }
  std::int64_t size() const override { return static_cast<std::int64_t>(examples_.size()); }
  Example at(std::int64_t index) const override { return examples_.at(static_cast<std::size_t>(index)); }

 private:
  void add_language(const std::string& language) {
    if (std::find(languages_.begin(), languages_.end(), language) == languages_.end()) {
      languages_.push_back(language);
    }
  }

  std::string name_;
  std::vector<std::string> languages_;
  std::vector<Example> examples_;
};

SourcePtr open_file(const SourceOptions& options, Split split, bool pipes, SourceCounts* counts) {
  SourceCounts found;
  auto source = std::make_shared<FileSource>(options, split, pipes, found);
  if (counts != nullptr) *counts = found;
  return source;
}

}  // namespace

std::string row_name(const Example& example) {
  return example.place ? to_text(*example.place, example.id + 1)
                       : to_text("row ", example.id + 1, " of source '", example.source, "'");
}

SourcePtr open_source(const SourceOptions& options, Split split, SourceCounts* counts) {
  return open_file(options, split, false, counts);
}

SourcePtr open_source_once(const SourceOptions& options, Split split, SourceCounts* counts) {
  return open_file(options, split, true, counts);
}

SourcePtr make_source(std::string name, std::string language, std::vector<Example> examples) {
  return std::make_shared<MemorySource>(std::move(name), std::move(language), std::move(examples));
}

std::vector<std::string> languages_of(const std::vector<SourcePtr>& sources) {
  std::vector<std::string> result;
  for (const SourcePtr& source : sources) {
    for (std::string& language : source->languages()) {
      if (std::find(result.begin(), result.end(), language) == result.end()) {
        result.push_back(std::move(language));
      }
    }
  }
  return result;
}

std::vector<std::string> texts_of(const Source& source, std::int64_t max_documents) {
  const std::int64_t count = max_documents > 0 ? std::min(max_documents, source.size()) : source.size();
  std::vector<std::string> texts;
  texts.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    Example example = source.at(i);
    if (!example.text.empty()) texts.push_back(std::move(example.text));
  }
  return texts;
}

}  // namespace bitrain::data
