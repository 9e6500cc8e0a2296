#include <bitrain/eval/word_vectors.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/fields/check.h>
#include <bitrain/io/file.h>
#include <bitrain/io/line_reader.h>

namespace bitrain::eval {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSeparators = " \t";
constexpr double kMostReserved = 1U << 28U;  ///< Numbers: what a first line says is not yet there.

/// Cuts the next field off `rest`; "" at the end.
std::string_view next_field(std::string_view& rest) {
  const std::size_t begin = std::min(rest.find_first_not_of(kSeparators), rest.size());
  const std::size_t end = std::min(rest.find_first_of(kSeparators, begin), rest.size());
  const std::string_view field = rest.substr(begin, end - begin);
  rest.remove_prefix(end);
  return field;
}

template <class Number>
std::pair<Number, std::errc> parse(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc{} && end != text.data() + text.size()) return {value, std::errc::invalid_argument};
  return {value, error};
}

/// A finite number; one too small for a float is 0.
std::optional<float> float_of(std::string_view text) {
  const auto [value, error] = parse<float>(text);
  if (error == std::errc{}) return std::isfinite(value) ? std::optional(value) : std::nullopt;
  if (error != std::errc::result_out_of_range) return std::nullopt;
  const auto [wide, still] = parse<double>(text);
  return still == std::errc{} && std::abs(wide) < 1 ? std::optional(0.0F) : std::nullopt;
}

struct Heading {
  std::int64_t words = 0;
  std::int64_t dimension = 0;
};
/// Two whole numbers, alone on their line.
std::optional<Heading> heading_of(std::string_view line) {
  const auto [words, bad_words] = parse<std::int64_t>(next_field(line));
  const auto [dimension, bad_dimension] = parse<std::int64_t>(next_field(line));
  if (bad_words != std::errc{} || bad_dimension != std::errc{} || !next_field(line).empty())
    return std::nullopt;
  return Heading{words, dimension};
}

/// Appends the numbers of `rest` and returns how many they are.
std::int64_t append_numbers(std::string_view rest, std::vector<float>& values, const io::LineReader& reader) {
  std::int64_t count = 0;
  for (std::string_view field = next_field(rest); !field.empty(); field = next_field(rest), ++count) {
    const std::optional<float> value = float_of(field);
    if (!value) throw DataError(reader.where(), ": '", field, "' is no finite number");
    values.push_back(*value);
  }
  return count;
}

/// Rows of a file as they come.
class VectorReader {
 public:
  VectorReader(const fs::path& path, std::int64_t max_words) : reader_(path), max_words_(max_words) {}

  /// Reads the next row and returns its word; nothing at the end of the file.
  std::optional<std::string> next() {
    while (reader_.next(line_)) {
      if (trim(line_).empty() || (reader_.line_number() == 1 && take_heading(line_))) continue;
      std::string_view rest = line_;
      std::string word(next_field(rest));
      const std::int64_t count = append_numbers(rest, *values_, reader_);
      if (dimension_ == 0) dimension_ = count;
      if (count != dimension_ || count == 0)
        throw DataError(reader_.where(), ": '", word, "' has ", count, " numbers, not ",
                        std::max<std::int64_t>(dimension_, 1), " as the first line says");
      ++read_;
      return word;
    }
    if (heading_ && heading_->words != read_)
      throw DataError(reader_.where(), ": the file ends after ", read_, " words; its first line says ",
                      heading_->words);
    return std::nullopt;
  }
  /// Forgets the row that came last.
  void drop() { values_->resize(values_->size() - static_cast<std::size_t>(dimension_)); }

  /// All rows, [N, D]: the tensor keeps the numbers where they were read to.
  [[nodiscard]] at::Tensor vectors() const {
    const auto rows = static_cast<std::int64_t>(values_->size()) / dimension_;
    return at::from_blob(
        values_->data(), {rows, dimension_}, [values = values_](void*) {},
        at::TensorOptions().dtype(at::kFloat));
  }
  [[nodiscard]] std::string where() const { return reader_.where(); }

 private:
  /// False when the line is none.
  bool take_heading(std::string_view line) {
    heading_ = heading_of(line);
    if (!heading_) return false;
    if (heading_->words < 1 || heading_->dimension < 1)
      throw DataError(reader_.where(), ": ", heading_->words, " vectors of ", heading_->dimension,
                      " numbers are none");
    dimension_ = heading_->dimension;
    const std::int64_t words = max_words_ > 0 ? std::min(max_words_, heading_->words) : heading_->words;
    values_->reserve(static_cast<std::size_t>(
        std::min(kMostReserved, static_cast<double>(words) * static_cast<double>(dimension_))));
    return true;
  }

