#pragma once

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>

#include <bitrain/nn/module.h>

namespace bitrain::nn {

/// The learnable scale of similarities, exp(min(log_scale, log 100)), that starts at 1 / 0.07 (CLIP, Radford
/// et al. 2021). Saved as "logit_scale".
class LogitScale : public Module {
 public:
  static constexpr double kInitial = 1 / 0.07;
  static constexpr double kLargest = 100;

  explicit LogitScale(at::TensorOptions options = {}) : log_scale(at::full({}, std::log(kInitial), options)) {
    register_tensor("logit_scale", log_scale);
  }

  /// [] with a gradient up to the bound; none beyond it.
  [[nodiscard]] at::Tensor value() const { return log_scale.clamp_max(largest_log()).exp(); }

  /// Brings a parameter that a step has taken beyond the bound back to it, where it has a gradient: call it
  /// after each step, or it would stay there for good.
  void clamp() {
    const at::NoGradGuard no_grad;
    log_scale.clamp_max_(largest_log());
  }

  at::Tensor log_scale;  ///< []

 private:
  // clamp rounds its bound to the parameter's dtype, so that the two clamps agree.
  [[nodiscard]] static double largest_log() { return std::log(kLargest); }
};

}  // namespace bitrain::nn
