#include "cases/models.h"

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/rng.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/param_groups.h>
#include <bitrain/train/step.h>

namespace bitrain::benchmarks {

std::unique_ptr<models::LanguageModel> make_model(std::int64_t hidden, std::int64_t layers,
                                                  std::int64_t heads, std::int64_t ffn) {
  models::LlamaConfig config;
  config.vocab_size = 16000;
  config.hidden_size = hidden;
  config.num_hidden_layers = layers;
  config.num_attention_heads = heads;
  config.intermediate_size = ffn;
  auto model = models::make_llama(config, at::TensorOptions().dtype(at::kBFloat16));
  models::initialise(*model, 0);
  return model;
}

Batch random_batch(std::int64_t rows, std::int64_t length, std::int64_t vocab) {
  RandomStream random(0, "benchmark");
  std::vector<std::vector<std::int32_t>> ids(static_cast<std::size_t>(rows));
  std::vector<std::vector<std::int32_t>> labels(static_cast<std::size_t>(rows));
  for (std::size_t row = 0; row < ids.size(); ++row) {
    for (std::int64_t i = 0; i < length; ++i)
      ids[row].push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocab))));
    labels[row].assign(ids[row].begin() + 1, ids[row].end());
    labels[row].push_back(static_cast<std::int32_t>(kIgnoreIndex));
  }
  return make_batch(ids, labels);
}

struct Steps::State {
  models::LanguageModel& model;
  std::vector<Batch> batches;
  optim::AdamW optimizer;
  std::int64_t step = 0;
};

Steps::Steps(models::LanguageModel& model, Batch batch)
    : state_(new State{model,
                       {std::move(batch)},
                       optim::AdamW(optim::make_groups(adapters::trainable_parameters(model), {}))}) {}
Steps::~Steps() = default;

void Steps::operator()() {
  State& s = *state_;
  nn::ForwardContext context;
  context.training = true;
  context.dropout.step = s.step++;
  const train::StepSums sums = train::accumulate_gradients(
      s.batches,
      [&s](const Batch& batch, const nn::ForwardContext& c) {
        return objectives::next_token_loss(s.model, batch, c, {});
      },
      context, s.optimizer, true);
  s.optimizer.step(1e-4, 1.0 / sums.weight);
  s.optimizer.zero_grad();
}

}  // namespace bitrain::benchmarks
