#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::quant {

enum class QuantType { kNf4, kFp4 };

struct QuantizeOptions {
  QuantType type = QuantType::kNf4;
  std::int64_t block_size = 64;
  bool double_quant =
      true;  ///< Quantise the block maxima to 8 bits too (QLoRA, Dettmers et al. 2023, section 3).
};

/// A frozen weight in blocks of 4-bit codes: bitsandbytes' form, bit for bit (docs/formats.md).
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
  [[nodiscard]] std::uint64_t nbytes() const;
  [[nodiscard]] QuantizedTensor to(at::Device device) const;
};

/// Quantises a dense floating tensor (float32, bfloat16 or float16), on its device. Bit-exact with
/// bitsandbytes' CPU back end on CPU. Throws ConfigError for a block size that is no power of two in [64,
/// 4096] (32 to 4096 as bitsandbytes).
[[nodiscard]] QuantizedTensor quantize(const at::Tensor& weight, const QuantizeOptions& options = {});

/// Decodes into `dtype`. Writes into `out` when it is defined (same shape and dtype), else allocates.
[[nodiscard]] at::Tensor dequantize(const QuantizedTensor& weight, at::ScalarType dtype, at::Tensor out = {});

}  // namespace bitrain::quant
