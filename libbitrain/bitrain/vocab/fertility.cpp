#include <bitrain/vocab/fertility.h>

#include <string_view>

#include <bitrain/text/characters.h>
#include <bitrain/text/utf8.h>

namespace bitrain::vocab {
namespace {

/// The next run of characters that are not white space, from `at`; empty at the end.
std::string_view next_word(std::string_view text, std::size_t& at) {
  const auto skip = [&](bool space) {
    while (at < text.size()) {
      const text::Utf8Char c = text::utf8_at(text, at);
      if ((text::class_of(c.code) == text::CharacterClass::kSpace) != space) break;
      at += c.length;
    }
  };
  skip(true);
  const std::size_t begin = at;
  skip(false);
  return text.substr(begin, at - begin);
}

/// Whether `at` lies before a character of a valid text, or at its end.
bool between_characters(std::string_view text, std::int32_t at) {
  const auto place = static_cast<std::size_t>(at);
  return place >= text.size() || (static_cast<unsigned char>(text[place]) & 0xC0U) != 0x80U;
}

/// "<0xC3>"
bool names_a_byte(std::string_view piece) {
  return piece.size() == 6 && piece.substr(0, 3) == "<0x" && piece.back() == '>' &&
         piece.substr(3, 2).find_first_not_of("0123456789ABCDEF") == std::string_view::npos;
}

std::int64_t count_byte_tokens(const text::Tokenizer& tokenizer, std::string_view line,
                               const text::Encoding& encoding) {
  constexpr std::int32_t kLongestCharacter = 4;  // A text that reads "<0xC3>" may have a piece of its own.
  std::int64_t count = 0;
  for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
    const auto [begin, end] = encoding.offsets[i];
    count += !between_characters(line, begin) || !between_characters(line, end) ||
             (end - begin <= kLongestCharacter && names_a_byte(tokenizer.id_to_piece(encoding.ids[i])));
  }
  return count;
}

}  // namespace

Fertility measure_fertility(const text::Tokenizer& tokenizer, const text::NextLine& lines) {
  Fertility result;
  for (std::string line; lines(line);) {
    const text::Encoding encoding = tokenizer.encode_with_offsets(line);
    ++result.lines;
    result.bytes += static_cast<std::int64_t>(line.size());
    result.tokens += static_cast<std::int64_t>(encoding.ids.size());
    result.byte_tokens += count_byte_tokens(tokenizer, line, encoding);
    std::size_t token = 0;
    std::size_t at = 0;
    while (true) {
      const std::string_view word = next_word(line, at);
      if (word.empty()) break;
      ++result.words;
      const auto begin = static_cast<std::int32_t>(word.data() - line.data());
      const auto end = begin + static_cast<std::int32_t>(word.size());
      // Tokens that end in the word or after it: a space before the word may belong to its first token.
      while (token < encoding.ids.size() && encoding.offsets[token].end <= begin) ++token;
      std::int64_t inside = 0;
      while (token < encoding.ids.size() && encoding.offsets[token].begin < end) {
        ++inside;
        if (encoding.offsets[token].end > end) break;  // Goes on in the next word.
        ++token;
      }
      result.continued_words += inside > 1;
    }
  }
  return result;
}

}  // namespace bitrain::vocab