  io::LineReader reader_;
  std::string line_;
  std::int64_t max_words_;
  std::shared_ptr<std::vector<float>> values_ = std::make_shared<std::vector<float>>();
  std::int64_t dimension_ = 0;
  std::optional<Heading> heading_;
  std::int64_t read_ = 0;
};

std::optional<WordPair> pair_of(std::string_view line) {
  const std::size_t tab = line.find('\t');
  if (tab != std::string_view::npos) {
    const std::string_view left = trim(line.substr(0, tab));
    const std::string_view right = trim(line.substr(tab + 1));
    if (left.empty() || right.empty() || right.find('\t') != std::string_view::npos) return std::nullopt;
    return WordPair{std::string(left), std::string(right)};
  }
  const std::string_view left = next_field(line);
  const std::string_view right = next_field(line);
  if (right.empty() || !next_field(line).empty()) return std::nullopt;
  return WordPair{std::string(left), std::string(right)};
}

}  // namespace

WordVectors read_word_vectors(const fs::path& path, const WordVectorOptions& options) {
  check_fields(options, "word vectors: ");
  VectorReader reader(path, options.max_words);
  WordVectors result;
  const auto wanted = [&] {
    return options.max_words == 0 || static_cast<std::int64_t>(result.words.size()) < options.max_words;
  };
  while (wanted()) {
    std::optional<std::string> word = reader.next();
    if (!word) break;
    if (result.rows.emplace(*word, result.words.size()).second) {
      result.words.push_back(std::move(*word));
      continue;
    }
    if (options.duplicates == "error") throw DataError(reader.where(), ": '", *word, "' has come before");
    ++result.duplicates;
    reader.drop();
  }
  if (result.words.empty()) throw DataError(path.string(), ": there are no word vectors");
  result.vectors = reader.vectors();
  return result;
}

void write_word_vectors(const fs::path& path, const WordVectors& vectors) {
  const at::Tensor& table = vectors.vectors;
  if (!table.defined() || table.dim() != 2 || table.scalar_type() != at::kFloat ||
      table.size(0) != static_cast<std::int64_t>(vectors.words.size()))
    throw StateError("word vectors: ", vectors.words.size(),
                     " words go with as many rows of float32, not with these");
  if (!at::isfinite(table).all().item<bool>()) throw DataError("word vectors: a value is NaN or infinity");
  const at::Tensor rows = table.cpu().contiguous();
  const auto* value = rows.const_data_ptr<float>();
  io::AtomicFile file(path);
  std::string text = std::to_string(rows.size(0)) + " " + std::to_string(rows.size(1)) + "\n";
  char number[32];
  for (const std::string& word : vectors.words) {
    if (word.empty() || word.find_first_of(" \t\r\n") != std::string::npos)
      throw DataError("word vectors: the word '", word, "' is empty or has white space in it");
    text += word;
    for (std::int64_t i = 0; i < rows.size(1); ++i, ++value) {
      text += ' ';
      text.append(number, std::to_chars(number, number + sizeof number, *value).ptr);
    }
    text += '\n';
    if (text.size() < std::size_t{1} << 20) continue;
    file.write(text);
    text.clear();
  }
  file.write(text);
  file.commit();
}

std::vector<WordPair> read_dictionary(const fs::path& path) {
  io::LineReader reader(path);
  std::vector<WordPair> pairs;
  for (std::string line; reader.next(line);) {
    if (trim(line).empty()) continue;
    std::optional<WordPair> pair = pair_of(line);
    if (!pair)
      throw DataError(reader.where(), ": not two words parted by a space, or two sides parted by one tab");
    pairs.push_back(std::move(*pair));
  }
  if (pairs.empty()) throw DataError(path.string(), ": there are no pairs");
  return pairs;
}

Lexicon look_up(const std::vector<WordPair>& dictionary, const WordVectors& source,
                const WordVectors& target) {
  std::vector<std::int64_t> sources;
  std::vector<std::int64_t> targets;
  std::unordered_set<std::string> asked;
  std::unordered_set<std::int64_t> covered;
  for (const WordPair& pair : dictionary) {
    asked.insert(pair.source);
    const auto left = source.rows.find(pair.source);
    const auto right = target.rows.find(pair.target);
    if (left == source.rows.end() || right == target.rows.end()) continue;
    sources.push_back(left->second);
    targets.push_back(right->second);
    covered.insert(left->second);
  }
  if (sources.empty())
    throw DataError("dictionary: none of its ", dictionary.size(),
                    " pairs has vectors on both sides; look at the languages' order and at case");
  return {at::tensor(sources), at::tensor(targets), static_cast<std::int64_t>(asked.size()),
          static_cast<std::int64_t>(covered.size())};
}

}  // namespace bitrain::eval
