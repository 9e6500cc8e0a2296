#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::optim {

/// The 2-norm of all tensors together, summed in double on the CPU (fixed order) and in float32 on a GPU.
/// Undefined tensors count as zero. NaN or infinity where an element is: check with std::isfinite.
[[nodiscard]] double global_norm(const std::vector<at::Tensor>& tensors);

/// What gradients of global norm `norm` are multiplied by so that it does not exceed `max_norm`; 1 when
/// `max_norm` is 0 (no clipping). As torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6)).
[[nodiscard]] double clip_factor(double norm, double max_norm);

}  // namespace bitrain::optim
