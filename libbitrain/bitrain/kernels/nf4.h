#pragma once

#include <cstdint>

namespace bitrain::kernels {

/// The 4-bit code books. Both number their 16 values as bitsandbytes does.
enum class FourBitType : std::int32_t { kNf4 = 0, kFp4 = 1 };

/// What the decoded side is made of.
enum class FloatType : std::int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

/// Blocks of statistics share one scale in double quantisation.
inline constexpr std::int64_t kNestedBlockSize = 256;

/// Scales of the blocks: either `absmax`, or the nested form with `absmax` null. Block b has the scale
/// absmax[b], or fl(fl(map8[absmax_codes[b]] * nested_absmax[b / 256]) + nested_offset).
struct BlockScales {
  const float* absmax = nullptr;
  const std::uint8_t* absmax_codes = nullptr;
  const float* nested_absmax = nullptr;
  float nested_offset = 0;
};

/// CPU kernels of 4-bit quantisation, compiled once for each instruction set. Every table gives the same
/// bytes, those of bitsandbytes 0.50.2 on the CPU. Blocks run over n elements in storage order; `block_size`
/// is a multiple of 32. Two codes share a byte, the even element in its high half; an odd n is padded by the
/// code of zero. They run on the threads of OpenMP.
struct FourBitKernels {
  const char* isa;

  /// x [n] -> codes [ceil(n / 2)], absmax [ceil(n / block_size)]. Returns -1, or the index of a block that
  /// holds NaN or infinity (the outputs are then worthless).
  std::int64_t (*quantize)(FourBitType type, FloatType x_type, const void* x, std::int64_t n,
                           std::int64_t block_size, std::uint8_t* codes, float* absmax);

  /// codes [ceil(n / 2)] -> y [n]: the fp32 product of code value and scale, rounded once to `y_type` (to
  /// nearest, ties to even).
  void (*dequantize)(FourBitType type, const std::uint8_t* codes, const BlockScales& scales, std::int64_t n,
                     std::int64_t block_size, FloatType y_type, void* y);

  /// Double quantisation of block maxima: absmax [n] minus `offset` -> codes [n], nested_absmax [ceil(n /
  /// 256)].
  void (*quantize_absmax)(const float* absmax, std::int64_t n, float offset, std::uint8_t* codes,
                          float* nested_absmax);

  /// The inverse: scales [n] in fp32.
  void (*restore_absmax)(const BlockScales& scales, std::int64_t n, float* absmax);
};

/// The table for this machine: avx512, avx2 or generic.
[[nodiscard]] const FourBitKernels& four_bit_kernels();

/// The table of that name, or null where this build or this machine lacks it. For tests.
[[nodiscard]] const FourBitKernels* four_bit_kernels_for(const char* isa);

/// Constants that every table and the CUDA library share, computed once (nf4.cpp).
struct FourBitCodebook {
  float values[16];        ///< Decoded value of each code.
  float thresholds[15];    ///< Ascending midpoints; a value above a threshold (strictly) passes it.
  std::uint8_t order[16];  ///< Code for the number of thresholds passed (identity for NF4).
};
[[nodiscard]] const FourBitCodebook& four_bit_codebook(FourBitType type);

/// The signed dynamic 8-bit map of Dettmers et al. (2022, "8-bit Optimizers via Block-wise Quantization"),
/// ascending [256].
[[nodiscard]] const float* dynamic_map();

/// The nearest code of `dynamic_map` for each of 65,536 equal steps over [-1, 1]: bitsandbytes' CPU back end
/// rounds through such a table.
[[nodiscard]] const std::uint8_t* dynamic_map_bins();

}  // namespace bitrain::kernels
