#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <bitrain/text/aligned_text.h>

namespace bitrain::text {

/// The character that stands for a byte in byte-level vocabularies (GPT-2): "Ġ" for a space.
[[nodiscard]] std::uint32_t character_of_byte(std::uint8_t byte);
/// The bytes behind such characters, nothing where one is no such character.
[[nodiscard]] std::optional<std::string> bytes_of_characters(std::string_view text);
/// Puts the characters that stand for the bytes [begin, end) of `text`, each in place of its byte.
void put_byte_characters(Rewriter& rewriter, std::string_view text, std::size_t begin, std::size_t end);

}  // namespace bitrain::text
