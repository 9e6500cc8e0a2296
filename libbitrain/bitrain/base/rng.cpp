#include <bitrain/base/rng.h>

#include <cmath>

#include <c10/util/Exception.h>

namespace bitrain {

std::array<std::uint32_t, 4> philox4x32(std::uint64_t key, std::uint64_t counter_high,
                                        std::uint64_t counter_low) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53U;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57U;
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32U);
  std::array<std::uint32_t, 4> c = {
      static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32U),
      static_cast<std::uint32_t>(counter_high), static_cast<std::uint32_t>(counter_high >> 32U)};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = kMultiplier0 * c[0];
    const std::uint64_t p1 = kMultiplier1 * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32U) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32U) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

std::uint64_t stream_key(std::uint64_t seed, std::string_view purpose) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;  // FNV-1a, then mixed with the seed through one Philox block
  for (const char c : purpose) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  const auto block = philox4x32(seed, 0x62697472'61696E00ULL, hash);
  return static_cast<std::uint64_t>(block[1]) << 32U | block[0];
}

std::uint32_t RandomStream::next_u32() {
  if (used_ == 4) {
    buffer_ = philox4x32(key_, index_, block_++);
    used_ = 0;
  }
  return buffer_[static_cast<std::size_t>(used_++)];
}

std::uint64_t RandomStream::next_u64() {
  const std::uint64_t low = next_u32();
  return static_cast<std::uint64_t>(next_u32()) << 32U | low;
}

std::uint64_t RandomStream::below(std::uint64_t bound) {
  TORCH_INTERNAL_ASSERT(bound > 0);
  const std::uint64_t rest = -bound % bound;  // 2^64 mod bound values would be favoured
  while (true) {
    const std::uint64_t draw = next_u64();
    if (draw >= rest) return draw % bound;
  }
}

double RandomStream::uniform() {
  return static_cast<double>(next_u64() >> 11U) * 0x1.0p-53;
}

double RandomStream::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
  const double angle = 2.0 * 3.14159265358979323846 * uniform();
  spare_normal_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

std::size_t RandomStream::choice(const std::vector<double>& weights) {
  double total = 0;
  for (const double weight : weights) total += weight;
  TORCH_INTERNAL_ASSERT(total > 0);
  double draw = uniform() * total;
  std::size_t last = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    if (draw < weights[i]) return i;
    draw -= weights[i];
  }
  return last;
}

std::uint64_t permute_index(std::uint64_t key, std::uint64_t size, std::uint64_t index) {
  TORCH_INTERNAL_ASSERT(index < size);
  unsigned half_bits = 1;
  while (half_bits < 32 && (std::uint64_t{1} << (2 * half_bits)) < size) ++half_bits;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  do {
    std::uint64_t left = index >> half_bits;
    std::uint64_t right = index & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t next = (left ^ philox4x32(key, round, right)[0]) & mask;
      left = right;
      right = next;
    }
    index = left << half_bits | right;
  } while (index >= size);
  return index;
}

}  // namespace bitrain
