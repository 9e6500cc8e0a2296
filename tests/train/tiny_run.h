#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/tanh.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/rng.h>
#include <bitrain/nn/functional.h>
#include <bitrain/train/trainer.h>

#include "support/temporary_directory.h"

/// A model of a few hundred weights, data that is a function of the counter, and the parts of a run around
/// them.
namespace bitrain::train::testing {

inline constexpr std::int64_t kVocabulary = 24;
inline constexpr std::int64_t kWidth = 16;

/// next = head(tanh(linear(dropout(embedding(token))))), trained on token -> (3 token + 1) mod V with noise.
class TinyModel {
 public:
  explicit TinyModel(at::ScalarType dtype = at::kFloat, double dropout = 0.25) : dropout_(dropout) {
    embedding = random("embedding", {kVocabulary, kWidth}, dtype);
    linear = random("linear", {kWidth, kWidth}, dtype);
    head = random("head", {kVocabulary, kWidth}, dtype);
  }

  [[nodiscard]] std::vector<optim::Parameter> parameters() const {
    return {{"embed_tokens.weight", embedding, optim::Role::kEmbedding},
            {"linear.weight", linear, optim::Role::kLinear},
            {"lm_head.weight", head, optim::Role::kHead}};
  }

  [[nodiscard]] LossSum loss(const Batch& batch, const nn::ForwardContext& context) const {
    at::Tensor x = nn::embedding(embedding, batch.input_ids);
    if (context.training) x = nn::dropout(x, dropout_, context.dropout, 1);
    x = at::tanh(at::linear(x, linear));
    const at::Tensor log_p = at::log_softmax(at::linear(x, head).to(at::kFloat), -1);
    LossSum result;
    result.sum = at::nll_loss(log_p, batch.labels, {}, at::Reduction::Sum, kIgnoreIndex);
    result.weight = static_cast<double>(batch.labels.ne(kIgnoreIndex).sum().item<std::int64_t>());
    result.parts["language/all"] = {result.sum.item<double>(), result.weight};
    return result;
  }

  at::Tensor embedding;
  at::Tensor linear;
  at::Tensor head;

 private:
  static at::Tensor random(const char* name, at::IntArrayRef shape, at::ScalarType dtype) {
    at::Tensor tensor = at::empty(shape, at::kFloat);
    RandomStream stream(3, name);
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      tensor.mutable_data_ptr<float>()[i] = static_cast<float>(0.3 * stream.normal());
    }
    return tensor.to(dtype).set_requires_grad(true);
  }

  double dropout_;
};

/// Steps of 8 segments of 12 tokens, in `micro_batches` parts; sample n is a function of (seed, n).
class TinyData {
 public:
  explicit TinyData(std::int64_t micro_batches = 2) : micro_batches_(micro_batches) {}

  [[nodiscard]] std::vector<Batch> next_step() {
    std::vector<Batch> result;
    for (std::int64_t m = 0; m < micro_batches_; ++m) {
      std::vector<std::vector<std::int32_t>> ids;
      std::vector<std::vector<std::int32_t>> labels;
      std::vector<std::int32_t> languages;
      for (std::int64_t s = 0; s < 8 / micro_batches_; ++s) {
        RandomStream stream(11, "tiny data", static_cast<std::uint64_t>(consumed_++));
        auto& row = ids.emplace_back();
        auto& targets = labels.emplace_back();
        for (int t = 0; t < 12; ++t) {
          row.push_back(static_cast<std::int32_t>(stream.below(kVocabulary)));
          const bool known = stream.uniform() < 0.8;
          targets.push_back(known ? static_cast<std::int32_t>((3 * row.back() + 1) % kVocabulary) : -100);
        }
        languages.push_back(static_cast<std::int32_t>(consumed_ % 4 == 0 ? 1 : 0));
      }
      Batch& batch = result.emplace_back(make_batch(ids, labels, languages));
      batch.first_token = m * 8 / micro_batches_ * 12;
    }
    return result;
  }

  [[nodiscard]] StepSource source() {
    StepSource source;
    source.next_step = [this] { return next_step(); };
    source.cursor = [this] { return nlohmann::ordered_json{{"samples", consumed_}}; };
    source.seek = [this](const nlohmann::ordered_json& cursor) { consumed_ = cursor.at("samples"); };
    source.languages = {"en", "es"};
    source.tokens_per_step = 96;
    return source;
  }

 private:
  std::int64_t micro_batches_;
  std::int64_t consumed_ = 0;
};

inline TrainOptions tiny_options(std::int64_t steps) {
  TrainOptions options;
  options.max_steps = steps;
  options.learning_rate = 0.02;
  options.schedule.warmup_steps = 2;
  options.groups.weight_decay = 0.01;
  options.progress = "none";
  options.tensorboard = false;
  return options;
}

/// A model with its data; `run` trains it.
struct TinyRun {
  explicit TinyRun(at::ScalarType dtype = at::kFloat, std::int64_t micro_batches = 2, double dropout = 0.25)
      : model(dtype, dropout), data(micro_batches) {
    parts.parameters = model.parameters();
    parts.loss = [this](const Batch& batch, const nn::ForwardContext& context) {
      return model.loss(batch, context);
    };
    parts.source = data.source();
  }

  TrainResult run(const TrainOptions& options, const std::filesystem::path& directory = {}) {
    parts.output_dir = directory.string();
    Trainer trainer(options, parts);
    return trainer.run();
  }

  TinyModel model;
  TinyData data;
  TrainParts parts;
};

using TemporaryFolder = test::TemporaryDirectory;

}  // namespace bitrain::train::testing
