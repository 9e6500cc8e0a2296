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

}  // namespace

Fertility measure_fertility(const text::Tokenizer& tokenizer, const text::NextLine& lines) {
  Fertility result;
  for (std::string line; lines(line);) {
    const text::Encoding encoding = tokenizer.encode_with_offsets(line);
    ++result.lines;
    result.bytes += static_cast<std::int64_t>(line.size());
    result.tokens += static_cast<std::int64_t>(encoding.ids.size());
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
