#pragma once

#include <cstdint>
#include <memory>

#include <c10/core/TensorOptions.h>

#include <bitrain/models/language_model.h>
#include <bitrain/models/llama/config.h>

namespace bitrain::models {

/// A Llama-like decoder (Llama 2 and 3, Mistral, Qwen2) with Hugging Face's names: model.embed_tokens,
/// model.layers.N.self_attn.{q,k,v,o}_proj, model.layers.N.mlp.{gate,up,down}_proj, the norms, model.norm and
/// lm_head. Weights are allocated with `options`, but not filled: load them or call initialise. Weights do
/// not require grad. Forward throws UnsupportedError for a segment longer than the config's sliding window.
/// Throws ConfigError as check(config).
[[nodiscard]] std::unique_ptr<LanguageModel> make_llama(const LlamaConfig& config,
                                                        at::TensorOptions options = {});

/// Fills all weights at the config's initializer_range (models/initialise.h).
void initialise(LanguageModel& model, std::uint64_t seed);

}  // namespace bitrain::models
