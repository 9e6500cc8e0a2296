#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>

#include <ATen/core/Tensor.h>

#include <bitrain/nn/module.h>

namespace bitrain::nn {

/// Keeps weights elsewhere while they are not in use: shares of them on other ranks. Units are numbered in
/// the order in which a model uses them.
class WeightKeeper {
 public:
  WeightKeeper() = default;
  WeightKeeper(const WeightKeeper&) = delete;
  WeightKeeper& operator=(const WeightKeeper&) = delete;
  virtual ~WeightKeeper() = default;

  /// A unit is about to be used: returns when its weights are there. A collective, as the next two are.
  virtual void enter(std::size_t unit) = 0;
  /// It has been used.
  virtual void leave(std::size_t unit) = 0;
  /// Its backward pass begins (the weights are needed again) and has ended: no gradient is to come.
  virtual void enter_backward(std::size_t unit) = 0;
  virtual void leave_backward(std::size_t unit) = 0;
  /// Backward will come by this unit once more.
  virtual void expect_backward(std::size_t unit) = 0;
  /// What a model has put out in a pass that goes backward later.
  virtual void remember(const at::Tensor& output) = 0;

  /// `weight` is to be read outside of passes: returns when it is there.
  virtual void fetch(const at::Tensor& weight) = 0;
};

/// A part of a model, such as a layer, whose weights nobody reads but its own forward pass and the backward
/// pass of that. Without a keeper, enter and leave do nothing. Units within units have none.
class Unit : public Module {
 public:
  void set_keeper(std::shared_ptr<WeightKeeper> keeper, std::size_t index) {
    keeper_ = std::move(keeper);
    index_ = index;
  }
  [[nodiscard]] const std::shared_ptr<WeightKeeper>& keeper() const { return keeper_; }
  [[nodiscard]] std::size_t index() const { return index_; }
  /// The model has put this out behind its units.
  void end_of_model(const at::Tensor& output) const {
    if (keeper_ && output.requires_grad()) keeper_->remember(output);
  }

 protected:
  /// First in a forward pass, with the tensors that come in; undefined ones are passed over. They are
  /// replaced by themselves as autograd sees them behind this point.
  void enter(std::initializer_list<at::Tensor*> inputs) const;
  /// Last, with the tensors that go out.
  void leave(std::initializer_list<at::Tensor*> outputs) const;

 private:
  std::shared_ptr<WeightKeeper> keeper_;
  std::size_t index_ = 0;
};

/// While it lives a unit is in use, for what its backward pass does not need weights for.
class Use {
 public:
  explicit Use(const Unit& unit);
  ~Use();
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  const Unit& unit_;
};

/// The keeper of a model's units, or null.
[[nodiscard]] std::shared_ptr<WeightKeeper> keeper_of(Module& model);

}  // namespace bitrain::nn
