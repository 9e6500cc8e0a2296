#include <bitrain/optim/adamw.h>

#include <map>
#include <tuple>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>

#include <bitrain/base/error.h>
#include <bitrain/fields/check.h>
#include <bitrain/nn/kernel_table.h>

namespace bitrain::optim {
namespace {

/// The dtype of moments and of the weight that is updated.
at::ScalarType state_dtype(const at::Tensor& parameter) {
  return parameter.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

bool needs_master(const at::Tensor& parameter) {
  return parameter.scalar_type() != state_dtype(parameter);
}

}  // namespace

AdamW::AdamW(std::vector<ParameterGroup> groups, AdamWOptions options)
    : groups_(std::move(groups)), options_(options) {
  check_fields(options_, "adamw.");
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (const Parameter& parameter : groups_[g].parameters) {
      parameters_.push_back(parameter);
      group_of_.push_back(g);
    }
  }
  states_.resize(parameters_.size());
}

std::vector<at::Tensor> AdamW::gradients() const {
  if (!gradients_.empty()) return gradients_;
  std::vector<at::Tensor> result;
  result.reserve(parameters_.size());
  for (const Parameter& parameter : parameters_) result.push_back(parameter.tensor.grad());
  return result;
}

void AdamW::zero_grad() {
  gradients_.clear();
  for (Parameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
}

void AdamW::ensure_state(std::size_t index) {
  State& state = states_[index];
  if (state.exp_avg.defined()) return;
  const at::Tensor weight = parameters_[index].tensor.detach();
  const auto options = weight.options().dtype(state_dtype(weight));
  state.exp_avg = at::zeros_like(weight, options);
  state.exp_avg_sq = at::zeros_like(weight, options);
  if (needs_master(weight)) state.master = weight.to(at::kFloat);
}

void AdamW::step(double learning_rate, double grad_scale) {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> gradients = this->gradients();
  if (gradients.size() != parameters_.size()) {
    throw StateError("adamw: ", gradients.size(), " gradients for ", parameters_.size(), " parameters");
  }
  std::vector<std::size_t> fused;
  std::vector<std::size_t> others;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients[i].defined() || parameters_[i].tensor.numel() == 0) continue;
    ensure_state(i);
    ++states_[i].step;
    const at::Tensor& weight = parameters_[i].tensor;
    const bool kernel = weight.is_cpu() && nn::has_kernels(weight) && nn::has_kernels(gradients[i]);
    (kernel ? fused : others).push_back(i);
  }
  if (!fused.empty()) step_fused(fused, gradients, learning_rate, grad_scale);
  if (!others.empty()) step_foreach(others, gradients, learning_rate, grad_scale);
}

void AdamW::step_fused(const std::vector<std::size_t>& indices, const std::vector<at::Tensor>& gradients,
                       double learning_rate, double grad_scale) {
  std::vector<at::Tensor> contiguous;  // Keeps what a kernel reads alive.
  std::vector<kernels::AdamWTensor> tensors;
  tensors.reserve(indices.size());
  for (const std::size_t i : indices) {
    const ParameterGroup& group = groups_[group_of_[i]];
    const State& state = states_[i];
    contiguous.push_back(gradients[i].contiguous());
    kernels::AdamWTensor& tensor = tensors.emplace_back();
    tensor.weight = parameters_[i].tensor.mutable_data_ptr();
    tensor.weight_type = nn::kernel_type(parameters_[i].tensor);
    tensor.master = state.master.defined() ? state.master.mutable_data_ptr<float>() : nullptr;
    tensor.grad = contiguous.back().const_data_ptr();
    tensor.grad_type = nn::kernel_type(gradients[i]);
    tensor.exp_avg = state.exp_avg.mutable_data_ptr<float>();
    tensor.exp_avg_sq = state.exp_avg_sq.mutable_data_ptr<float>();
    tensor.numel = parameters_[i].tensor.numel();
    tensor.lr = learning_rate * group.lr_factor;
    tensor.weight_decay = group.weight_decay;
    tensor.step = state.step;
  }
  kernels::AdamWOptions options;
  options.beta1 = options_.beta1;
  options.beta2 = options_.beta2;
  options.eps = options_.eps;
  options.grad_scale = grad_scale;
  kernels::cpu_kernels().adamw(tensors.data(), static_cast<std::int64_t>(tensors.size()), options);
}

