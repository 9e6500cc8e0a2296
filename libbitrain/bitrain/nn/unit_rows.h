#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linalg_vector_norm.h>

namespace bitrain::nn {

/// x [.., D] / |x| over the last dimension, as torch.nn.functional.normalize: a zero vector stays zero.
[[nodiscard]] inline at::Tensor unit_rows(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
}

}  // namespace bitrain::nn
