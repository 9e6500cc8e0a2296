#pragma once

#include <bitrain/quant/quantized_tensor.h>

namespace bitrain::quant {

/// x [.., in] times the transpose of a 4-bit weight [out, in] -> [.., out], in x's dtype; differentiable in
/// x. The weight is decoded tile by tile, or into one reused scratch buffer, in forward and in backward: no
/// dequantised copy outlives the call.
[[nodiscard]] at::Tensor linear_4bit(const at::Tensor& x, const QuantizedTensor& weight);

}  // namespace bitrain::quant
