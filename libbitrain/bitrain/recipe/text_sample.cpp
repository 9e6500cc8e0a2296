#include <bitrain/recipe/text_sample.h>

#include <algorithm>
#include <cmath>

#include <bitrain/base/error.h>
#include <bitrain/io/line_reader.h>
#include <bitrain/io/unpacked_size.h>

namespace bitrain::recipe {
namespace {

constexpr std::int64_t kRows = 256;
constexpr std::uint64_t kMostBytes = std::uint64_t{4} << 20U;
constexpr double kBytesOfToken = 3.5;

/// Rows of the file, were all as long as the first lines.
std::int64_t rows_of(const data::SourceOptions& options, std::uint64_t file_bytes) {
  io::LineReader reader(options.path);
  std::uint64_t bytes = 0;
  std::int64_t lines = 0;
  for (std::string line; lines < kRows && bytes < kMostBytes && reader.next(line); ++lines)
    bytes += line.size() + 1;
  if (bytes == 0) return 0;
  return std::llround(static_cast<double>(lines) * static_cast<double>(file_bytes) /
                      static_cast<double>(bytes));
}

}  // namespace

std::int64_t TextSample::tokens_of(std::int64_t count,
                                   const std::function<std::int64_t(const Row&)>& tokens) const {
  if (rows.empty()) return 0;
  double sum = 0;
  double squares = 0;
  for (const Row& row : rows) {
    const auto one = static_cast<double>(tokens(row));
    sum += one;
    squares += one * one;
  }
  const auto n = static_cast<double>(rows.size());
  const double mean = sum / n;
  const double variance = std::max(0.0, squares / n - mean * mean);
  const auto wanted = static_cast<double>(count);
  return std::llround(mean * wanted + 2 * std::sqrt(variance * wanted));
}

std::optional<TextSample> sample_text(data::SourceOptions options,
                                      const std::shared_ptr<const text::Tokenizer>& tokenizer) {
  options.max_rows = kRows;
  options.held_out_every = options.held_out_last = 0;
  options.skip_invalid = true;
  const auto count = [&](const std::string& text) -> std::int64_t {
    if (text.empty()) return 0;
    if (!tokenizer) return 2 + static_cast<std::int64_t>(static_cast<double>(text.size()) / kBytesOfToken);
    return static_cast<std::int64_t>(text::encode_framed(*tokenizer, text, kMostBytes).size());
  };
  try {
    const data::SourcePtr source = data::open_source(options);
    TextSample sample;
    sample.file_bytes = io::unpacked_size(options.path);
    sample.file_rows = rows_of(options, sample.file_bytes);
    for (std::int64_t i = 0; i < source->size(); ++i) {
      const data::Example example = source->at(i);
      TextSample::Row row{count(example.text), count(example.pair_text), {}};
      for (const std::string& negative : example.negatives) row.negatives.push_back(count(negative));
      sample.rows.push_back(std::move(row));
      sample.text_bytes += static_cast<double>(example.text.size());
      sample.pair_bytes += static_cast<double>(example.pair_text.size());
    }
    sample.text_bytes /= static_cast<double>(sample.rows.size());
    sample.pair_bytes /= static_cast<double>(sample.rows.size());
    return sample;
  } catch (const std::exception&) {  // Of memory too: a plan is not worth a run.
    return std::nullopt;
  }
}

}  // namespace bitrain::recipe
