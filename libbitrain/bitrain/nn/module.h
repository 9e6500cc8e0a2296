#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::dist {
class Communicator;
}

namespace bitrain::nn {

/// Where dropout draws come from: a pure function of these and of (layer, position, feature), so that
/// recomputation, resumption and another split into micro-batches or ranks see the same masks.
struct DropoutKey {
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t first_token = 0;  ///< Batch::first_token.
};

/// How a forward pass runs.
struct ForwardContext {
  bool training = false;
  bool recompute = false;   ///< Keep only each layer's input and compute it again in backward.
  bool all_hidden = false;  ///< Fill ModelOutput::all_hidden.
  DropoutKey dropout;
  /// That share the tokens of a batch (Batch::whole_boundaries); null: none do.
  dist::Communicator* token_ranks = nullptr;
};

/// Base of everything that holds weights: a tree with Hugging Face names. Much smaller than
/// torch::nn::Module, whose header costs seconds in every file that includes it.
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /// Calls `visit(name, tensor)` for each parameter and buffer of this module (not of children) that is saved
  /// under its name. `visit` may replace the tensor (loading, moving, casting).
  using TensorVisitor = std::function<void(const std::string& name, at::Tensor& tensor)>;
  virtual void visit_own_tensors(const TensorVisitor& visit);
  /// The same for what this module computes with besides: packed weights, adapters, trained rows.
  using PartVisitor = std::function<void(at::Tensor& tensor)>;
  virtual void visit_own_parts(const PartVisitor& /*visit*/) {}

  /// Children in registration order, with their names ("self_attn").
  [[nodiscard]] const std::vector<std::pair<std::string, Module*>>& children() const { return children_; }

  /// This module and everything below it, depth first; the root's own name is "".
  using ModuleVisitor = std::function<void(const std::string& path, Module& module)>;
  void visit_modules(const ModuleVisitor& visit, const std::string& path = "");
  /// Every saved tensor below, with its full name ("model.layers.0.self_attn.q_proj.weight").
  void visit_tensors(const TensorVisitor& visit);
  /// Every tensor below, saved or not.
  void visit_all(const PartVisitor& visit);
  /// The module at `path`, or null.
  [[nodiscard]] Module* find(const std::string& path);
  /// Paths of all modules for which `accept` holds.
  [[nodiscard]] std::vector<std::string> module_paths(const std::function<bool(const Module&)>& accept);

 protected:
  /// Children are members of the derived class; this only records them, so construct, then register.
  void register_child(std::string name, Module& child) { children_.emplace_back(std::move(name), &child); }
  void register_tensor(std::string name, at::Tensor& tensor) {
    tensors_.emplace_back(std::move(name), &tensor);
  }

 private:
  std::vector<std::pair<std::string, Module*>> children_;
  std::vector<std::pair<std::string, at::Tensor*>> tensors_;
};

}  // namespace bitrain::nn
