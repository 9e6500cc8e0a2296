#include <bitrain/base/printable.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include <bitrain/base/format.h>
#include <bitrain/base/strings.h>

namespace bitrain {
namespace {

/// Whether a character acts on its surroundings: controls (but for new lines and tabs), the separators of
/// lines and paragraphs, embeddings, overrides and isolates of the bidirectional algorithm.
bool acts(std::uint32_t code) {
  return (code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7F && code <= 0x9F) ||
         (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

/// The first character of valid UTF-8, and how many bytes it has.
std::pair<std::uint32_t, std::size_t> first_character(std::string_view text) {
  const auto lead = static_cast<std::uint8_t>(text.front());
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  constexpr std::uint32_t kLeadBits[] = {0x7F, 0x1F, 0x0F, 0x07};
  std::uint32_t code = lead & kLeadBits[length - 1];
  for (std::size_t i = 1; i < length; ++i) code = code << 6U | (static_cast<std::uint8_t>(text[i]) & 0x3FU);
  return {code, length};
}

void append_valid(std::string& to, std::string_view text) {
  while (!text.empty()) {
    const auto [code, length] = first_character(text);
    if (acts(code))
      to += format(code < 0x80 ? "\\x%02x" : "\\u%04x", code);
    else
      to += text.substr(0, length);
    text.remove_prefix(length);
  }
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const std::size_t valid = std::min(find_invalid_utf8(text), text.size());
    append_valid(result, text.substr(0, valid));
    if (valid == text.size()) break;
    result += format("\\x%02x", static_cast<std::uint8_t>(text[valid]));
    text.remove_prefix(valid + 1);
  }
  return result;
}

std::string shortened(std::string_view text, std::size_t most_bytes) {
  if (text.size() <= most_bytes) return std::string(text);
  std::size_t end = most_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return std::string(text.substr(0, end)) + "... (" +
         with_thousands(static_cast<std::int64_t>(text.size() - end)) + " bytes more)";
}

}  // namespace bitrain
