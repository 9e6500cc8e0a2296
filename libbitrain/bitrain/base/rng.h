#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace bitrain {

/// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a pure function from
/// (key, counter) to 128 random bits. Everything random in bitrain is such a function, so a run can be
/// resumed at any point, on any number of ranks, with nothing to save but counters.
[[nodiscard]] std::array<std::uint32_t, 4> philox4x32(std::uint64_t key, std::uint64_t counter_high,
                                                      std::uint64_t counter_low);

/// Key of the stream for `purpose` under `seed`: streams of different purposes never share draws.
[[nodiscard]] std::uint64_t stream_key(std::uint64_t seed, std::string_view purpose);

/// A sequence of draws at one point (seed, purpose, index); `index` is a sample, step or row number.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::string_view purpose, std::uint64_t index = 0)
      : RandomStream(stream_key(seed, purpose), index) {}
  RandomStream(std::uint64_t key, std::uint64_t index) : key_(key), index_(index) {}

  std::uint32_t next_u32();
  std::uint64_t next_u64();
  /// Uniform in [0, bound), without bias. `bound` > 0.
  std::uint64_t below(std::uint64_t bound);
  /// Uniform in [0, 1) with 53 bits.
  double uniform();
  /// Standard normal (Box-Muller, both values used).
  double normal();
  /// Index drawn with probability proportional to `weights` (non-negative, positive sum).
  std::size_t choice(const std::vector<double>& weights);

 private:
  std::uint64_t key_;
  std::uint64_t index_;
  std::uint64_t block_ = 0;
  std::array<std::uint32_t, 4> buffer_{};
  int used_ = 4;
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

/// Element `index` of a random permutation of [0, size) that depends on `key` alone: a Feistel network with
/// cycle walking, so that a shuffled corpus of any size needs no memory and any position can be asked for
/// directly.
[[nodiscard]] std::uint64_t permute_index(std::uint64_t key, std::uint64_t size, std::uint64_t index);

}  // namespace bitrain
