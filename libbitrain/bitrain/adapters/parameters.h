#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/nn/module.h>
#include <bitrain/optim/param_groups.h>

namespace bitrain::adapters {

/// Every tensor that requires grad, each once, in the order of the modules. Names are Hugging Face's and, for
/// adapters, PEFT's without its prefix: "model.layers.0.self_attn.q_proj.lora_A.weight",
/// "model.embed_tokens.lora_embedding_A", "model.embed_tokens.token_adapter.trainable_tokens_delta".
[[nodiscard]] std::vector<optim::Parameter> trainable_parameters(nn::Module& model);

/// Makes all weights trainable, for training in full. Throws StateError for 4-bit weights.
void train_all(nn::Module& model);
/// Makes none trainable.
void freeze(nn::Module& model);
/// Takes out of training what an entry of `patterns` names, as adapters::matches: a weight, or a module with
/// all that is in it ("word_embeddings", "encoder.layer.0", ".*adapter_modules"). Throws ConfigError, before
/// anything is changed, for an entry that names nothing.
void freeze(nn::Module& model, const std::vector<std::string>& patterns);

/// Elements of all weights (4-bit ones counted as weights), without adapters; tied ones once.
[[nodiscard]] std::int64_t count_parameters(nn::Module& model);

/// Bytes of all weights as they are held, 4-bit ones packed, without adapters; tied ones once.
[[nodiscard]] std::uint64_t weight_bytes(nn::Module& model);

}  // namespace bitrain::adapters
