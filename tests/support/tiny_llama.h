#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/rng.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/llama/model.h>

namespace bitrain::testing {

/// A Llama small enough for numeric derivatives, with grouped-query attention.
inline models::LlamaConfig tiny_config() {
  models::LlamaConfig config;
  config.vocab_size = 23;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.max_position_embeddings = 64;
  config.initializer_range = 0.3;  // Large, so that every part moves the logits.
  return config;
}

/// Initialised, with norms and biases moved off their ones and zeros.
inline std::unique_ptr<models::LanguageModel> tiny_llama(at::ScalarType dtype = at::kFloat,
                                                         const models::LlamaConfig& config = tiny_config(),
                                                         std::uint64_t seed = 7) {
  std::unique_ptr<models::LanguageModel> model = models::make_llama(config, at::TensorOptions().dtype(dtype));
  models::initialise(*model, seed);
  const at::NoGradGuard no_grad;
  model->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (tensor.dim() != 1) return;
    RandomStream stream(seed, name);
    for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor[i] += 0.2 * stream.normal();
  });
  return model;
}

/// One segment per length, of random ids; each token's label is the next one, the last has none.
inline Batch random_batch(const std::vector<std::int64_t>& lengths, std::int64_t vocab_size,
                          std::uint64_t seed = 3) {
  RandomStream stream(seed, "random batch");
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<std::int32_t>> labels;
  for (const std::int64_t length : lengths) {
    std::vector<std::int32_t> row;
    for (std::int64_t i = 0; i < length; ++i)
      row.push_back(static_cast<std::int32_t>(stream.below(static_cast<std::uint64_t>(vocab_size))));
    std::vector<std::int32_t> next(row.begin() + 1, row.end());
    next.push_back(static_cast<std::int32_t>(kIgnoreIndex));
    ids.push_back(std::move(row));
    labels.push_back(std::move(next));
  }
  return make_batch(ids, labels);
}

/// Logits [N, V], differentiable.
inline at::Tensor logits_of(models::LanguageModel& model, const Batch& batch,
                            const nn::ForwardContext& context = {}) {
  return model.output_head().forward(model.forward(batch, context).hidden, context);
}

}  // namespace bitrain::testing
