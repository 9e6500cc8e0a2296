#pragma once

#include <bitrain/quant/quantized_tensor.h>

namespace bitrain::quant {

/// x [.., in] times the transpose of a 4-bit weight [out, in] -> [.., out], in x's dtype; differentiable in x
/// (twice, too). The weight is decoded into reused scratch memory in forward and again in backward: no
/// dequantised copy outlives the call. Products in x's dtype: float32, bfloat16, float16, or float64 (decoded
/// in float32, for gradient checks). Throws StateError when the shapes do not fit.
[[nodiscard]] at::Tensor linear_4bit(const at::Tensor& x, const QuantizedTensor& weight);

/// A 4-bit weight, decoded into scratch memory for as long as this object lives. Scratch is handed from one
/// user to the next, so the tensor must not be kept, nor saved for backward: use it with gradients off (as
/// inside an autograd Function) and let every product of it be finished or enqueued before the end of scope.
/// Any number may be alive at once, on any threads.
class ScratchWeight {
 public:
  ScratchWeight(const QuantizedTensor& weight, at::ScalarType dtype);
  ~ScratchWeight();
  ScratchWeight(const ScratchWeight&) = delete;
  ScratchWeight& operator=(const ScratchWeight&) = delete;

  /// In the weight's shape, contiguous.
  [[nodiscard]] const at::Tensor& tensor() const { return tensor_; }

 private:
  at::Tensor buffer_;  ///< Bytes borrowed from the pool; undefined on CUDA, whose allocator is a pool.
  at::Tensor tensor_;
};

/// Frees the scratch memory that is not in use now; returns its bytes.
std::uint64_t release_scratch();

}  // namespace bitrain::quant
