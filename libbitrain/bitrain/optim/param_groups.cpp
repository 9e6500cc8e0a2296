#include <bitrain/optim/param_groups.h>

#include <map>
#include <set>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::optim {
namespace {

void check_trainable(const Parameter& parameter) {
  const at::Tensor& tensor = parameter.tensor;
  const auto refuse = [&](const auto&... why) {
    throw StateError("parameter '", parameter.name, "' cannot be trained: ", why...);
  };
  if (!tensor.defined()) refuse("it has no tensor");
  if (!tensor.is_floating_point()) refuse("its dtype is ", c10::toString(tensor.scalar_type()));
  if (!tensor.requires_grad()) refuse("it does not require a gradient");
  if (!tensor.is_leaf()) refuse("it is the result of a computation, not a leaf");
  if (!tensor.is_contiguous()) refuse("it is not contiguous");
}

bool is_lora_b(const Parameter& parameter) {
  return parameter.adapter && (parameter.name.find(".lora_B") != std::string::npos ||
                               parameter.name.find(".lora_embedding_B") != std::string::npos);
}

ParameterGroup describe(const Parameter& parameter, const GroupOptions& options) {
  ParameterGroup group;
  group.weight_decay = options.weight_decay;
  switch (parameter.role) {
    case Role::kLinear: group.name = "linear"; break;
    case Role::kEmbedding:
    case Role::kHead:
      group.name = parameter.role == Role::kHead ? "head" : "embedding";
      group.lr_factor = options.embedding_lr_factor;
      if (!options.decay_embeddings) group.weight_decay = 0;
      break;
    case Role::kNorm:
    case Role::kBias:
      group.name = "norm and bias";
      if (!options.decay_norms_and_biases) group.weight_decay = 0;
      break;
  }
  if (parameter.adapter) group.name += is_lora_b(parameter) ? " lora_B" : " adapter";
  if (is_lora_b(parameter)) group.lr_factor *= options.loraplus_lr_ratio;
  return group;
}

}  // namespace

std::int64_t ParameterGroup::numel() const {
  std::int64_t total = 0;
  for (const Parameter& parameter : parameters) total += parameter.tensor.numel();
  return total;
}

std::vector<ParameterGroup> make_groups(const std::vector<Parameter>& parameters,
                                        const GroupOptions& options) {
  if (parameters.empty()) {
    throw StateError("there is nothing to train: no parameter requires a gradient");
  }
  std::set<std::string> names;
  std::map<const void*, std::string> memory;
  std::vector<ParameterGroup> groups;
  for (const Parameter& parameter : parameters) {
    check_trainable(parameter);
    if (!names.insert(parameter.name).second) {
      throw StateError("two parameters to train have the name '", parameter.name, "'");
    }
    const auto [known, is_new] = memory.emplace(parameter.tensor.const_data_ptr(), parameter.name);
    if (!is_new && parameter.tensor.numel() > 0) {
      throw StateError("parameters '", known->second, "' and '", parameter.name,
                       "' are the same tensor: give tied weights once");
    }
    ParameterGroup wanted = describe(parameter, options);
    ParameterGroup* group = nullptr;
    for (ParameterGroup& existing : groups) {
      if (existing.name == wanted.name) group = &existing;
    }
    if (group == nullptr) group = &groups.emplace_back(std::move(wanted));
    group->parameters.push_back(parameter);
  }
  return groups;
}

}  // namespace bitrain::optim
