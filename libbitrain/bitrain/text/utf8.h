#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bitrain::text {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";    ///< "▁" (U+2581).
inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  ///< U+FFFD.

/// One character of a text.
struct Utf8Char {
  std::uint32_t code = 0;    ///< U+FFFD when not valid.
  std::uint32_t length = 1;  ///< In bytes; 1 when not valid.
  bool valid = true;
};

/// The character at `at` < text.size(). Overlong forms, surrogates and truncation are not valid.
[[nodiscard]] inline Utf8Char utf8_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return at + i < text.size() ? static_cast<std::uint8_t>(text[at + i]) : 0U;
  };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  if (lead >= 0xC2 && lead < 0xE0 && follows(1)) return {(lead & 0x1FU) << 6 | (byte(1) & 0x3FU), 2, true};
  if (lead >= 0xE0 && lead < 0xF0 && follows(1) && follows(2)) {
    const std::uint32_t code = (lead & 0x0FU) << 12 | (byte(1) & 0x3FU) << 6 | (byte(2) & 0x3FU);
    if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) return {code, 3, true};
  }
  if (lead >= 0xF0 && lead < 0xF5 && follows(1) && follows(2) && follows(3)) {
    const std::uint32_t code =
        (lead & 0x07U) << 18 | (byte(1) & 0x3FU) << 12 | (byte(2) & 0x3FU) << 6 | (byte(3) & 0x3FU);
    if (code >= 0x10000 && code < 0x110000) return {code, 4, true};
  }
  return {0xFFFD, 1, false};
}

/// Appends the UTF-8 form of `code` (a scalar value).
inline void append_utf8(std::string& text, std::uint32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xC0U | code >> 6);
    text += static_cast<char>(0x80U | (code & 0x3FU));
  } else if (code < 0x10000) {
    text += static_cast<char>(0xE0U | code >> 12);
    text += static_cast<char>(0x80U | (code >> 6 & 0x3FU));
    text += static_cast<char>(0x80U | (code & 0x3FU));
  } else {
    text += static_cast<char>(0xF0U | code >> 18);
    text += static_cast<char>(0x80U | (code >> 12 & 0x3FU));
    text += static_cast<char>(0x80U | (code >> 6 & 0x3FU));
    text += static_cast<char>(0x80U | (code & 0x3FU));
  }
}

/// Number of characters of a valid text.
[[nodiscard]] inline std::int64_t utf8_length(std::string_view text) {
  std::int64_t count = 0;
  for (const char c : text) count += (static_cast<std::uint8_t>(c) & 0xC0U) != 0x80U;
  return count;
}

/// `bytes` with every byte that is not part of a character replaced by U+FFFD.
[[nodiscard]] inline std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const Utf8Char c = utf8_at(bytes, at);
    text += c.valid ? bytes.substr(at, c.length) : kReplacement;
    at += c.length;
  }
  return text;
}

}  // namespace bitrain::text
