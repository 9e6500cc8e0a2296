#include <bitrain/hub/finite_weights.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <ATen/Parallel.h>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>

namespace bitrain::hub {
namespace {

constexpr std::int64_t kBlock = 4096;

/// Whether one of kBlock elements has all bits of `exponent` set, as NaN and infinity have. Without a branch
/// and of a fixed length: this becomes vector code.
template <class Bits>
bool has_nonfinite(const Bits* block, Bits exponent) {
  Bits any = 0;
  for (std::int64_t i = 0; i < kBlock; ++i)
    any = static_cast<Bits>(any | static_cast<Bits>((block[i] & exponent) == exponent));
  return any != 0;
}

/// The first such element, or `size`.
template <class Bits>
std::int64_t first_nonfinite(const void* data, std::int64_t size, Bits exponent) {
  const Bits* const bits = static_cast<const Bits*>(data);
  std::atomic<std::int64_t> first{size};
  at::parallel_for(0, size, 64 * kBlock, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < std::min(end, first.load()); block += kBlock) {
      if (block + kBlock <= end && !has_nonfinite(bits + block, exponent)) continue;
      const Bits* const stop = bits + std::min(block + kBlock, end);
      const Bits* const found =
          std::find_if(bits + block, stop, [&](Bits x) { return (x & exponent) == exponent; });
      if (found == stop) continue;
      std::int64_t before = first;
      while (found - bits < before && !first.compare_exchange_weak(before, found - bits)) {
      }
      return;
    }
  });
  return first;
}

std::int64_t first_nonfinite(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble:
      return first_nonfinite<std::uint64_t>(x.const_data_ptr(), x.numel(), 0x7ff0'0000'0000'0000);
    case at::kFloat: return first_nonfinite<std::uint32_t>(x.const_data_ptr(), x.numel(), 0x7f80'0000);
    case at::kBFloat16: return first_nonfinite<std::uint16_t>(x.const_data_ptr(), x.numel(), 0x7f80);
    case at::kHalf: return first_nonfinite<std::uint16_t>(x.const_data_ptr(), x.numel(), 0x7c00);
    default: return x.is_floating_point() ? first_nonfinite(x.to(at::kFloat)) : x.numel();
  }
}

}  // namespace

void check_finite(const at::Tensor& stored, const std::string& file, const std::string& name) {
  const at::Tensor flat = stored.detach().reshape(-1).contiguous();
  const std::int64_t first = first_nonfinite(flat);
  if (first == flat.numel()) return;
  throw DivergedError(file, ": ", name, " holds ", flat[first].item<double>(), " at element ", first, " of ",
                      flat.numel(), ": the weights are damaged, or those of a training that diverged");
}

}  // namespace bitrain::hub
