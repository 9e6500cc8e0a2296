#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::quant {

enum class QuantType { kNf4, kFp4 };

/// "nf4" or "fp4".
[[nodiscard]] const char* name(QuantType type) noexcept;

struct QuantizeOptions {
  QuantType type = QuantType::kNf4;
  std::int64_t block_size = 64;  ///< A power of two from 32 to 4096.
  bool double_quant = true;      ///< Quantise the block maxima to 8 bits too (QLoRA, Dettmers et al. 2023,
                                 ///< section 3).
};

/// A frozen weight in blocks of 4-bit codes: bitsandbytes' form, bit for bit (docs/formats.md). Blocks run
/// over the elements in row-major order and need not end with the rows.
struct QuantizedTensor {
  QuantType type = QuantType::kNf4;
  std::int64_t block_size = 64;
  std::vector<std::int64_t> shape;    ///< Logical shape, row-major: [out, in] for a linear map.
  at::ScalarType dtype = at::kFloat;  ///< dtype of the weight before quantising, as bitsandbytes records it.
  at::Tensor codes;                   ///< uint8 [ceil(n / 2)], even element in the high nibble.
  at::Tensor absmax;                  ///< float32 [blocks]; undefined with double quantisation.
  at::Tensor absmax_codes;            ///< uint8 [blocks], with double quantisation.
  at::Tensor nested_absmax;           ///< float32 [ceil(blocks / 256)], with double quantisation.
  float nested_offset = 0;            ///< Mean of the block maxima, with double quantisation.

  [[nodiscard]] std::int64_t numel() const;
  [[nodiscard]] std::int64_t blocks() const { return (numel() + block_size - 1) / block_size; }
  [[nodiscard]] bool double_quant() const { return absmax_codes.defined(); }
  /// Bytes of all parts: 4.127 bits a weight with double quantisation at block size 64, else 4.5.
  [[nodiscard]] std::uint64_t nbytes() const;
  [[nodiscard]] at::Device device() const { return codes.device(); }
  [[nodiscard]] QuantizedTensor to(at::Device device) const;
};

/// Throws ConfigError for a block size that is no power of two from 32 to 4096.
void check_block_size(std::int64_t block_size);

/// Throws StateError when the parts of `weight` do not fit its shape, dtypes or one another.
void check(const QuantizedTensor& weight);

/// Quantises a dense floating tensor (float32, bfloat16 or float16; any strides), on its device; on the meta
/// device the result has shapes alone, for reckoning memory. On the CPU
/// bit-exact with bitsandbytes 0.50.2's CPU back end; on CUDA the 8-bit codes of the block maxima and their
/// mean may differ in rare last bits. Throws ConfigError for a bad block size, StateError for an empty tensor
/// or another dtype, DataError for a weight that holds NaN or infinity, or whose block maxima
/// overflow when they are summed for double quantisation.
[[nodiscard]] QuantizedTensor quantize(const at::Tensor& weight, const QuantizeOptions& options = {});

/// Decodes into `dtype` (float32, bfloat16, float16). Writes into `out` when it is defined (same shape, dtype
/// and device, contiguous), else allocates. Throws StateError otherwise, or when the parts do not fit.
at::Tensor dequantize(const QuantizedTensor& weight, at::ScalarType dtype, at::Tensor out = {});

}  // namespace bitrain::quant
