#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bitrain::text {

/// A hash table from 64-bit keys to small values: open addressing in one array, since segmenters look up
/// several keys a character. The key ~0 is reserved.
template <class Value>
class PairTable {
 public:
  PairTable() { rehash(16); }

  /// Makes room for `count` keys.
  void reserve(std::size_t count) {
    std::size_t capacity = 16;
    while (capacity < count * 2) capacity *= 2;
    if (capacity > slots_.size()) rehash(capacity);
  }

  /// The value of `key`, made when there is none; `inserted` tells which.
  Value& at_or_insert(std::uint64_t key, bool* inserted = nullptr) {
    if ((size_ + 1) * 2 > slots_.size()) rehash(slots_.size() * 2);
    std::size_t slot = hash(key) & mask_;
    while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = (slot + 1) & mask_;
    const bool is_new = slots_[slot].key == kEmpty;
    if (is_new) {
      slots_[slot].key = key;
      ++size_;
    }
    if (inserted != nullptr) *inserted = is_new;
    return slots_[slot].value;
  }

  [[nodiscard]] const Value* find(std::uint64_t key) const {
    std::size_t slot = hash(key) & mask_;
    while (slots_[slot].key != key) {
      if (slots_[slot].key == kEmpty) return nullptr;
      slot = (slot + 1) & mask_;
    }
    return &slots_[slot].value;
  }

  [[nodiscard]] std::size_t size() const { return size_; }

  static constexpr std::uint64_t pair(std::uint32_t high, std::uint32_t low) {
    return static_cast<std::uint64_t>(high) << 32 | low;
  }

 private:
  static constexpr std::uint64_t kEmpty = ~0ULL;
  struct Slot {
    std::uint64_t key = kEmpty;
    Value value{};
  };

  static std::size_t hash(std::uint64_t key) {
    key *= 0x9E3779B97F4A7C15ULL;
    return static_cast<std::size_t>(key ^ key >> 32);
  }
  void rehash(std::size_t capacity) {
    std::vector<Slot> old(capacity);
    old.swap(slots_);
    mask_ = capacity - 1;
    for (const Slot& slot : old) {
      if (slot.key == kEmpty) continue;
      std::size_t to = hash(slot.key) & mask_;
      while (slots_[to].key != kEmpty) to = (to + 1) & mask_;
      slots_[to] = slot;
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
  std::size_t mask_ = 0;
};

}  // namespace bitrain::text
