#pragma once

#include <bitrain/nn/functional.h>
#include <bitrain/nn/module.h>

namespace bitrain::nn {

/// Weight and bias of a layer norm ("weight", "bias"), allocated but not filled.
class LayerNorm : public Module {
 public:
  LayerNorm(std::int64_t width, double eps, at::TensorOptions options = {});

  /// x [.., width] -> the same shape.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x) const { return layer_norm(x, weight, bias, eps); }
  /// {x + residual, its norm}.
  [[nodiscard]] std::pair<at::Tensor, at::Tensor> forward(const at::Tensor& x,
                                                          const at::Tensor& residual) const {
    return add_layer_norm(x, residual, weight, bias, eps);
  }

  double eps;
  at::Tensor weight;  ///< [width]
  at::Tensor bias;    ///< [width]
};

}  // namespace bitrain::nn
