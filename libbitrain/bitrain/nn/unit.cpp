#include <bitrain/nn/unit.h>

#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bitrain/base/error.h>

namespace bitrain::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Border : torch::CustomClassHolder {
  std::weak_ptr<WeightKeeper> keeper;  ///< It may hold on to outputs, whose graph this is in.
  std::size_t unit = 0;
  bool first = false;  ///< Where the unit begins, which is where its backward pass ends.
};

/// Its inputs, unchanged; tells the keeper when backward comes by.
class BorderFunction : public torch::autograd::Function<BorderFunction> {
 public:
  static variable_list forward(AutogradContext* context, at::TensorList tensors,
                               const c10::intrusive_ptr<Border>& border) {
    context->saved_data["border"] = c10::IValue::make_capsule(border);
    context->set_materialize_grads(false);
    variable_list same;
    for (const at::Tensor& tensor : tensors) same.push_back(tensor.view_as(tensor));
    return same;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto border = c10::static_intrusive_pointer_cast<Border>(context->saved_data["border"].toCapsule());
    const std::shared_ptr<WeightKeeper> keeper = border->keeper.lock();
    if (!keeper) throw StateError("backward runs through a model that is gone");
    if (border->first)
      keeper->leave_backward(border->unit);
    else
      keeper->enter_backward(border->unit);
    gradients.emplace_back();
    return gradients;
  }
};

/// Whether backward will come by.
bool cross(const std::shared_ptr<WeightKeeper>& keeper, std::size_t unit, bool first,
           std::initializer_list<at::Tensor*> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  variable_list given;
  bool wanted = false;
  for (at::Tensor* tensor : tensors) {
    if (!tensor->defined()) continue;
    given.push_back(*tensor);
    wanted = wanted || tensor->requires_grad();
  }
  if (!wanted) return false;
  auto border = c10::make_intrusive<Border>();
  border->keeper = keeper;
  border->unit = unit;
  border->first = first;
  const variable_list same = BorderFunction::apply(at::TensorList(given), border);
  std::size_t next = 0;
  for (at::Tensor* tensor : tensors)
    if (tensor->defined()) *tensor = same[next++];
  return true;
}

}  // namespace

void Unit::enter(std::initializer_list<at::Tensor*> inputs) const {
  if (!keeper_) return;
  keeper_->enter(index_);
  cross(keeper_, index_, true, inputs);
}

void Unit::leave(std::initializer_list<at::Tensor*> outputs) const {
  if (!keeper_) return;
  if (cross(keeper_, index_, false, outputs)) keeper_->expect_backward(index_);
  keeper_->leave(index_);
}

Use::Use(const Unit& unit) : unit_(unit) {
  if (unit.keeper()) unit.keeper()->enter(unit.index());
}

Use::~Use() {
  if (!unit_.keeper()) return;
  if (at::GradMode::is_enabled()) unit_.keeper()->expect_backward(unit_.index());
  unit_.keeper()->leave(unit_.index());
}

std::shared_ptr<WeightKeeper> keeper_of(Module& model) {
  std::shared_ptr<WeightKeeper> keeper;
  model.visit_modules([&](const std::string&, Module& module) {
    const auto* unit = dynamic_cast<const Unit*>(&module);
    if (unit != nullptr && unit->keeper()) keeper = unit->keeper();
  });
  return keeper;
}

}  // namespace bitrain::nn
