#pragma once

#include <cstdint>

#include <bitrain/text/spm_trainer.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::vocab {

/// How finely a tokenizer cuts a text (Rust et al. 2021, "How good is your tokenizer?").
struct Fertility {
  std::int64_t lines = 0;
  std::int64_t bytes = 0;
  std::int64_t words = 0;            ///< Runs of characters between white space.
  std::int64_t continued_words = 0;  ///< Words of two tokens or more.
  std::int64_t tokens = 0;
  /// Tokens that are no whole characters: pieces of byte fallback ("<0xC3>"), and pieces of byte-level
  /// vocabularies that begin or end inside a character.
  std::int64_t byte_tokens = 0;

  [[nodiscard]] double tokens_per_word() const { return ratio(tokens, words); }
  [[nodiscard]] double bytes_per_token() const { return ratio(bytes, tokens); }
  [[nodiscard]] double continued_share() const { return ratio(continued_words, words); }
  /// Share of the tokens that spell characters byte by byte, for want of a piece.
  [[nodiscard]] double byte_share() const { return ratio(byte_tokens, tokens); }
  /// Words per token: Bailong's "tokenizer efficiency".
  [[nodiscard]] double efficiency() const { return ratio(words, tokens); }

 private:
  static double ratio(std::int64_t a, std::int64_t b) {
    return b == 0 ? 0.0 : static_cast<double>(a) / static_cast<double>(b);
  }
};

/// Over all the lines. Languages written without spaces have whole clauses as words: compare bytes per token.
[[nodiscard]] Fertility measure_fertility(const text::Tokenizer& tokenizer, const text::NextLine& lines);

}  // namespace bitrain::vocab
