#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/io/json.h>
#include <bitrain/nn/activation.h>

namespace bitrain::models {

/// The shape of a BERT-like encoder, with Hugging Face's keys and defaults.
struct BertConfig {
  std::string model_type = "bert";
  std::int64_t vocab_size = 30522;
  std::int64_t hidden_size = 768;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t intermediate_size = 3072;
  std::string hidden_act = "gelu";
  double hidden_dropout_prob = 0.1;
  double attention_probs_dropout_prob = 0.1;
  std::optional<double> classifier_dropout;
  std::int64_t max_position_embeddings = 512;
  std::int64_t type_vocab_size = 2;
  double initializer_range = 0.02;
  double layer_norm_eps = 1e-12;
  std::int64_t pad_token_id = 0;
  std::optional<std::int64_t> bos_token_id;
  std::optional<std::int64_t> eos_token_id;

  // X-MOD (Pfeiffer et al. 2022).
  bool pre_norm = false;
  std::int64_t adapter_reduction_factor = 2;
  bool adapter_layer_norm = false;
  bool adapter_reuse_layer_norm = true;
  bool ln_before_adapter = true;
  std::vector<std::string> languages = {"en_XX"};
  std::optional<std::string> default_language;

  /// config.json as it was read: config_to_json writes it again, but for what has changed. Null for a model
  /// made here.
  io::Json read_config;

  [[nodiscard]] bool is_distilbert() const { return model_type == "distilbert"; }
  /// Where the heads of a task are, what the encoder is called beside them.
  [[nodiscard]] const char* base_name() const {
    return model_type == "bert" ? "bert" : is_distilbert() ? "distilbert" : "roberta";
  }
  /// Position of a segment's first token: RoBERTa and its kin count from padding_idx + 1.
  [[nodiscard]] std::int64_t first_position() const {
    return model_type == "bert" || is_distilbert() ? 0 : pad_token_id + 1;
  }
  [[nodiscard]] bool has_language_adapters() const { return model_type == "xmod"; }
};
template <class Visitor>
void visit_fields(Visitor& v, BertConfig& o) {
  v.field("model_type", o.model_type,
          one_of({"bert", "distilbert", "roberta", "xlm-roberta", "camembert", "xmod"}),
          "Member of the BERT family.");
  v.field("vocab_size", o.vocab_size, at_least(1), "Rows of the word embedding.");
  v.field("hidden_size", o.hidden_size, at_least(1), "Width of the hidden states.");
  v.field("num_hidden_layers", o.num_hidden_layers, at_least(1), "Number of layers.");
  v.field("num_attention_heads", o.num_attention_heads, at_least(1), "Heads of each layer.");
  v.field("intermediate_size", o.intermediate_size, at_least(1), "Width of the feed-forward layer.");
  v.field("hidden_act", o.hidden_act, one_of({"gelu", "gelu_new", "gelu_pytorch_tanh", "relu"}),
          "Activation of the feed-forward layer.");
  v.field("hidden_dropout_prob", o.hidden_dropout_prob, in_range(0, 1),
          "Share of features dropped after the embeddings and each block, in training; below 1.");
  v.field("attention_probs_dropout_prob", o.attention_probs_dropout_prob, in_range(0, 1),
          "Recorded only: attention weights are never dropped.");
  v.field("classifier_dropout", o.classifier_dropout, in_range(0, 1),
          "Share of features dropped in the head of a cross-encoder; below 1. Without it "
          "hidden_dropout_prob, of a "
          "DistilBERT 0.2.");
  v.field("max_position_embeddings", o.max_position_embeddings, at_least(1), "Rows of the position table.");
  v.field("type_vocab_size", o.type_vocab_size, at_least(1),
          "Rows of the sentence-type table; DistilBERT has none.");
  v.field("initializer_range", o.initializer_range, above(0), "Standard deviation of fresh weights.");
  v.field("layer_norm_eps", o.layer_norm_eps, above(0), "Added to the variance in the norms.");
  v.field("pad_token_id", o.pad_token_id, at_least(0),
          "Id of padding; RoBERTa and its kin count positions from the next number.");
  v.field("bos_token_id", o.bos_token_id, at_least(0), "Id that starts a text.");
  v.field("eos_token_id", o.eos_token_id, at_least(0), "Id that ends a text.");
  v.field("pre_norm", o.pre_norm, any(), "xmod: norms before each block instead of after it.");
  v.field("adapter_reduction_factor", o.adapter_reduction_factor, at_least(1),
          "xmod: hidden_size over the width of an adapter.");
  v.field("adapter_layer_norm", o.adapter_layer_norm, any(),
          "xmod: a norm of their own before the adapters.");
  v.field("adapter_reuse_layer_norm", o.adapter_reuse_layer_norm, any(),
          "xmod: without adapter_layer_norm, the block's norm before the adapters.");
  v.field("ln_before_adapter", o.ln_before_adapter, any(),
          "xmod: the sum around an adapter takes the normed states.");
  v.field("languages", o.languages, any(), "xmod: languages that have an adapter.");
  v.field("default_language", o.default_language, any(),
          "xmod: language of texts whose language is unknown.");
}

/// Throws ConfigError for a shape that cannot be: heads that do not divide, a padding id outside the
/// vocabulary, no position left, an adapter of no width, a language listed twice.
void check(const BertConfig& config);

/// The function that hidden_act names.
[[nodiscard]] nn::Activation activation_of(const BertConfig& config);

/// Reads a config.json of model_type bert, distilbert (with its own keys: dim, n_layers, n_heads, ...),
/// roberta, xlm-roberta, camembert or xmod. `name` is the file, for errors. Throws FormatError for a missing
/// or mistyped key, UnsupportedError for another family or for what this one does not do (relative positions,
/// another activation, a decoder), ConfigError as check.
[[nodiscard]] BertConfig bert_config_from_json(const io::Json& json, const std::string& name = "config.json");

/// What transformers reads for the bare model: read_config with its architecture and the keys that have
/// changed since; for a model made here all keys. Without the dtype of a model made here, which belongs to
/// the weights.
[[nodiscard]] io::Json config_to_json(const BertConfig& config);

}  // namespace bitrain::models
