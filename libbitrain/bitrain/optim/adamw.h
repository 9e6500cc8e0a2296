#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>
#include <bitrain/optim/param_groups.h>

namespace bitrain::optim {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};
template <class Visitor>
void visit_fields(Visitor& v, AdamWOptions& o) {
  v.field("beta1", o.beta1, in_half_open_range(0, 1), "Decay of the mean of gradients.");
  v.field("beta2", o.beta2, in_half_open_range(0, 1), "Decay of the mean of squared gradients.");
  v.field("eps", o.eps, above(0), "Added to the root of the mean of squares.");
}

/// Tensors with their names, in a fixed order.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// AdamW (Loshchilov and Hutter 2019) with float32 moments. bfloat16 and float16 parameters have a float32
/// master copy that holds the weight between steps; float64 ones keep everything in float64. On the CPU one
/// fused pass over each tensor, elsewhere ATen's multi-tensor operators.
class AdamW {
 public:
  explicit AdamW(std::vector<ParameterGroup> groups, AdamWOptions options = {});

  /// One update at `learning_rate` (times each group's factor). Every gradient is multiplied by `grad_scale`
  /// first: the division by the token count and the clipping, without a pass of their own. Parameters
  /// without a gradient are left alone, state and all, as in PyTorch.
  void step(double learning_rate, double grad_scale = 1.0);
  /// Drops all gradients.
  void zero_grad();

  /// Gradients to use in place of `Parameter::tensor.grad()`, for example sums in float32 of bfloat16 ones;
  /// one for each parameter in `parameters()` order, an undefined one for none. Dropped by zero_grad.
  void set_gradients(std::vector<at::Tensor> gradients) { gradients_ = std::move(gradients); }
  /// What `step` would use: set gradients, or those of the parameters.
  [[nodiscard]] std::vector<at::Tensor> gradients() const;

  /// All parameters, group after group.
  [[nodiscard]] const std::vector<Parameter>& parameters() const { return parameters_; }
  [[nodiscard]] const std::vector<ParameterGroup>& groups() const { return groups_; }
  [[nodiscard]] std::int64_t state_bytes() const;

  /// The state: for each parameter that has been updated "<name>.exp_avg", "<name>.exp_avg_sq", "<name>.step"
  /// ([] int64), and "<name>.master" where there is one. The tensors share memory with the optimizer.
  [[nodiscard]] NamedTensors state() const;

  /// Finds a tensor by name, or nothing.
  using Lookup = std::function<std::optional<at::Tensor>(const std::string& name)>;
  /// Copies a saved state in. The parameters themselves must have been restored before. Throws StateError,
  /// before anything is changed, when a shape differs or only a part of a parameter's state is there.
  void load_state(const Lookup& lookup);

 private:
  struct State {
    at::Tensor exp_avg;
    at::Tensor exp_avg_sq;
    at::Tensor master;  ///< Undefined for float32 and float64 parameters.
    std::int64_t step = 0;
  };

  void ensure_state(std::size_t index);
  void step_fused(const std::vector<std::size_t>& indices, const std::vector<at::Tensor>& gradients,
                  double learning_rate, double grad_scale);
  void step_foreach(const std::vector<std::size_t>& indices, const std::vector<at::Tensor>& gradients,
                    double learning_rate, double grad_scale);

  std::vector<ParameterGroup> groups_;
  std::vector<Parameter> parameters_;
  std::vector<std::size_t> group_of_;
  std::vector<State> states_;
  std::vector<at::Tensor> gradients_;
  AdamWOptions options_;
};

}  // namespace bitrain::optim
