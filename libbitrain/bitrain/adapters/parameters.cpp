#include <bitrain/adapters/parameters.h>

#include <algorithm>
#include <set>

#include <bitrain/adapters/attach.h>
#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/language_model.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>

namespace bitrain::adapters {
namespace {

using optim::Parameter;
using optim::Role;

/// Collects what requires grad, each tensor once.
class Collector {
 public:
  void add(std::string name, const at::Tensor& tensor, Role role, bool adapter) {
    if (!tensor.requires_grad() || !seen_.insert(tensor.unsafeGetTensorImpl()).second) return;
    parameters_.push_back({std::move(name), tensor, role, adapter});
  }
  [[nodiscard]] std::vector<Parameter> take() { return std::move(parameters_); }

 private:
  std::set<const void*> seen_;
  std::vector<Parameter> parameters_;
};

std::string joined(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

void add_extras(Collector& collector, const std::string& path, Role role, bool embedding,
                const std::vector<nn::LowRank>& adapters, const std::optional<nn::TrainableRows>& rows) {
  for (const nn::LowRank& adapter : adapters) {
    collector.add(joined(path, embedding ? "lora_embedding_A" : "lora_A.weight"), adapter.a, role, true);
    collector.add(joined(path, embedding ? "lora_embedding_B" : "lora_B.weight"), adapter.b, role, true);
  }
  if (rows) collector.add(joined(path, "token_adapter.trainable_tokens_delta"), rows->rows, role, true);
}

/// The head of a language model, or null.
const nn::Linear* head_of(nn::Module& model) {
  auto* language_model = dynamic_cast<models::LanguageModel*>(&model);
  return language_model != nullptr ? &language_model->output_head() : nullptr;
}

void visit_weights(nn::Module& model, const std::function<void(at::Tensor&)>& visit) {
  model.visit_tensors([&](const std::string&, at::Tensor& tensor) { visit(tensor); });
}

/// Whether `entry` names the weight or a module that it is in.
bool names_weight(const std::string& entry, const std::string& weight) {
  for (std::size_t end = weight.find('.');; end = weight.find('.', end + 1)) {
    if (matches(entry, weight.substr(0, end))) return true;
    if (end == std::string::npos) return false;
  }
}

void stop_training(at::Tensor& tensor) {
  tensor.set_requires_grad(false);
  tensor.mutable_grad() = at::Tensor();
}

}  // namespace

std::vector<Parameter> trainable_parameters(nn::Module& model) {
  Collector collector;
  const nn::Linear* head = head_of(model);
  model.visit_modules([&](const std::string& path, nn::Module& module) {
    const auto* linear = dynamic_cast<nn::Linear*>(&module);
    const auto* embedding = dynamic_cast<nn::Embedding*>(&module);
    const Role weights = embedding ? Role::kEmbedding : linear == head && head ? Role::kHead : Role::kLinear;
    module.visit_own_tensors([&](const std::string& name, at::Tensor& tensor) {
      const Role role = name == "bias" ? Role::kBias : linear || embedding ? weights : Role::kNorm;
      collector.add(joined(path, name), tensor, role, false);
    });
    if (linear) add_extras(collector, path, weights, false, linear->adapters, linear->trainable_rows);
    if (embedding) add_extras(collector, path, weights, true, embedding->adapters, embedding->trainable_rows);
  });
  return collector.take();
}

void train_all(nn::Module& model) {
  model.visit_modules([](const std::string& path, nn::Module& module) {
    const auto* linear = dynamic_cast<nn::Linear*>(&module);
    if (linear && linear->is_quantized())
      throw StateError(path,
                       " is in 4 bits and cannot be trained in full: attach adapters, or load the model "
                       "without quantising");
  });
  visit_weights(model, [](at::Tensor& tensor) { tensor.set_requires_grad(true); });
  static_cast<void>(head_of(model));  // A tied head takes the embedding's tensor.
}

void freeze(nn::Module& model) {
  visit_weights(model, stop_training);
}

void freeze(nn::Module& model, const std::vector<std::string>& patterns) {
  begin_matching();
  check_patterns("freeze", patterns);
  std::vector<std::string> weights;
  model.visit_tensors([&](const std::string& name, at::Tensor&) { weights.push_back(name); });
  for (const std::string& entry : patterns) {
    if (std::none_of(weights.begin(), weights.end(),
                     [&](const std::string& weight) { return names_weight(entry, weight); }))
      throw ConfigError("freeze: '", entry, "' names no weight and no module of this model",
                        did_you_mean(entry, weights), "; its weights are ", join(weights, ", "));
  }
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (std::any_of(patterns.begin(), patterns.end(),
                    [&](const std::string& entry) { return names_weight(entry, name); }))
      stop_training(tensor);
  });
}

std::int64_t count_parameters(nn::Module& model) {
  std::int64_t count = 0;
  visit_weights(model, [&](at::Tensor& tensor) { count += tensor.numel(); });
  model.visit_modules([&](const std::string&, nn::Module& module) {
    const auto* linear = dynamic_cast<nn::Linear*>(&module);
    if (linear && linear->is_quantized()) count += linear->quantized->numel();
  });
  return count;
}

std::uint64_t weight_bytes(nn::Module& model) {
  std::uint64_t bytes = 0;
  visit_weights(model, [&](at::Tensor& tensor) { bytes += tensor.nbytes(); });
  model.visit_modules([&](const std::string&, nn::Module& module) {
    const auto* linear = dynamic_cast<nn::Linear*>(&module);
    if (linear && linear->is_quantized()) bytes += linear->quantized->nbytes();
  });
  return bytes;
}

}  // namespace bitrain::adapters
