#include <bitrain/nn/recompute.h>

#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace bitrain::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Held : torch::CustomClassHolder {
  Piece piece;
};

class RecomputeFunction : public torch::autograd::Function<RecomputeFunction> {
 public:
  /// `witness` requires grad, so that backward is reached even where only parameters inside the piece do.
  static variable_list forward(AutogradContext* context, const at::Tensor& /*witness*/, at::TensorList inputs,
                               const c10::intrusive_ptr<Held>& held) {
    context->saved_data["held"] = c10::IValue::make_capsule(held);
    context->save_for_backward(inputs.vec());
    const at::NoGradGuard no_grad;
    return held->piece(inputs.vec());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto held = c10::static_intrusive_pointer_cast<Held>(context->saved_data["held"].toCapsule());
    variable_list inputs;
    for (const at::Tensor& saved : context->get_saved_variables()) {
      inputs.push_back(saved.detach());
      inputs.back().set_requires_grad(saved.requires_grad());
    }
    variable_list roots;
    variable_list root_gradients;
    {
      const at::AutoGradMode with_grad(true);
      const variable_list outputs = held->piece(inputs);
      for (std::size_t i = 0; i < outputs.size(); ++i)
        if (outputs[i].requires_grad() && gradients[i].defined()) {
          roots.push_back(outputs[i]);
          root_gradients.push_back(gradients[i]);
        }
      if (!roots.empty()) torch::autograd::backward(roots, root_gradients);
    }
    variable_list result(1);
    for (const at::Tensor& input : inputs) result.push_back(input.grad());
    result.emplace_back();
    return result;
  }
};

}  // namespace

std::vector<at::Tensor> recompute(Piece piece, const std::vector<at::Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return piece(inputs);
  auto held = c10::make_intrusive<Held>();
  held->piece = std::move(piece);
  at::Tensor witness = at::zeros({}, inputs.front().options().dtype(at::kFloat));
  witness.set_requires_grad(true);
  return RecomputeFunction::apply(witness, at::TensorList(inputs), held);
}

}  // namespace bitrain::nn
