#include <bitrain/train/step.h>

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>

#include <bitrain/base/error.h>

namespace bitrain::train {
namespace {

bool is_16_bit(const at::Tensor& tensor) {
  return tensor.element_size() == 2;
}

/// Sums of 16-bit gradients in float32; the others sum where autograd puts them.
class Float32Sums {
 public:
  explicit Float32Sums(const std::vector<optim::Parameter>& parameters)
      : parameters_(parameters), sums_(parameters.size()) {}

  /// Moves what the last backward pass left into the sums.
  void take() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      at::Tensor& gradient = parameters_[i].tensor.mutable_grad();
      if (!gradient.defined() || !is_16_bit(gradient)) continue;
      if (sums_[i].defined()) {
        sums_[i].add_(gradient);
      } else {
        sums_[i] = gradient.to(at::kFloat);
      }
      gradient.reset();
    }
  }

  std::vector<at::Tensor> gradients() && {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (!sums_[i].defined()) sums_[i] = parameters_[i].tensor.grad();
    }
    return std::move(sums_);
  }

 private:
  std::vector<optim::Parameter> parameters_;
  std::vector<at::Tensor> sums_;
};

void add_loss(const std::vector<at::Tensor>& losses, const std::vector<std::int64_t>& micro_batch_of,
              StepSums& sums) {
  const at::Tensor values = at::stack(losses).to(at::kCPU, at::kDouble);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const double value = values.const_data_ptr<double>()[i];
    if (!std::isfinite(value) && sums.nonfinite_micro_batch < 0)
      sums.nonfinite_micro_batch = micro_batch_of[i];
    sums.loss += value;
  }
}

}  // namespace

StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const LossFunction& loss,
                              nn::ForwardContext context, optim::AdamW& optimizer,
                              bool accumulate_in_float32) {
  context.training = true;
  optimizer.zero_grad();
  const bool in_float32 = accumulate_in_float32 && micro_batches.size() > 1;
  Float32Sums float32_sums(optimizer.parameters());
  const at::Device device = optimizer.parameters().front().tensor.device();

  StepSums sums;
  std::vector<at::Tensor> losses;
  std::vector<std::int64_t> micro_batch_of;
  for (std::size_t i = 0; i < micro_batches.size(); ++i) {
    const Batch& host = micro_batches[i];
    sums.tokens += host.tokens();
    context.dropout.first_token = host.first_token;
    const LossSum one = loss(host.input_ids.device() == device ? host : host.to(device), context);
    if (one.weight == 0) continue;  // Nothing supervised here; the step as a whole decides.
    if (!one.sum.requires_grad()) {
      throw StateError("the loss does not depend on any trained parameter");
    }
    one.sum.backward();
    if (in_float32) float32_sums.take();
    sums.weight += one.weight;
    losses.push_back(one.sum.detach());
    micro_batch_of.push_back(static_cast<std::int64_t>(i));
    for (const auto& [name, part] : one.parts) {
      sums.parts[name].sum += part.sum;
      sums.parts[name].weight += part.weight;
    }
  }
  if (!(sums.weight > 0)) {
    throw DataError(
        "none of the ", sums.tokens, " tokens in ", micro_batches.size(),
        " micro-batches is supervised: there is nothing to learn from; check the labels, templates and "
        "length limit");
  }
  if (in_float32) optimizer.set_gradients(std::move(float32_sums).gradients());
  add_loss(losses, micro_batch_of, sums);
  return sums;
}

}  // namespace bitrain::train
