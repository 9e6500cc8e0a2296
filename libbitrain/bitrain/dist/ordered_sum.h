#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::dist {

/// The sum of tensors of one shape and type, one after the other: ((a + b) + c) + ... 16-bit ones are summed
/// in float32 and rounded once. What every CPU backend sums by, so that results do not depend on the backend.
[[nodiscard]] at::Tensor ordered_sum(const std::vector<at::Tensor>& tensors);
/// The same into `sum`, which may be one of them; all flat and contiguous.
void ordered_sum(const std::vector<at::Tensor>& tensors, at::Tensor sum);

}  // namespace bitrain::dist
