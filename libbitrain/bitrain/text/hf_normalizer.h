#pragma once

#include <memory>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/text/aligned_text.h>

namespace bitrain::text {

/// A "normalizer" of a tokenizer.json: rewrites valid UTF-8 text before it is split.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(AlignedText& text) const = 0;
};

/// All those of `tokenizers` 0.23; null for null. Throws FormatError, UnsupportedError for another type and
/// for an expression that is not taken.
[[nodiscard]] std::unique_ptr<const Normalizer> make_normalizer(const io::Json& json,
                                                                const std::string& where);

}  // namespace bitrain::text
