#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/io/json.h>

namespace bitrain::models {

/// Rotary positions and their scaling, with the keys of transformers 5's `rope_parameters`.
struct RopeParameters {
  std::string rope_type = "default";
  double rope_theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position_embeddings = 0;  ///< 0: max_position_embeddings.
  std::optional<double> attention_factor;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  bool truncate = true;
};
template <class Visitor>
void visit_fields(Visitor& v, RopeParameters& o) {
  v.field("rope_type", o.rope_type, one_of({"default", "linear", "llama3", "yarn"}),
          "How the frequencies are stretched for longer contexts.");
  v.field("rope_theta", o.rope_theta, above(1), "Base of the rotary wavelengths.");
  v.field("factor", o.factor, at_least(1), "How many times longer the context is than in pre-training.");
  v.field("low_freq_factor", o.low_freq_factor, above(0),
          "llama3: wavelengths above original length / this are stretched in full.");
  v.field("high_freq_factor", o.high_freq_factor, above(0),
          "llama3: wavelengths below original length / this are kept.");
  v.field("original_max_position_embeddings", o.original_max_position_embeddings, at_least(0),
          "llama3, yarn: context length of pre-training; 0 takes max_position_embeddings.");
  v.field("attention_factor", o.attention_factor, above(0),
          "yarn: multiplies cos and sin; by default derived from factor and mscale.");
  v.field("beta_fast", o.beta_fast, above(0), "yarn: dimensions with more rotations than this are kept.");
  v.field("beta_slow", o.beta_slow, above(0),
          "yarn: dimensions with fewer rotations than this are stretched in full.");
  v.field("mscale", o.mscale, at_least(0), "yarn: numerator of the derived attention factor.");
  v.field("mscale_all_dim", o.mscale_all_dim, at_least(0), "yarn: denominator of the derived factor.");
  v.field("truncate", o.truncate, any(), "yarn: round the bounds of the ramp to whole dimensions.");
}

/// The shape of a Llama-like decoder, with Hugging Face's keys and defaults.
struct LlamaConfig {
  std::string model_type = "llama";
  std::int64_t vocab_size = 32000;
  std::int64_t hidden_size = 4096;
  std::int64_t intermediate_size = 11008;
  std::int64_t num_hidden_layers = 32;
  std::int64_t num_attention_heads = 32;
  std::optional<std::int64_t> num_key_value_heads;
  std::optional<std::int64_t> head_dim;
  std::int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::optional<std::int64_t> sliding_window;
  RopeParameters rope_parameters;
  std::optional<std::int64_t> bos_token_id = 1;
  std::vector<std::int64_t> eos_token_id = {2};
  std::optional<std::int64_t> pad_token_id;

  /// config.json as it was read, and generation_config.json beside it (hub::open_model): config_to_json and
  /// hub::save_model write them again, but for what has changed. Null where there was none.
  io::Json read_config;
  io::Json generation_config;

  /// Ids that end what the model writes: eos_token_id of generation_config, where it says so, as in
  /// transformers; else eos_token_id.
  [[nodiscard]] std::vector<std::int64_t> stop_token_ids() const;
  /// Heads of keys and values: num_attention_heads unless given.
  [[nodiscard]] std::int64_t key_value_heads() const {
    return num_key_value_heads.value_or(num_attention_heads);
  }
  /// Width of one head: hidden_size / num_attention_heads unless given.
  [[nodiscard]] std::int64_t head_width() const {
    return head_dim.value_or(hidden_size / num_attention_heads);
  }
  /// Whether q, k and v have a bias: always in Qwen2, never in Mistral, in Llama as attention_bias says.
  [[nodiscard]] bool qkv_bias() const {
    return model_type == "qwen2" || (model_type == "llama" && attention_bias);
  }
  /// Whether the attention's output map has one.
  [[nodiscard]] bool output_bias() const { return model_type == "llama" && attention_bias; }
};
template <class Visitor>
void visit_fields(Visitor& v, LlamaConfig& o) {
  v.field("model_type", o.model_type, one_of({"llama", "mistral", "qwen2"}), "Member of the Llama family.");
  v.field("vocab_size", o.vocab_size, at_least(1), "Rows of the embedding and of the head.");
  v.field("hidden_size", o.hidden_size, at_least(1), "Width of the residual stream.");
  v.field("intermediate_size", o.intermediate_size, at_least(1), "Width of the SwiGLU layer.");
  v.field("num_hidden_layers", o.num_hidden_layers, at_least(1), "Number of decoder layers.");
  v.field("num_attention_heads", o.num_attention_heads, at_least(1), "Query heads of each layer.");
  v.field("num_key_value_heads", o.num_key_value_heads, at_least(1),
          "Key and value heads (grouped-query attention); as many as query heads by default.");
  v.field("head_dim", o.head_dim, at_least(2),
          "Width of a head; hidden_size / num_attention_heads by default.");
  v.field("max_position_embeddings", o.max_position_embeddings, at_least(1),
          "Longest context the model is meant for.");
  v.field("rms_norm_eps", o.rms_norm_eps, above(0), "Added to the mean square in the norms.");
  v.field("initializer_range", o.initializer_range, above(0), "Standard deviation of fresh weights.");
  v.field("tie_word_embeddings", o.tie_word_embeddings, any(), "Whether the head is the embedding itself.");
  v.field("attention_bias", o.attention_bias, any(), "Bias on q, k, v and o (model_type llama).");
  v.field("mlp_bias", o.mlp_bias, any(), "Bias on gate, up and down (model_type llama).");
  v.field("sliding_window", o.sliding_window, at_least(1),
          "Tokens a position sees (mistral, qwen2); longer sequences are refused.");
  v.field("rope_parameters", o.rope_parameters, any(), "Rotary positions.");
  v.field("bos_token_id", o.bos_token_id, at_least(0), "Id that starts a text.");
  v.field("eos_token_id", o.eos_token_id, any(), "Ids that end a text.");
  v.field("pad_token_id", o.pad_token_id, at_least(0), "Id of padding; recorded only.");
}

/// Throws ConfigError for a shape that cannot be: heads that do not divide, an odd head width, an id outside
/// the vocabulary, a rotary type without what it needs.
void check(const LlamaConfig& config);

/// Reads a config.json of model_type llama, mistral or qwen2, as transformers 5 writes it (`rope_parameters`)
/// or as older versions did (`rope_theta`, `rope_scaling`). `name` is the file, for errors. Throws
/// FormatError for a missing or mistyped key, UnsupportedError for another family or for what this one does
/// not do (an activation other than silu, dynamic or longrope positions, partial rotary), ConfigError as
/// check.
[[nodiscard]] LlamaConfig config_from_json(const io::Json& json, const std::string& name = "config.json");

/// What transformers 5.23 reads: read_config with the keys that have changed since; for a model made here all
/// keys, which older versions read too, since `rope_theta` and `rope_scaling` are written beside
/// `rope_parameters`. Without the dtype of a model made here, which belongs to the weights.
[[nodiscard]] io::Json config_to_json(const LlamaConfig& config);

}  // namespace bitrain::models
