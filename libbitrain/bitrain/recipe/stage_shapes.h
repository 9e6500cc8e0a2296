#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <bitrain/data/loader.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/language_model.h>
#include <bitrain/recipe/recipe.h>
#include <bitrain/train/options.h>

namespace bitrain::recipe {

/// What a model weighs and multiplies, as a stage holds it. All figures are counted on the model's modules.
struct ModelShape {
  std::int64_t layers = 0;
  std::int64_t hidden = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_width = 0;
  bool causal = true;
  std::int64_t element = 2;  ///< Bytes of an activation.

  std::int64_t parameters = 0;      ///< All weights, 4-bit ones too; no adapters.
  std::int64_t linear = 0;          ///< Weights of linear maps in layers, each used once a token.
  std::int64_t head = 0;            ///< Weights of the language-model head, tied or not.
  std::int64_t adapter = 0;         ///< LoRA weights on linear maps and head.
  std::int64_t linear_trained = 0;  ///< Of `linear`: weights that get a gradient of their own.
  bool head_trained = false;        ///< Whether the head's do.
  std::int64_t quantized = 0;       ///< Weights in 4 bits.

  std::uint64_t weight_bytes = 0;     ///< Of parameters as they are held.
  std::uint64_t adapter_bytes = 0;    ///< LoRA matrices and trained rows.
  std::uint64_t quantized_bytes = 0;  ///< Of the 4-bit weights, packed, with their scales.
  std::uint64_t decoded_bytes = 0;    ///< Of the largest 4-bit weight when it is decoded.
  std::int64_t trained_16 = 0;        ///< Elements trained in 16 bits (they have a float32 master),
  std::int64_t trained_32 = 0;        ///< and in float32.

  std::int64_t pieces = 0;  ///< Layers, tables, head, last norm: what shard=parameters gathers one by one,
  std::uint64_t layer_bytes = 0;    ///< the bytes of a layer with its adapters,
  std::uint64_t largest_piece = 0;  ///< and of the largest piece.

  std::uint64_t kept = 0;    ///< Bytes of a token in a layer that wait for backward,
  std::uint64_t inputs = 0;  ///< those of the layer's inputs alone (recompute),
  std::uint64_t logits = 0;  ///< and bytes of the chunk of logits.
  std::int64_t vocab = 0;    ///< Rows of the table of words.
  std::uint64_t widest =
      0;  ///< Bytes of a token at a layer's widest point, where nothing waits for backward.
  std::uint64_t largest_trained = 0;  ///< Of the largest tensor that is trained.
  std::int64_t map_features = 0;   ///< Of the linear map in layers that has most: what goes in and comes out,
  std::int64_t map_weights = 0;    ///< and of the largest its weights.
  std::int64_t adapter_ranks = 0;  ///< Of all adapters on linear maps in layers: their inner features.

  [[nodiscard]] std::int64_t trained() const { return trained_16 + trained_32; }
};

/// Tokens whose logits exist at a time.
inline constexpr std::int64_t kLogitRows = 1024;

/// Of a language model as it is now: quantised, adapted, its weights trained or not. Tensors may be
/// LibTorch's meta tensors.
[[nodiscard]] ModelShape shape_of(models::LanguageModel& model);

/// Bytes that wait for the backward pass of `tokens` tokens. With recomputation: every layer's inputs, and
/// one layer in full.
[[nodiscard]] std::uint64_t activation_bytes(const ModelShape& shape, std::int64_t tokens, bool recompute);

/// A stage that holds a model, and the steps it takes if it trains.
struct StageShape {
  std::string stage;
  std::string type;
  ModelShape model;
  bool trains = false;
  std::string loader_key = "loader";  ///< Where the stage has its loader: "loader" or "data.loader".
  data::LoaderOptions loader;
  train::TrainOptions train;
  std::int64_t texts = 1;     ///< Texts of sequence_length tokens that a row is counted for: 2 for a pair.
  double head_share = 1;      ///< Of the tokens, those that go through the head.
  bool embeds_first = false;  ///< Steps of several micro-batches embed all of them first (GradCache).
  std::string tokens_are_unknown;  ///< Why a row's tokens cannot be told; else empty.
};

/// Told of a stage whose parts do not fit each other, and why.
using ShapeFault = std::function<void(const Stage& stage, const std::string& what)>;

/// For each stage that holds a model. Nothing is loaded but the config.json of a base. Vocabularies of
/// tokenizers that are not learned yet are taken at the size asked for. Throws ConfigError, with the stage's
/// name, for adapters that do not fit their model (target_modules that match nothing, rows that are not
/// there); with `on_fault`, such a stage is told and left out.
[[nodiscard]] std::vector<StageShape> stage_shapes(const Recipe& recipe, const ShapeFault& on_fault = {});

}  // namespace bitrain::recipe
