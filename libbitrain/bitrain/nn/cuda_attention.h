#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::nn {

/// packed_attention (nn/functional.h) on CUDA, by LibTorch's own kernels for packed rows: FlashAttention-2
/// for bfloat16 and float16 heads of at most 256 features, the memory-efficient kernel (Rabe and Staats 2021)
/// for the others. Differentiable. Their gradients are summed in no fixed order: they may differ by rounding
/// from run to run.
[[nodiscard]] at::Tensor cuda_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                        const std::vector<std::int32_t>& boundaries, double scale,
                                        bool causal);

}  // namespace bitrain::nn
