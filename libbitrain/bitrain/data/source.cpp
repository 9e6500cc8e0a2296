#include <bitrain/data/source.h>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/data/row_store.h>
#include <bitrain/io/json.h>

namespace bitrain::data {
namespace {

enum class Format { kText, kTsv, kJsonl };

Format format_of(const SourceOptions& options) {
  if (options.format == "text") return Format::kText;
  if (options.format == "tsv") return Format::kTsv;
  if (options.format == "jsonl") return Format::kJsonl;
  if (options.format != "auto") {
    throw ConfigError("unknown format '", options.format, "' of ", options.path,
                      did_you_mean(options.format, {"auto", "text", "tsv", "jsonl"}),
                      "; there are: auto, text, tsv, jsonl");
  }
  std::filesystem::path path(options.path);
  if (path.extension() == ".gz" || path.extension() == ".zst") path = path.stem();
  if (path.extension() == ".tsv") return Format::kTsv;
  if (path.extension() == ".jsonl" || path.extension() == ".ndjson") return Format::kJsonl;
  return Format::kText;
}

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

const std::string& string_at(const io::Json& object, const std::string& key, const std::string& where) {
  if (!object.contains(key) || !object.at(key).is_string()) {
    throw DataError(where, ": '", key, "' is missing or not a string");
  }
  return object.at(key).get_ref<const std::string&>();
}

/// Fills what belongs to the text of a pair.
void read_json_pair(const io::Json& row, const SourceOptions& options, const std::string& where,
                    Example& example) {
  example.pair_text = string_at(row, options.pair_field, where);
  example.pair_language = options.pair_language;
  if (!options.score_field.empty()) {
    if (!row.contains(options.score_field) || !row.at(options.score_field).is_number())
      throw DataError(where, ": '", options.score_field, "' is missing or not a number");
    example.score = row.at(options.score_field).get<double>();
  }
  if (!row.contains(options.negatives_field)) return;
  const io::Json& negatives = row.at(options.negatives_field);
  const io::Json list = negatives.is_array() ? negatives : io::Json::array({negatives});
  for (const io::Json& negative : list) {
    if (!negative.is_string())
      throw DataError(where, ": '", options.negatives_field, "' must be a text or a list of texts");
    example.negatives.push_back(negative.get<std::string>());
  }
}

/// Fills text or messages from one JSON line.
void read_json_row(std::string_view line, const SourceOptions& options, const std::string& where,
                   Example& example) {
  const io::Json row = io::parse_json(line, where);
  if (!row.is_object()) throw DataError(where, ": a JSONL row must be an object {...}");
  if (row.contains(options.messages_field)) {
    const io::Json& messages = row.at(options.messages_field);
    if (!messages.is_array() || messages.empty()) {
      throw DataError(where, ": '", options.messages_field, "' must be a list of {role, content}");
    }
    for (const io::Json& message : messages) {
      if (!message.is_object()) throw DataError(where, ": each message must be an object {role, content}");
      example.messages.push_back({string_at(message, "role", where), string_at(message, "content", where)});
    }
  } else if (row.contains(options.prompt_field)) {
    example.messages = {{"user", string_at(row, options.prompt_field, where)},
                        {"assistant", string_at(row, options.response_field, where)}};
  } else if (row.contains(options.text_field)) {
    example.text = string_at(row, options.text_field, where);
    if (!options.pair_field.empty()) read_json_pair(row, options, where, example);
  } else {
    throw DataError(where, ": has none of the keys '", options.text_field, "', '", options.prompt_field,
                    "', '", options.messages_field, "'; set text_field, prompt_field or messages_field");
  }
}

void check_options(const SourceOptions& options, Format format) {
  if (options.path.empty()) throw ConfigError("a source needs a path");
  if (options.column < 1 || options.pair_column.value_or(1) < 1) {
    throw ConfigError(options.path, ": columns are counted from 1");
  }
  if (options.held_out_last < 0 || options.held_out_every < 0 || options.max_rows < 0 ||
      options.lines_per_document < 0) {
    throw ConfigError(options.path,
                      ": held_out_last, held_out_every, max_rows and lines_per_document must "
                      "not be negative");
  }
  if (options.held_out_last > 0 && options.held_out_every > 0) {
    throw ConfigError(options.path, ": set held_out_last or held_out_every, not both");
  }
  if (options.held_out_every == 1)
    throw ConfigError(options.path, ": held_out_every 1 leaves nothing to train on");
  if (options.pair_column && format != Format::kTsv) {
    throw ConfigError(options.path, ": pair_column is for TSV files; set format to tsv");
  }
  if (!options.pair_field.empty() && format != Format::kJsonl) {
    throw ConfigError(options.path, ": pair_field is for JSONL files; set format to jsonl");
  }
  if (options.lines_per_document != 1 && format == Format::kJsonl)
    throw ConfigError(options.path, ": only plain text and TSV columns can be joined by lines_per_document");
}

/// The name in mixtures and logs: as given, or the language, or the file's.
std::string name_of(const SourceOptions& options) {
  if (!options.name.empty()) return options.name;
  if (!options.language.empty()) return options.language;
  return std::filesystem::path(options.path).filename().string();
}

class FileSource : public Source {
 public:
  FileSource(const SourceOptions& options, Split split, SourceCounts& counts)
      : options_(options),
        format_(format_of(options)),
        name_(name_of(options)),
        rows_((check_options(options, format_), options.path), options.max_rows,
              [&](std::string_view line, std::int64_t number) { return accept(line, number, counts); }) {
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
    const Document document = documents_[static_cast<std::size_t>(index)];
    Example example;
    example.source = name_;
    example.language = options_.language;
    example.id = rows_.line_number(document.first) - 1;
    const std::string_view first = rows_.text(document.first);
    if (format_ == Format::kJsonl) {
      read_json_row(first, options_, place(example.id + 1), example);
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

  std::string place(std::int64_t line) const { return to_text(options_.path, ":", line); }

  std::string_view text_of(std::string_view row) const {
    return format_ == Format::kTsv ? column_of(row, options_.column) : row;
  }

  /// Whether a line is a row. Bad ones throw or are counted.
  bool accept(std::string_view line, std::int64_t number, SourceCounts& counts) const {
    ++counts.rows;
    try {
      if (is_blank(line)) {
        ++counts.blank;
        return false;
      }
      if (check_row(line, number)) return true;
      ++counts.blank;
      return false;
    } catch (const Error&) {
      if (!options_.skip_invalid) throw;
      ++counts.invalid;
      return false;
    }
  }

  /// Whether a good row has text, and a pair text on both sides. Throws for a bad one.
  bool check_row(std::string_view line, std::int64_t number) const {
    if (const std::size_t bad = find_invalid_utf8(line); bad != std::string_view::npos) {
      throw DataError(place(number), ": byte ", bad + 1,
                      " is not UTF-8; convert the file, or set skip_invalid to leave such rows out");
    }
    if (format_ == Format::kTsv) {
      const std::int64_t needed = std::max(options_.column, options_.pair_column.value_or(1));
      if (const std::int64_t there = columns_of(line); there < needed) {
        throw DataError(place(number), ": has ", there, " column", there == 1 ? "" : "s", ", column ", needed,
                        " is asked for; mend the row, or set skip_invalid to leave such rows out");
      }
      return !is_blank(text_of(line)) &&
             !(options_.pair_column && is_blank(column_of(line, *options_.pair_column)));
    }
    if (format_ == Format::kJsonl) {
      Example row;
      read_json_row(line, options_, place(number), row);
      const bool pair = !options_.pair_field.empty() && row.messages.empty();
      return !pair || !(is_blank(row.text) || is_blank(row.pair_text));
    }
    return true;
  }

  bool is_held_out(std::int64_t row) const {
    if (options_.held_out_every > 0) return rows_.line_number(row) % options_.held_out_every == 0;
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
      const std::int64_t line = rows_.line_number(row);
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
    throw DataError("source '", name_, "' (", options_.path, ") has no text", part, ": ", counts.rows,
                    " rows, of which ", counts.blank, " blank, ", counts.invalid, " invalid, ",
                    counts.held_out, " held out");
  }

  SourceOptions options_;
  Format format_;
  std::string name_;
  RowStore rows_;
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

}  // namespace

SourcePtr open_source(const SourceOptions& options, Split split, SourceCounts* counts) {
  SourceCounts found;
  auto source = std::make_shared<FileSource>(options, split, found);
  if (counts != nullptr) *counts = found;
  return source;
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
