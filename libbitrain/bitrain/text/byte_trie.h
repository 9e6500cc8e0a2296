#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <bitrain/text/pair_table.h>

namespace bitrain::text {

/// Finds which of many strings begin at a place of a text.
class ByteTrie {
 public:
  ByteTrie() : values_(1, -1) { root_.fill(0); }

  /// Adds `key` (not empty) with a value >= 0; the last value of a key counts.
  void add(std::string_view key, std::int32_t value) {
    std::uint32_t node = 0;
    for (const char c : key) {
      const auto byte = static_cast<std::uint8_t>(c);
      std::uint32_t& child =
          node == 0 ? root_[byte] : edges_.at_or_insert(PairTable<std::uint32_t>::pair(node, byte));
      if (child == 0) {
        child = static_cast<std::uint32_t>(values_.size());
        values_.push_back(-1);
      }
      node = child;
    }
    values_[node] = value;
  }

  /// Forgets `key`, if it is one.
  void remove(std::string_view key) {
    std::uint32_t node = 0;
    for (const char c : key) {
      const auto byte = static_cast<std::uint8_t>(c);
      const std::uint32_t* child =
          node == 0 ? &root_[byte] : edges_.find(PairTable<std::uint32_t>::pair(node, byte));
      if (child == nullptr || *child == 0) return;
      node = *child;
    }
    values_[node] = -1;
  }

  [[nodiscard]] bool empty() const { return values_.size() == 1; }

  /// Calls `found(length, value)` for each key that begins at `at`, shortest first.
  template <class Found>
  void prefixes(std::string_view text, std::size_t at, Found&& found) const {
    std::uint32_t node = 0;
    for (std::size_t i = at; i < text.size(); ++i) {
      const auto byte = static_cast<std::uint8_t>(text[i]);
      if (node == 0) {
        node = root_[byte];
        if (node == 0) return;
      } else {
        const std::uint32_t* child = edges_.find(PairTable<std::uint32_t>::pair(node, byte));
        if (child == nullptr) return;
        node = *child;
      }
      if (values_[node] >= 0) found(i + 1 - at, values_[node]);
    }
  }

  /// Length and value of the longest key that begins at `at`; length 0 when there is none.
  [[nodiscard]] std::pair<std::size_t, std::int32_t> longest(std::string_view text, std::size_t at) const {
    std::pair<std::size_t, std::int32_t> best{0, -1};
    prefixes(text, at, [&](std::size_t length, std::int32_t value) { best = {length, value}; });
    return best;
  }

 private:
  std::array<std::uint32_t, 256> root_;  ///< Children of node 0; 0 means none.
  PairTable<std::uint32_t> edges_;
  std::vector<std::int32_t> values_;
};

}  // namespace bitrain::text
