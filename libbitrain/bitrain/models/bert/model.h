#pragma once

#include <cstdint>
#include <memory>

#include <c10/core/TensorOptions.h>

#include <bitrain/models/bert/config.h>
#include <bitrain/models/encoder.h>

namespace bitrain::models {

/// A BERT-like encoder (BERT, RoBERTa, XLM-R, CamemBERT, X-MOD) with the names of Hugging Face's bare model:
/// embeddings.{word,position,token_type}_embeddings, embeddings.LayerNorm,
/// encoder.layer.N.attention.self.{query,key,value}, attention.output.{dense,LayerNorm}, intermediate.dense,
/// output.{dense,LayerNorm}, pooler.dense where `pooler` asks for one; X-MOD's adapters are
/// output.adapter_modules.LANGUAGE.{dense1,dense2}. Weights are allocated with `options`, but not filled:
/// load them or call initialise. They do not require grad. All tokens are of sentence type 0 unless the batch
/// says.
///
/// In training, features are dropped as hidden_dropout_prob says, by draws that are a function of the token
/// and the layer; attention weights are not dropped. Throws ConfigError as check(config).
[[nodiscard]] std::unique_ptr<EncoderModel> make_bert(const BertConfig& config,
                                                      at::TensorOptions options = {}, bool pooler = false);

/// Fills all weights at the config's initializer_range (models/initialise.h).
void initialise(EncoderModel& model, std::uint64_t seed);

}  // namespace bitrain::models
