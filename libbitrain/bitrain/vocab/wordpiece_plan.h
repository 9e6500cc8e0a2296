#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/vocab/plan.h>

namespace bitrain::vocab {

/// What extending a WordPiece tokenizer will change. Ids of old pieces stay.
struct WordPiecePlan {
  std::shared_ptr<const text::HfTokenizer> base;
  std::shared_ptr<const text::HfTokenizer> tokenizer;  ///< The extended one.
  std::vector<NewPiece> pieces;       ///< By id, from base->vocab_size() up; spelled with the prefix, "##".
  std::vector<DroppedPiece> dropped;  ///< "rare": longer pieces took its uses; "breaks": a word of the text
                                      ///< could not be cut any more; "exists": an added token is spelled so.

  [[nodiscard]] std::int64_t old_vocab_size() const { return base->vocab_size(); }
  [[nodiscard]] std::int64_t vocab_size() const { return tokenizer->vocab_size(); }
};

/// Learns pieces on the lines of the target language and appends them to `base`. Training goes on as Hugging
/// Face's WordPieceTrainer would, by the most frequent pair of neighbouring pieces within the normalised,
/// pre-tokenised words, but from the words as `base` cuts them, and each time they are cut anew as the
/// tokenizer will: the longest piece from the left. Characters without a piece come first, in both forms. A
/// piece that in the end is used less than min_frequency times gives its place to another. A pure function of
/// its arguments. Warns when the normaliser removes many of the combining marks of the text. Throws
/// UnsupportedError when `base` is not a WordPiece tokenizer, or for the method "merge"; DataError for no
/// lines, for a line that is not UTF-8, and when nothing new is found.
[[nodiscard]] WordPiecePlan plan_wordpiece_extension(const std::shared_ptr<const text::Tokenizer>& base,
                                                     const text::NextLine& lines,
                                                     const ExtensionOptions& options);

/// The plan that leads from `base` to a tokenizer extended before or elsewhere. Throws StateError naming the
/// first piece of `base` that has another id or spelling in `extended`.
[[nodiscard]] WordPiecePlan wordpiece_plan_between(const std::shared_ptr<const text::Tokenizer>& base,
                                                   const std::shared_ptr<const text::Tokenizer>& extended);

}  // namespace bitrain::vocab
