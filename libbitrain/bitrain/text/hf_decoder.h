#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
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

/// ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace, WordPiece, Sequence; null for null. Throws
/// FormatError, UnsupportedError for another type.
[[nodiscard]] std::unique_ptr<const Decoder> make_decoder(const io::Json& json, const std::string& where);

/// The character that stands for a byte in byte-level vocabularies (GPT-2): "Ġ" for a space.
[[nodiscard]] std::uint32_t character_of_byte(std::uint8_t byte);
/// The bytes behind such characters, nothing where one is no such character.
[[nodiscard]] std::optional<std::string> bytes_of_characters(std::string_view text);

}  // namespace bitrain::text
