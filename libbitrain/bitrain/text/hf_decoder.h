#pragma once

#include <memory>
#include <string>
#include <vector>

#include <bitrain/io/json.h>

namespace bitrain::text {

/// A "decoder" of a tokenizer.json: turns tokens back into text.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Rewrites the tokens; their concatenation is the text in the end.
  virtual void apply(std::vector<std::string>& tokens) const = 0;
};

/// All those of `tokenizers` 0.23; null for null. Throws FormatError, UnsupportedError for another type.
[[nodiscard]] std::unique_ptr<const Decoder> make_decoder(const io::Json& json, const std::string& where);

}  // namespace bitrain::text
