#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

/// Which tensors are trained, and at which rate and decay.
namespace bitrain::optim {

/// What a tensor is in its model.
enum class Role { kLinear, kEmbedding, kHead, kNorm, kBias };

/// A tensor to train. `tensor` must be a leaf that requires grad; the optimizer writes to its storage.
struct Parameter {
  std::string name;  ///< Unique and stable: optimizer state is saved under it.
  at::Tensor tensor;
  Role role = Role::kLinear;
  bool adapter = false;  ///< Part of an adapter: `role` says of what.
};

struct GroupOptions {
  double weight_decay = 0.0;
  bool decay_norms_and_biases = false;
  bool decay_embeddings = true;
  double embedding_lr_factor = 1.0;
  double loraplus_lr_ratio = 1.0;
};
template <class Visitor>
void visit_fields(Visitor& v, GroupOptions& o) {
  v.field("weight_decay", o.weight_decay, at_least(0), "Decoupled weight decay (AdamW).");
  v.field("decay_norms_and_biases", o.decay_norms_and_biases, any(),
          "Whether norm weights and biases decay as well.");
  v.field("decay_embeddings", o.decay_embeddings, any(),
          "Whether embedding and head weights (dense, rows or adapters) decay.");
  v.field("embedding_lr_factor", o.embedding_lr_factor, above(0),
          "The learning rate of embedding and head is multiplied by this.");
  v.field("loraplus_lr_ratio", o.loraplus_lr_ratio, above(0),
          "The learning rate of LoRA's B matrices is multiplied by this (LoRA+, Hayou et al. 2024).");
}

/// Parameters that share a rate and a decay.
struct ParameterGroup {
  std::string name;  ///< For logs: "linear", "embedding", "norm and bias", "lora_B".
  std::vector<Parameter> parameters;
  double lr_factor = 1.0;
  double weight_decay = 0.0;

  [[nodiscard]] std::int64_t numel() const;
};

/// Sorts parameters into groups by their roles, keeping their order inside a group; empty groups are left
/// out. Throws StateError for no parameters, a name used twice, the same memory under two names, or a tensor
/// that cannot be trained.
[[nodiscard]] std::vector<ParameterGroup> make_groups(const std::vector<Parameter>& parameters,
                                                      const GroupOptions& options);

}  // namespace bitrain::optim
