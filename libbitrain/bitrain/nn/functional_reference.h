#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/nn/functional.h>
#include <bitrain/nn/module.h>

/// The functions of <bitrain/nn/functional.h> in plain, differentiable ATen calls, for any device and dtype:
/// the path of float64, and what the kernels are tested against. Same arguments and meanings.
namespace bitrain::nn::reference {

[[nodiscard]] at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
[[nodiscard]] std::pair<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                                             const at::Tensor& weight, double eps);
[[nodiscard]] at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                    double eps);
[[nodiscard]] std::pair<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& x,
                                                               const at::Tensor& residual,
                                                               const at::Tensor& weight,
                                                               const at::Tensor& bias, double eps);
[[nodiscard]] at::Tensor gelu(const at::Tensor& x, Gelu form = Gelu::kErf);
[[nodiscard]] at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
[[nodiscard]] at::Tensor apply_rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                                      const at::Tensor& position_ids = {});
[[nodiscard]] at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const std::vector<std::int32_t>& boundaries, double scale,
                                          bool causal = true);
[[nodiscard]] at::Tensor dropout(const at::Tensor& x, double p, const DropoutKey& key, std::uint64_t stream);
[[nodiscard]] at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids);

}  // namespace bitrain::nn::reference
