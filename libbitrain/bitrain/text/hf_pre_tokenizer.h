#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/text/aligned_text.h>

namespace bitrain::text {

/// A text cut into words: ranges of its bytes, from left to right, none empty.
struct Words {
  AlignedText text;
  std::vector<std::pair<std::size_t, std::size_t>> ranges;
  bool at_start = false;  ///< Whether the first byte comes from the first of the input; known when tracked.
};

/// A "pre_tokenizer" of a tokenizer.json: cuts words further; the model never joins across words.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Words& words) const = 0;
  /// Whether the model then works on bytes instead of characters (a ByteLevel that is the last step).
  [[nodiscard]] virtual bool byte_level() const { return false; }
  /// Whether apply reads Words::at_start, so that texts must be tracked (Metaspace, "first").
  [[nodiscard]] virtual bool needs_start() const { return false; }
};

/// All those of `tokenizers` 0.23, in any order; null for null. Throws FormatError, UnsupportedError for
/// another type and for an expression that is not taken.
[[nodiscard]] std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const io::Json& json,
                                                                     const std::string& where);

}  // namespace bitrain::text
