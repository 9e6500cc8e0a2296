#pragma once

#include <cstdint>
#include <vector>

#include <bitrain/base/rng.h>
#include <bitrain/fields/rule.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct MaskingOptions {
  double share = 0.15;
  std::int64_t max_predictions = 80;
  bool whole_words = true;
  double mask_share = 0.8;
  double random_share = 0.1;
};

template <class Visitor>
void visit_fields(Visitor& v, MaskingOptions& o) {
  v.field("share", o.share, above_up_to(0, 1), "Share of the tokens that are to be predicted.");
  v.field("max_predictions", o.max_predictions, at_least(1), "Most tokens to predict in one text.");
  v.field("whole_words", o.whole_words, any(), "Choose words instead of tokens.");
  v.field("mask_share", o.mask_share, in_range(0, 1),
          "Share of the tokens to predict that become the mask token.");
  v.field("random_share", o.random_share, in_range(0, 1),
          "Share of them that become a random token; the rest stay as they are.");
}

/// Throws ConfigError for shares that are no shares, or that add up to more than 1.
void check(const MaskingOptions& options);

/// Word number of a token that is in no word: a special one.
inline constexpr std::int32_t kNoWord = -1;

/// What masking knows of a tokenizer: its mask token, which ids are special, and which begin a word.
class MaskingVocabulary {
 public:
  /// Words begin where the pieces say so: WordPiece's lack the "##", SentencePiece's have "▁" in front and
  /// byte-level BPE's "Ġ". Pieces of scripts without spaces (Han, Kana, Thai, Lao, Khmer, Burmese) are words
  /// of their own everywhere. Without `whole_words` every token is one. Throws ConfigError for a tokenizer
  /// without mask token, or without ordinary tokens, UnsupportedError for whole words where pieces say
  /// nothing.
  explicit MaskingVocabulary(const text::Tokenizer& tokenizer, bool whole_words = true);

  /// The word of each token, counted from 0, or kNoWord. Special tokens part words. Throws DataError for an
  /// id outside the vocabulary.
  [[nodiscard]] std::vector<std::int32_t> words(const std::vector<text::TokenId>& ids) const;
  [[nodiscard]] text::TokenId mask() const { return mask_; }
  /// The ids that are not special, rising: what a random token is drawn from.
  [[nodiscard]] const std::vector<text::TokenId>& ordinary() const { return ordinary_; }

 private:
  enum class Role : std::uint8_t { kSpecial, kStart, kContinuation };
  std::vector<Role> roles_;
  std::vector<text::TokenId> ordinary_;
  text::TokenId mask_ = 0;
};

struct MaskedTokens {
  std::vector<text::TokenId> ids;     ///< What the model reads.
  std::vector<text::TokenId> labels;  ///< The token that stood there, or kIgnoreIndex.
};

/// Chooses words to predict and hides them (Devlin et al. 2019; whole words as in BERT's later checkpoints
/// and MuRIL): of n tokens in words, at most max(1, round(share * n)) and max_predictions. Words are taken in
/// a random order, each that still fits; where none does, the first of at most max_predictions tokens, or of
/// a longer one as many tokens as may be hidden. Each token of a chosen word, on its own, becomes the mask, a
/// random token, or stays. A pure function of its arguments. `words` as MaskingVocabulary::words gives them.
/// Throws StateError for other lengths.
[[nodiscard]] MaskedTokens mask_words(const std::vector<text::TokenId>& ids,
                                      const std::vector<std::int32_t>& words,
                                      const MaskingVocabulary& vocabulary, const MaskingOptions& options,
                                      RandomStream random);

}  // namespace bitrain::objectives
