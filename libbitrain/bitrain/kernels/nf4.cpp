#include <bitrain/kernels/nf4.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace bitrain::kernels {
#ifdef BITRAIN_HAVE_ISA_generic
const FourBitKernels& four_bit_kernels_generic();
#endif
#ifdef BITRAIN_HAVE_ISA_avx2
const FourBitKernels& four_bit_kernels_avx2();
#endif
#ifdef BITRAIN_HAVE_ISA_avx512
const FourBitKernels& four_bit_kernels_avx512();
#endif

namespace {

FourBitCodebook make_codebook(const std::array<float, 16>& values) {
  FourBitCodebook book{};
  std::array<std::uint8_t, 16> order{};
  for (std::size_t i = 0; i < 16; ++i) {
    book.values[i] = values[i];
    order[i] = static_cast<std::uint8_t>(i);
  }
  // FP4 has two zeros, codes 0 and 8; a stable sort keeps them in this order, as bitsandbytes does.
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] < values[b]; });
  for (std::size_t i = 0; i < 16; ++i) {
    book.order[i] = order[i];
  }
  for (std::size_t i = 0; i < 15; ++i) {
    book.thresholds[i] = (values[order[i]] + values[order[i + 1]]) / 2;
  }
  return book;
}

// Quantiles of the standard normal distribution, with an exact zero (QLoRA, Dettmers et al. 2023, appendix
// E).
FourBitCodebook make_nf4() {
  return make_codebook({-1.0F, -0.6961928009986877F, -0.5250730514526367F, -0.39491748809814453F,
                        -0.28444138169288635F, -0.18477343022823334F, -0.09105003625154495F, 0.0F,
                        0.07958029955625534F, 0.16093020141124725F, 0.24611230194568634F,
                        0.33791524171829224F, 0.44070982933044434F, 0.5626170039176941F, 0.7229568362236023F,
                        1.0F});
}

// One sign, two exponent and one mantissa bit, as multiples of 1 / 12.
FourBitCodebook make_fp4() {
  std::array<float, 16> values = {0, 0.0625F, 8, 12, 4, 6, 2, 3};
  for (std::size_t i = 0; i < 8; ++i) {
    values[i] /= 12;
    values[i + 8] = 0 - values[i];  // The second zero is positive, too.
  }
  return make_codebook(values);
}

// For i in 0..6 the midpoints of 2^i equal intervals of [0.1, 1] times 10^(i - 6), with both signs; 0 and 1.
std::array<float, 256> make_dynamic_map() {
  std::array<float, 256> map{};
  std::size_t size = 0;
  for (int i = 0; i < 7; ++i) {
    const int intervals = 1 << i;
    const float step = (1.0F - 0.1F) / static_cast<float>(intervals);
    // Each half of the interval is counted from its own end, so that both ends are exact, and every point is
    // rounded once: torch.linspace as compiled for AVX2 and AVX-512, to the last bit.
    const auto boundary = [&](int j) {
      return j < (intervals + 1) / 2 ? std::fma(step, static_cast<float>(j), 0.1F)
                                     : std::fma(-step, static_cast<float>(intervals - j), 1.0F);
    };
    const float scale = static_cast<float>(std::pow(10.0, i - 6));
    for (int j = 0; j < intervals; ++j) {
      const float mean = scale * ((boundary(j) + boundary(j + 1)) / 2);
      map[size++] = mean;
      map[size++] = -mean;
    }
  }
  map[size++] = 0.0F;
  map[size++] = 1.0F;
  std::sort(map.begin(), map.end());
  return map;
}

std::array<std::uint8_t, 65536> make_bins() {
  std::array<std::uint8_t, 65536> bins{};
  const float* map = dynamic_map();
  std::size_t code = 0;
  for (std::size_t i = 0; i < bins.size(); ++i) {
    const double value = static_cast<double>(i) * 2.0 / 65535.0 - 1.0;
    while (code < 255 && std::abs(map[code + 1] - value) < std::abs(map[code] - value)) {
      ++code;
    }
    bins[i] = static_cast<std::uint8_t>(code);
  }
  return bins;
}

bool machine_has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool machine_has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
         __builtin_cpu_supports("bmi2");
#else
  return false;
#endif
}

}  // namespace

const FourBitCodebook& four_bit_codebook(FourBitType type) {
  static const FourBitCodebook nf4 = make_nf4();
  static const FourBitCodebook fp4 = make_fp4();
  return type == FourBitType::kNf4 ? nf4 : fp4;
}

const float* dynamic_map() {
  static const std::array<float, 256> map = make_dynamic_map();
  return map.data();
}

const std::uint8_t* dynamic_map_bins() {
  static const std::array<std::uint8_t, 65536> bins = make_bins();
  return bins.data();
}

const FourBitKernels* four_bit_kernels_for(const char* isa) {
#ifdef BITRAIN_HAVE_ISA_avx512
  if (std::strcmp(isa, "avx512") == 0) {
    return machine_has_avx512() ? &four_bit_kernels_avx512() : nullptr;
  }
#endif
#ifdef BITRAIN_HAVE_ISA_avx2
  if (std::strcmp(isa, "avx2") == 0) {
    return machine_has_avx2() ? &four_bit_kernels_avx2() : nullptr;
  }
#endif
#ifdef BITRAIN_HAVE_ISA_generic
  if (std::strcmp(isa, "generic") == 0) {
    return &four_bit_kernels_generic();
  }
#endif
  return nullptr;
}

const FourBitKernels& four_bit_kernels() {
  static const FourBitKernels& kernels = [&]() -> const FourBitKernels& {
    for (const char* isa : {"avx512", "avx2"}) {
      if (const FourBitKernels* table = four_bit_kernels_for(isa)) {
        return *table;
      }
    }
    return *four_bit_kernels_for("generic");
  }();
  return kernels;
}

}  // namespace bitrain::kernels
