#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/base/rng.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/bert/model.h>

namespace bitrain::testing {

/// An encoder small enough for numeric derivatives.
inline models::BertConfig tiny_bert_config(const std::string& model_type = "bert") {
  models::BertConfig config;
  config.model_type = model_type;
  config.vocab_size = 23;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.max_position_embeddings = 34;
  config.hidden_dropout_prob = 0.1;
  config.initializer_range = 0.3;  // Large, so that every part moves the hidden states.
  config.pad_token_id = model_type == "bert" || model_type == "distilbert" ? 0 : 1;
  config.languages = {"en_XX", "es_XX", "sw_KE"};
  return config;
}

/// Initialised, with norms and biases moved off their ones and zeros.
inline std::unique_ptr<models::EncoderModel> tiny_bert(at::ScalarType dtype = at::kFloat,
                                                       const models::BertConfig& config = tiny_bert_config(),
                                                       bool pooler = false, std::uint64_t seed = 7) {
  auto model = models::make_bert(config, at::TensorOptions().dtype(dtype), pooler);
  models::initialise(*model, seed);
  const at::NoGradGuard no_grad;
  model->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (tensor.dim() != 1) return;
    RandomStream stream(seed, name);
    for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor[i] += 0.2 * stream.normal();
  });
  return model;
}

}  // namespace bitrain::testing
