#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/data/source.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::recipe {

/// What the first rows of a file say of all of them.
struct TextSample {
  /// Tokens of a row, with those that frame a text.
  struct Row {
    std::int64_t text = 0;
    std::int64_t pair = 0;                ///< 0: there is none.
    std::vector<std::int64_t> negatives;  ///< Of the hard negatives.
  };
  std::uint64_t file_bytes = 0;  ///< Unpacked.
  std::int64_t file_rows = 0;    ///< An estimate from the bytes of the first ones.
  double text_bytes = 0;         ///< Mean of a row's text,
  double pair_bytes = 0;         ///< and of its pair.
  std::vector<Row> rows;

  /// Tokens of the largest of several steps of `count` rows, where a row has `tokens(row)`: the mean and two
  /// standard deviations. 0 where there are no rows.
  [[nodiscard]] std::int64_t tokens_of(std::int64_t count,
                                       const std::function<std::int64_t(const Row&)>& tokens) const;
};

/// Looks at the first 256 rows. Nothing for a file that cannot be read so: others say what is wrong with it.
/// Without a tokenizer three and a half bytes are a token.
[[nodiscard]] std::optional<TextSample> sample_text(data::SourceOptions options,
                                                    const std::shared_ptr<const text::Tokenizer>& tokenizer);

}  // namespace bitrain::recipe
