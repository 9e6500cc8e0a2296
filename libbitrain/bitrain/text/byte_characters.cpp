#include <bitrain/text/byte_characters.h>

#include <array>

#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

/// GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 up.
struct ByteCharacters {
  std::array<std::uint32_t, 256> characters{};
  std::array<std::int16_t, 512> bytes{};

  ByteCharacters() {
    bytes.fill(-1);
    std::uint32_t next = 256;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      characters[byte] = printable ? byte : next++;
      bytes[characters[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};
const ByteCharacters& byte_characters() {
  static const ByteCharacters kTable;
  return kTable;
}

}  // namespace

std::uint32_t character_of_byte(std::uint8_t byte) {
  return byte_characters().characters[byte];
}

std::optional<std::string> bytes_of_characters(std::string_view text) {
  std::string bytes;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    if (c.code >= 512 || byte_characters().bytes[c.code] < 0) return std::nullopt;
    bytes += static_cast<char>(byte_characters().bytes[c.code]);
    at += c.length;
  }
  return bytes;
}

void put_byte_characters(Rewriter& rewriter, std::string_view text, std::size_t begin, std::size_t end) {
  std::string character;
  for (std::size_t at = begin; at < end; ++at) {
    character.clear();
    append_utf8(character, character_of_byte(static_cast<std::uint8_t>(text[at])));
    rewriter.put(character, at, at + 1);
  }
}

}  // namespace bitrain::text
