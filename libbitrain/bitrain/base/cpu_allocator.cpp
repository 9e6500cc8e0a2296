#include <bitrain/base/cpu_allocator.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/strings.h>

#if defined(__SANITIZE_ADDRESS__)
#define BITRAIN_PLAIN_MALLOC 1  // So that AddressSanitizer sees every tensor on its own.
#endif

namespace bitrain {
namespace {

constexpr std::size_t kLargeBlock = std::size_t{256} << 10;  // From here on blocks come from the arena.
constexpr std::size_t kChunk = std::size_t{2} << 20;    // Unit in which pages are counted and given back.
constexpr std::size_t kGrowth = std::size_t{64} << 20;  // The arena's accessible part grows by this.
constexpr std::size_t kPage = 4096;

std::size_t round_up(std::size_t size, std::size_t unit) {
  return (size + unit - 1) / unit * unit;
}

/// Best fit with coalescing over one range of addresses, reserved once and made accessible as it grows. Freed
/// pages stay: no step pays for their faults again. glibc can be told to do the same (mallopt: no mmap, no
/// trimming), but holds a quarter more memory and has no peaks (docs/performance.md).
class Arena {
 public:
  Arena() {
    const std::size_t memory =
        static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t wanted = round_up(4 * memory, kGrowth);
    void* address =
        mmap(nullptr, wanted + kChunk, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) return;  // As under `ulimit -v`: every block is then malloc's.
    const auto start = reinterpret_cast<std::uintptr_t>(address);
    base_ = static_cast<std::byte*>(address) + (round_up(start, kChunk) - start);
    capacity_ = wanted;
    resident_.resize(capacity_ / kChunk);
  }

  [[nodiscard]] bool owns(const void* block) const {
    const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(block) - base_);
    return base_ != nullptr && offset < capacity_;
  }

  // Null when the arena is full, or the system refuses.
  void* allocate(std::size_t bytes) {
    const std::size_t size = round_up(bytes, kPage);
    const std::scoped_lock lock(mutex_);
    std::size_t offset = 0;
    if (const auto best = free_by_size_.lower_bound({size, 0}); best != free_by_size_.end()) {
      const auto [found_size, found] = *best;
      offset = found;
      erase_free(found, found_size);
      if (found_size > size) insert_free(found + size, found_size - size);
    } else {
      // A free block at the end is extended.
      offset = end_;
      if (const auto last = free_by_offset_.rbegin();
          last != free_by_offset_.rend() && last->first + last->second == end_)
        offset = last->first;
      if (!grow_to(offset + size)) return nullptr;
      if (offset != end_) erase_free(offset, end_ - offset);
      end_ = offset + size;
    }
    used_.emplace(offset, size);
    for (std::size_t chunk = offset / kChunk; chunk <= (offset + size - 1) / kChunk; ++chunk) {
      if (!resident_[chunk]) stats_.reserved += kChunk;
      resident_[chunk] = true;
    }
    stats_.in_use += size;
    stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
    stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
    return base_ + offset;
  }

  void free(void* block) {
    std::size_t offset = static_cast<std::size_t>(static_cast<std::byte*>(block) - base_);
    const std::scoped_lock lock(mutex_);
    const auto used = used_.find(offset);
    std::size_t size = used->second;
    used_.erase(used);
    stats_.in_use -= size;
    const auto next = free_by_offset_.lower_bound(offset);
    if (next != free_by_offset_.begin()) {
      const auto [before, before_size] = *std::prev(next);
      if (before + before_size == offset) {
        erase_free(before, before_size);
        offset = before;
        size += before_size;
      }
    }
    if (const auto after = free_by_offset_.find(offset + size); after != free_by_offset_.end()) {
      const auto [after_offset, after_size] = *after;
      erase_free(after_offset, after_size);
      size += after_size;
    }
    insert_free(offset, size);
  }

  std::uint64_t release_free() {
    const std::scoped_lock lock(mutex_);
    std::uint64_t released = 0;
    for (const auto& [offset, size] : free_by_offset_) {
      const std::size_t last = (offset + size) / kChunk;
      for (std::size_t chunk = round_up(offset, kChunk) / kChunk; chunk < last; ++chunk) {
        if (!resident_[chunk] || madvise(base_ + chunk * kChunk, kChunk, MADV_DONTNEED) != 0) continue;
        resident_[chunk] = false;
        released += kChunk;
      }
    }
    stats_.reserved -= released;
    return released;
  }

  CpuMemory stats() {
    const std::scoped_lock lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    const std::scoped_lock lock(mutex_);
    stats_.peak_in_use = stats_.in_use;
    stats_.peak_reserved = stats_.reserved;
  }

 private:
  bool grow_to(std::size_t needed) {
    if (needed <= accessible_) return true;
    if (needed > capacity_) return false;
    const std::size_t target = round_up(needed, kGrowth);
    if (mprotect(base_ + accessible_, target - accessible_, PROT_READ | PROT_WRITE) != 0) return false;
    accessible_ = target;
    return true;
  }

  void insert_free(std::size_t offset, std::size_t size) {
    free_by_offset_.emplace(offset, size);
    free_by_size_.emplace(size, offset);
  }
  void erase_free(std::size_t offset, std::size_t size) {
    free_by_offset_.erase(offset);
    free_by_size_.erase({size, offset});
  }

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t accessible_ = 0;                                  // Readable and writable from base_.
  std::size_t end_ = 0;                                         // Blocks, used or free, tile [0, end_).
  std::map<std::size_t, std::size_t> used_;                     // Offset to size.
  std::map<std::size_t, std::size_t> free_by_offset_;           // No two are neighbours.
  std::set<std::pair<std::size_t, std::size_t>> free_by_size_;  // Best fit, lowest address first.
  std::vector<bool> resident_;                                  // Chunks that have been given out.
  CpuMemory stats_;
};

// Never destroyed: tensors of static objects are freed after any destructor of ours would have run.
Arena& arena() {
  static auto* const instance = new Arena;
  return *instance;
}

class ArenaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* block = bytes >= kLargeBlock ? arena().allocate(bytes) : nullptr;
    if (block == nullptr) block = from_malloc(bytes);
    return {block, block, &free_block, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* destination, const void* source, std::size_t count) const override {
    default_copy_data(destination, source, count);
  }

 private:
  static void* from_malloc(std::size_t bytes) {
    try {
      return c10::alloc_cpu(bytes);
    } catch (const c10::Error&) {
      const std::uint64_t in_use = arena().stats().in_use;
      throw IoError(out_of_memory(bytes), " (a tensor",
                    in_use > 0 ? "; large tensors hold " + human_bytes(in_use) : "", ")");
    }
  }
  static void free_block(void* block) {
    if (arena().owns(block))
      arena().free(block);
    else
      c10::free_cpu(block);
  }
};

}  // namespace

void install_cpu_allocator() {
  // 1,024 by default: one step of 1,024 pairs in micro-batches peaked 0.2 GiB higher for it.
  (void)setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64", /*replace=*/0);
#ifndef BITRAIN_PLAIN_MALLOC
  static auto* const allocator = new ArenaAllocator;
  c10::SetCPUAllocator(allocator, 255);
#endif
}

CpuMemory cpu_memory() {
  return arena().stats();
}

void reset_peak_cpu_memory() {
  arena().reset_peak();
}

std::uint64_t empty_cpu_cache() {
  return arena().release_free();
}

}  // namespace bitrain
