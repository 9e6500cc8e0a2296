#include <bitrain/text/lexical_words.h>

#include <utf8proc.h>

#include <utility>

#include <bitrain/text/characters.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

/// Scripts that are written without spaces: a word would be a sentence.
bool stands_alone(std::uint32_t code) {
  return (code >= 0x3040 && code <= 0x30FF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0xF900 && code <= 0xFAFF) ||
         (code >= 0x20000 && code <= 0x3FFFF);
}

bool is_part(std::uint32_t code) {
  const CharacterClass kind = class_of(code);
  return kind == CharacterClass::kLetter || kind == CharacterClass::kMark || kind == CharacterClass::kDigit;
}

}  // namespace

std::vector<std::string> lexical_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  const auto finish = [&] {
    if (!word.empty()) words.push_back(std::exchange(word, {}));
  };
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    at += c.length;
    if (!c.valid || !is_part(c.code)) {
      finish();
      continue;
    }
    if (stands_alone(c.code)) finish();
    utf8proc_uint8_t bytes[4];
    const auto lower = utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code));
    const auto length = utf8proc_encode_char(lower, bytes);
    word.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(length));
    if (stands_alone(c.code)) finish();
  }
  finish();
  return words;
}

}  // namespace bitrain::text
