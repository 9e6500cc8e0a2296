#pragma once

#include <cstdint>
#include <vector>

#include <bitrain/data/source.h>

namespace bitrain::data {

/// Where a sentence stands; both count from 0.
struct SentencePlace {
  std::int64_t document = 0;
  std::int64_t sentence = 0;  ///< In its document.

  bool operator==(const SentencePlace&) const = default;
};

struct SentencePair {
  SentencePlace first;
  SentencePlace second;
  bool follows = false;  ///< `second` is the sentence after `first`; else one of another document.
};

/// Pairs for next-sentence prediction (Devlin et al. 2019): every sentence that another follows on is first
/// once an epoch, in a shuffled order; half of the time its second is that other, else a sentence drawn from
/// all other documents. A pure function of (seed, sample), so it may be asked for any sample at any time.
class NextSentencePairs {
 public:
  /// `sentences`: their number in each document. Throws DataError for a negative number, when no document has
  /// two, or when there is no other document to draw from.
  NextSentencePairs(const std::vector<std::int64_t>& sentences, std::uint64_t seed);

  /// Pairs of an epoch.
  [[nodiscard]] std::int64_t size() const { return first_ends_.back(); }
  /// Pair `sample` >= 0 of the run.
  [[nodiscard]] SentencePair at(std::int64_t sample) const;

 private:
  std::vector<std::int64_t> ends_;        ///< Sentences up to the end of each document.
  std::vector<std::int64_t> first_ends_;  ///< Of these, those that another follows on.
  std::uint64_t order_key_;
  std::uint64_t pair_key_;
};

/// Such pairs of the sentences (split_sentences) of `documents`, with the name and language of that source:
/// Example::text, pair_text and follows. Whether a pair follows, and with what, is the same in every epoch.
/// Throws DataError, naming the source, as NextSentencePairs.
[[nodiscard]] SourcePtr next_sentence_source(SourcePtr documents, std::uint64_t seed);

}  // namespace bitrain::data
