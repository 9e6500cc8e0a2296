#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include <bitrain/text/pair_table.h>

namespace bitrain::text {

/// Byte-pair merging (Sennrich et al. 2016) over numbered symbols: of all neighbours that have a merge, the
/// one of lowest rank, leftmost first, becomes one symbol, until none has.
class BpeMerger {
 public:
  /// A symbol that takes part in no merge. Greater numbers are not allowed.
  static constexpr std::uint32_t kNoSymbol = std::numeric_limits<std::uint32_t>::max() - 1;

  /// Neighbours `left` and `right` become `result`. The last merge given for a pair counts.
  void add(std::uint32_t left, std::uint32_t right, std::uint32_t rank, std::uint32_t result);
  void reserve(std::size_t count) { merges_.reserve(count); }
  [[nodiscard]] std::size_t size() const { return merges_.size(); }

  /// A symbol of a word and the bytes it covers.
  struct Symbol {
    std::uint32_t id = 0;
    std::uint32_t length = 0;
  };
  /// Merges `word` in place. O(n log n).
  void merge(std::vector<Symbol>& word) const;

  struct Merge {
    std::uint32_t rank = std::numeric_limits<std::uint32_t>::max();
    std::uint32_t result = 0;
  };
  [[nodiscard]] const Merge* find(std::uint32_t left, std::uint32_t right) const {
    return merges_.find(PairTable<Merge>::pair(left, right));
  }

 private:
  void merge_short(std::vector<Symbol>& word) const;
  void merge_long(std::vector<Symbol>& word) const;

  PairTable<Merge> merges_;
};

}  // namespace bitrain::text
