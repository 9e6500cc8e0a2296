#pragma once

#include <ATen/core/Tensor.h>

namespace bitrain::nn {

/// A function of each element alone.
enum class Activation { kIdentity, kGelu, kGeluTanh, kRelu, kTanh, kSigmoid };

[[nodiscard]] at::Tensor activate(const at::Tensor& x, Activation activation);

}  // namespace bitrain::nn