void AdamW::step_foreach(const std::vector<std::size_t>& indices, const std::vector<at::Tensor>& gradients,
                         double learning_rate, double grad_scale) {
  // One call for each set of parameters that share all that a call takes.
  using Key = std::tuple<std::size_t, std::string, at::ScalarType, std::int64_t>;
  std::map<Key, std::vector<std::size_t>> sets;
  for (const std::size_t i : indices) {
    const at::Tensor& weight = parameters_[i].tensor;
    sets[{group_of_[i], weight.device().str(), weight.scalar_type(), states_[i].step}].push_back(i);
  }
  for (const auto& [key, set] : sets) {
    const ParameterGroup& group = groups_[std::get<0>(key)];
    const at::Tensor& first = parameters_[set.front()].tensor;
    const at::Tensor count = at::scalar_tensor(std::get<3>(key), first.options().dtype(at::kFloat));
    std::vector<at::Tensor> weights;
    std::vector<at::Tensor> targets;
    std::vector<at::Tensor> grads;
    std::vector<at::Tensor> means;
    std::vector<at::Tensor> squares;
    for (const std::size_t i : set) {
      weights.push_back(parameters_[i].tensor.detach());
      targets.push_back(states_[i].master.defined() ? states_[i].master : weights.back());
      grads.push_back(gradients[i].to(state_dtype(first)));
      means.push_back(states_[i].exp_avg);
      squares.push_back(states_[i].exp_avg_sq);
    }
    // In place where no copy was made: gradients are dropped after the step anyway.
    if (grad_scale != 1.0) at::_foreach_mul_(grads, grad_scale);
    // The operator reads the step and wants one tensor for each parameter; they may be the same.
    const std::vector<at::Tensor> steps(set.size(), count);
    at::_fused_adamw_(targets, grads, means, squares, {}, steps, learning_rate * group.lr_factor,
                      options_.beta1, options_.beta2, group.weight_decay, options_.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
    if (needs_master(first)) at::_foreach_copy_(weights, targets);
  }
}

std::int64_t AdamW::state_bytes() const {
  std::int64_t bytes = 0;
  for (const State& state : states_) {
    for (const at::Tensor* tensor : {&state.exp_avg, &state.exp_avg_sq, &state.master}) {
      if (tensor->defined()) bytes += static_cast<std::int64_t>(tensor->nbytes());
    }
  }
  return bytes;
}

NamedTensors AdamW::state() const {
  NamedTensors result;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const State& state = states_[i];
    if (!state.exp_avg.defined()) continue;
    const std::string& name = parameters_[i].name;
    result.emplace_back(name + ".exp_avg", state.exp_avg);
    result.emplace_back(name + ".exp_avg_sq", state.exp_avg_sq);
    if (state.master.defined()) result.emplace_back(name + ".master", state.master);
    result.emplace_back(name + ".step", at::scalar_tensor(state.step, at::kLong));
  }
  return result;
}

void AdamW::load_state(const Lookup& lookup) {
  const at::NoGradGuard no_grad;
  std::vector<State> loaded(parameters_.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& weight = parameters_[i].tensor;
    const std::string& name = parameters_[i].name;
    const std::optional<at::Tensor> step = lookup(name + ".step");
    if (!step) continue;
    loaded[i].step = step->item<std::int64_t>();
    const auto take = [&](const char* part) {
      const std::optional<at::Tensor> saved = lookup(name + part);
      if (!saved) throw StateError("optimizer state: '", name, part, "' is missing");
      if (saved->sizes() != weight.sizes()) {
        throw StateError("optimizer state: '", name, part, "' has shape ", saved->sizes(), ", the parameter ",
                         weight.sizes());
      }
      return saved->to(weight.device(), state_dtype(weight), /*non_blocking=*/false, /*copy=*/true);
    };
    loaded[i].exp_avg = take(".exp_avg");
    loaded[i].exp_avg_sq = take(".exp_avg_sq");
    if (needs_master(weight)) loaded[i].master = take(".master");
  }
  states_ = std::move(loaded);
}

}  // namespace bitrain::optim
