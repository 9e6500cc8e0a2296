#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/data/next_sentence.h>

namespace bitrain::data {

/// The sentences of a document, trimmed, none empty. Where it has line breaks these are its lines. Else it is
/// parted after each run of . ! ? … or what other scripts have for them (؟ ۔ । ॥ ። ။ ។ ։ and more), with the
/// quotes and brackets that close behind it, where white space and no small letter follows; 。 ！ ？ ｡ need
/// no space. A full stop after a single letter is an initial's. Texts of scripts without such marks, as Thai,
/// stay whole.
[[nodiscard]] std::vector<std::string> split_sentences(std::string_view document);

/// A sentence and one near it, in the same document.
struct WindowPair {
  SentencePlace centre;
  SentencePlace context;

  bool operator==(const WindowPair&) const = default;
};

/// Pairs for contrastive context prediction (CCP, Wu et al. 2022): every sentence that has a neighbour is the
/// centre once an epoch, in a shuffled order; its context is drawn evenly from the sentences at most `window`
/// places before or after it, never itself. A pure function of (seed, sample); within an epoch the context
/// depends on the centre's place alone, not on the order.
class SentenceWindows {
 public:
  /// `sentences`: their number in each document. Throws ConfigError for a window below 1; DataError for a
  /// negative number, or when no document has two.
  SentenceWindows(const std::vector<std::int64_t>& sentences, std::int64_t window, std::uint64_t seed);

  /// Pairs of an epoch.
  [[nodiscard]] std::int64_t size() const { return ends_.back(); }
  /// Documents passed over, since they have fewer than two sentences.
  [[nodiscard]] std::int64_t skipped() const { return skipped_; }
  /// Pair `sample` >= 0 of the run.
  [[nodiscard]] WindowPair at(std::int64_t sample) const;

 private:
  std::vector<std::int64_t> ends_;  ///< Centres up to the end of each document.
  std::int64_t window_;
  std::int64_t skipped_ = 0;
  std::uint64_t order_key_;
  std::uint64_t context_key_;
};

}  // namespace bitrain::data
