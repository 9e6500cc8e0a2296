#include <bitrain/nn/batch_norm.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>

namespace bitrain::nn {
namespace {

at::TensorOptions running_options(const at::TensorOptions& options) {
  const bool wide = options.has_dtype() && c10::typeMetaToScalarType(options.dtype()) == at::kDouble;
  return options.dtype(wide ? at::kDouble : at::kFloat).requires_grad(false);
}

}  // namespace

BatchNorm::BatchNorm(std::int64_t width, at::TensorOptions options)
    : weight(at::ones({width}, options)),
      bias(at::zeros({width}, options)),
      running_mean(at::zeros({width}, running_options(options))),
      running_var(at::ones({width}, running_options(options))) {
  register_tensor("weight", weight);
  register_tensor("bias", bias);
  register_tensor("running_mean", running_mean);
  register_tensor("running_var", running_var);
}

at::Tensor BatchNorm::forward(const at::Tensor& x, BatchStatistics statistics,
                              const ForwardContext& context) {
  if (!x.defined() || x.dim() != 2 || x.size(1) != weight.size(0))
    throw StateError("batch norm: input must be [B, ", weight.size(0), "]",
                     x.defined() ? to_text(", not ", x.sizes()) : ", not undefined");
  const at::ScalarType type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor wide = x.to(type);
  at::Tensor centred;
  at::Tensor variance;
  if (statistics == BatchStatistics::kBatch) {
    const std::int64_t batch = x.size(0);
    if (batch < 2)
      throw DataError("batch norm: ", batch,
                      " rows have no statistics of their own; give two or more, or use ",
                      "the running statistics");
    const at::Tensor mean = wide.mean(0);
    centred = wide - mean;
    variance = centred.square().mean(0);
    if (context.training) {
      const at::NoGradGuard no_grad;
      const double unbiased = static_cast<double>(batch) / static_cast<double>(batch - 1);
      running_mean.lerp_(mean.to(running_mean.scalar_type()), momentum);
      running_var.lerp_(variance.to(running_var.scalar_type()) * unbiased, momentum);
    }
  } else {
    centred = wide - running_mean.detach().to(type);
    variance = running_var.detach().to(type);
  }
  const at::Tensor scale = weight.to(type) * (variance + eps).rsqrt();
  return (centred * scale + bias.to(type)).to(x.scalar_type());
}

}  // namespace bitrain::nn
