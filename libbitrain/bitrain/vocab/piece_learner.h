#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/vocab/plan.h>

namespace bitrain::vocab {

/// A word with its "▁" and how often it occurs.
struct WordCount {
  std::string word;
  std::int64_t count = 0;
};

/// The words of the lines as `tokenizer` normalises them, in order of the text. Throws DataError for a line
/// that is not UTF-8, with its number, and when there are no words.
[[nodiscard]] std::vector<WordCount> count_words(const text::SentencePieceTokenizer& tokenizer,
                                                 const text::NextLine& lines);

/// Characters of the words that `model` has no piece for, most frequent first, as many as coverage asks for.
[[nodiscard]] std::vector<std::string> missing_characters(const text::SpmModel& model,
                                                          const std::vector<WordCount>& words,
                                                          double coverage, std::int64_t min_frequency);

/// Goes on with byte-pair merging from where the BPE model `base` stops: again and again the most frequent
/// string that two neighbouring pieces of a word make becomes a piece. Returns the new pieces in that order
/// (missing characters first), at most options.pieces; appended to `base` with falling scores below its
/// lowest, each is reached. Pieces never mix letters, digits and other characters, nor cross words.
[[nodiscard]] std::vector<std::string> continue_merging(const text::SpmModel& base,
                                                        const std::vector<WordCount>& words,
                                                        const ExtensionOptions& options);

/// `base` with `pieces` appended, scored one by one below its lowest score.
[[nodiscard]] text::SpmModel append_below(const text::SpmModel& base, const std::vector<std::string>& pieces);

}  // namespace bitrain::vocab
