#include <bitrain/models/bert/model.h>

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/models/bert/language_adapters.h>
#include <bitrain/models/initialise.h>
#include <bitrain/nn/activation.h>
#include <bitrain/nn/functional.h>
#include <bitrain/nn/layer_norm.h>
#include <bitrain/nn/linear.h>
#include <bitrain/nn/pooling.h>
#include <bitrain/nn/recompute.h>
#include <bitrain/nn/unit.h>

namespace bitrain::models {
namespace {

/// What all layers of a forward pass share.
struct Tokens {
  std::vector<std::int32_t> boundaries;
  LanguageRows languages;
};

/// Dropout at one place of the model. The probability is read from the config at each use, so that a run may
/// change it.
class Dropout {
 public:
  Dropout(const BertConfig& config, const std::string& place)
      : config_(config), stream_(stream_key(0, place)) {}

  [[nodiscard]] at::Tensor operator()(const at::Tensor& x, const nn::ForwardContext& context) const {
    return context.training ? nn::dropout(x, config_.hidden_dropout_prob, context.dropout, stream_) : x;
  }

 private:
  const BertConfig& config_;
  std::uint64_t stream_;
};

class Embeddings : public nn::Module {
 public:
  Embeddings(const BertConfig& config, at::TensorOptions options)
      : words(config.vocab_size, config.hidden_size, options),
        config_(config),
        positions_(config.max_position_embeddings, config.hidden_size, options),
        norm_(config.hidden_size, config.layer_norm_eps, options),
        dropout_(config, "embeddings") {
    register_child("word_embeddings", words);
    register_child("position_embeddings", positions_);
    if (!config.is_distilbert()) {
      types_.emplace(config.type_vocab_size, config.hidden_size, options);
      register_child("token_type_embeddings", *types_);
    }
    register_child("LayerNorm", norm_);
  }

  [[nodiscard]] at::Tensor forward(const at::Tensor& embedded, const Batch& batch,
                                   const nn::ForwardContext& context) const {
    const at::TensorOptions ids = batch.position_ids.options();
    const std::int64_t first = table_begin();
    const std::int64_t rows = config_.first_position() - first + batch.longest_segment();
    at::Tensor table = positions_.forward(at::arange(first, first + rows, ids), context);
    const bool typed = types_ && batch.token_type_ids.defined();
    if (types_ && !typed) table = table + types_->forward(at::zeros({1}, ids), context);
    at::Tensor places = nn::embedding(table, rows_of(batch));
    if (typed) places = places + types_->forward(batch.token_type_ids, context);
    return dropout_(norm_.forward(embedded, places).second, context);
  }

  nn::Embedding words;

 private:
  /// The position of the first row that is looked up: that of padding, or a segment's first.
  [[nodiscard]] std::int64_t table_begin() const {
    return config_.first_position() == 0 ? 0 : config_.pad_token_id;
  }

  /// RoBERTa and its kin give the padding token, where a text spells it, the position of padding and do not
  /// count it. Of a share of a micro-batch all tokens count: where its first segment began is not known.
  [[nodiscard]] at::Tensor rows_of(const Batch& batch) const {
    if (config_.first_position() == 0) return batch.position_ids;
    if (!batch.input_ids.defined() || !batch.whole_boundaries.empty()) return batch.position_ids + 1;
    const at::Tensor padding = batch.input_ids == config_.pad_token_id;
    const at::Tensor before = padding.cumsum(0) - padding.to(at::kLong);
    const at::Tensor starts = at::arange(batch.input_ids.size(0), batch.position_ids.options());
    const at::Tensor skipped = before - before.index_select(0, starts - batch.position_ids);
    return (batch.position_ids + 1 - skipped).masked_fill(padding, 0);
  }

  const BertConfig& config_;
  nn::Embedding positions_;
  std::optional<nn::Embedding> types_;
  nn::LayerNorm norm_;
  Dropout dropout_;
};

/// "attention.self".
class SelfAttention : public nn::Module {
 public:
  SelfAttention(const BertConfig& config, at::TensorOptions options)
      : query(config.hidden_size, config.hidden_size, true, options),
        key(config.hidden_size, config.hidden_size, true, options),
        value(config.hidden_size, config.hidden_size, true, options),
        heads_(config.num_attention_heads),
        width_(config.hidden_size / config.num_attention_heads) {
    register_child("query", query);
    register_child("key", key);
    register_child("value", value);
  }

  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const Tokens& tokens,
                                   const nn::ForwardContext& context) const {
    const auto heads = [&](const nn::Linear& map) {
      return map.forward(x, context).view({-1, heads_, width_});
    };
    const double scale = 1.0 / std::sqrt(static_cast<double>(width_));
    return nn::packed_attention(heads(query), heads(key), heads(value), tokens.boundaries, scale,
                                /*causal=*/false)
        .view({-1, heads_ * width_});
  }

  nn::Linear query;
  nn::Linear key;
  nn::Linear value;

 private:
  std::int64_t heads_;
  std::int64_t width_;
};

/// A linear map back to the hidden width, with the dropout and the norm that belong to it:
/// "attention.output", and the base of "output".
class BlockOutput : public nn::Module {
 public:
  BlockOutput(const BertConfig& config, std::int64_t in_features, const std::string& path,
              at::TensorOptions options)
      : norm(config.hidden_size, config.layer_norm_eps, options),
        dense(in_features, config.hidden_size, true, options),
        dropout_(config, path) {
    register_child("dense", dense);
    register_child("LayerNorm", norm);
  }

  /// The branch, to be added to the residual stream.
  [[nodiscard]] at::Tensor branch(const at::Tensor& x, const nn::ForwardContext& context) const {
    return dropout_(dense.forward(x, context), context);
  }

  nn::LayerNorm norm;
  nn::Linear dense;

 private:
  Dropout dropout_;
};

/// "attention".
class Attention : public nn::Module {
 public:
  Attention(const BertConfig& config, const std::string& path, at::TensorOptions options)
      : output(config, config.hidden_size, path + ".output", options), self(config, options) {
    register_child("self", self);
    register_child("output", output);
  }

  [[nodiscard]] at::Tensor branch(const at::Tensor& x, const Tokens& tokens,
                                  const nn::ForwardContext& context) const {
    return output.branch(self.forward(x, tokens, context), context);
  }

  BlockOutput output;
  SelfAttention self;
};

/// "intermediate".
class Intermediate : public nn::Module {
 public:
  Intermediate(const BertConfig& config, at::TensorOptions options)
      : dense(config.hidden_size, config.intermediate_size, true, options),
        activation_(activation_of(config)) {
    register_child("dense", dense);
  }

  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const nn::ForwardContext& context) const {
    return nn::activate(dense.forward(x, context), activation_);
  }

  nn::Linear dense;

 private:
  nn::Activation activation_;
};

/// "output" of a layer, with X-MOD's adapters behind it.
class Output : public BlockOutput {
 public:
  Output(const BertConfig& config, const std::string& path, at::TensorOptions options)
      : BlockOutput(config, config.intermediate_size, path, options),
        config_(config),
        adapter_dropout_(config, path + ".adapter_modules") {
    if (!config.has_language_adapters()) return;
    if (config.adapter_layer_norm) {
      adapter_norm_.emplace(config.hidden_size, config.layer_norm_eps, options);
      register_child("adapter_layer_norm", *adapter_norm_);
    }
    adapters_.emplace(config, activation_of(config), options);
    register_child("adapter_modules", *adapters_);
  }

  /// The new branch and the residual it is to be added to.
  [[nodiscard]] std::pair<at::Tensor, at::Tensor> forward(const at::Tensor& x, const at::Tensor& residual,
                                                          const Tokens& tokens,
                                                          const nn::ForwardContext& context) const {
    const at::Tensor inner = branch(x, context);
    if (!adapters_) return {inner, residual};
    const nn::LayerNorm* norm_before = adapter_norm_                      ? &*adapter_norm_
                                       : config_.adapter_reuse_layer_norm ? &norm
                                                                          : nullptr;
    at::Tensor sum;
    at::Tensor normed;
    if (norm_before != nullptr)
      std::tie(sum, normed) = norm_before->forward(inner, residual);
    else
      sum = normed = inner + residual;
    const at::Tensor adapted = adapters_->forward(normed, tokens.languages, context);
    return {adapter_dropout_(adapted, context), config_.ln_before_adapter ? normed : sum};
  }

 private:
  const BertConfig& config_;
  std::optional<nn::LayerNorm> adapter_norm_;
  std::optional<LanguageAdapters> adapters_;
  Dropout adapter_dropout_;
};

class Layer : public nn::Unit {
 public:
  Layer(const BertConfig& config, const std::string& path, at::TensorOptions options)
      : pre_norm_(config.pre_norm),
        attention_(config, path + ".attention", options),
        intermediate_(config, options),
        output_(config, path + ".output", options) {
    if (config.is_distilbert()) {  // The same parts under names of its own.
      register_child("attention.q_lin", attention_.self.query);
      register_child("attention.k_lin", attention_.self.key);
      register_child("attention.v_lin", attention_.self.value);
      register_child("attention.out_lin", attention_.output.dense);
      register_child("sa_layer_norm", attention_.output.norm);
      register_child("ffn.lin1", intermediate_.dense);
      register_child("ffn.lin2", output_.dense);
      register_child("output_layer_norm", output_.norm);
      return;
    }
    register_child("attention", attention_);
    register_child("intermediate", intermediate_);
    register_child("output", output_);
  }

  [[nodiscard]] at::Tensor forward(at::Tensor hidden, const Tokens& tokens,
                                   const nn::ForwardContext& context) const {
    enter({&hidden});
    at::Tensor output = compute(hidden, tokens, context);
    leave({&output});
    return output;
  }

 private:
  [[nodiscard]] at::Tensor compute(const at::Tensor& hidden, const Tokens& tokens,
                                   const nn::ForwardContext& context) const {
    const nn::LayerNorm& first = attention_.output.norm;
    if (pre_norm_) {
      const at::Tensor attended = attention_.branch(first.forward(hidden), tokens, context);
      const auto [stream, normed] = output_.norm.forward(attended, hidden);
      const auto [branch, residual] =
          output_.forward(intermediate_.forward(normed, context), stream, tokens, context);
      return branch + residual;
    }
    const at::Tensor attended = first.forward(attention_.branch(hidden, tokens, context), hidden).second;
    const auto [branch, residual] =
        output_.forward(intermediate_.forward(attended, context), attended, tokens, context);
    return output_.norm.forward(branch, residual).second;
  }

  bool pre_norm_;
  Attention attention_;
  Intermediate intermediate_;
  Output output_;
};

/// "encoder.layer": its children are named by their numbers.
class Layers : public nn::Module {
 public:
  Layers(const BertConfig& config, at::TensorOptions options) {
    for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
      const std::string number = std::to_string(i);
      layers_.push_back(std::make_unique<Layer>(config, "encoder.layer." + number, options));
      register_child(number, *layers_.back());
    }
  }
  [[nodiscard]] const std::vector<std::unique_ptr<Layer>>& get() const { return layers_; }

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
};

/// "encoder": the layers, and the last norm where norms come first.
class Encoder : public nn::Module {
 public:
  Encoder(const BertConfig& config, at::TensorOptions options) : layers(config, options) {
    register_child("layer", layers);
    if (!config.pre_norm) return;
    norm.emplace(config.hidden_size, config.layer_norm_eps, options);
    register_child("LayerNorm", *norm);
  }
  Layers layers;
  std::optional<nn::LayerNorm> norm;
};

class Pooler : public nn::Module {
 public:
  Pooler(const BertConfig& config, at::TensorOptions options)
      : dense_(config.hidden_size, config.hidden_size, true, options) {
    register_child("dense", dense_);
  }
  [[nodiscard]] at::Tensor forward(const at::Tensor& first_tokens, const nn::ForwardContext& context) const {
    return nn::activate(dense_.forward(first_tokens, context), nn::Activation::kTanh);
  }

 private:
  nn::Linear dense_;
};

class Bert : public EncoderModel {
 public:
  Bert(const BertConfig& config, at::TensorOptions options, bool pooler)
      : config_(config), router_(config_), embeddings_(config_, options), encoder_(config_, options) {
    register_child("embeddings", embeddings_);
    register_child(config_.is_distilbert() ? "transformer" : "encoder", encoder_);
    if (!pooler) return;
    pooler_.emplace(config_, options);
    register_child("pooler", *pooler_);
  }

  ModelOutput forward(const Batch& batch, const nn::ForwardContext& context) override {
    if (!batch.whole_boundaries.empty())
      throw UnsupportedError("encoders read whole texts: set parallel.context to 1");
    check_length(batch);
    return run(embeddings_.words.forward(batch.input_ids, context), batch, context);
  }
  ModelOutput forward_embeddings(const at::Tensor& words, const Batch& batch,
                                 const nn::ForwardContext& context) override {
    if (words.dim() != 2 || words.size(0) != batch.tokens() || words.size(1) != config_.hidden_size)
      throw StateError("word embeddings must be [", batch.tokens(), ", ", config_.hidden_size, "], not ",
                       words.sizes());
    check_length(batch);
    return run(words, batch, context);
  }
  [[nodiscard]] at::Tensor pooled(const at::Tensor& hidden, const Batch& batch,
                                  const nn::ForwardContext& context) const override {
    if (!pooler_) throw StateError("this encoder has no pooler");
    const at::Tensor first = nn::pool_segments(hidden, batch.boundaries, {nn::Pooling::kCls});
    return pooler_->forward(first, context);
  }
  [[nodiscard]] bool has_pooler() const override { return pooler_.has_value(); }

  void set_languages(const std::vector<std::string>& languages) override {
    if (config_.has_language_adapters()) router_.set_languages(languages);
  }
  nn::Embedding& input_embeddings() override { return embeddings_.words; }
  [[nodiscard]] std::int64_t max_tokens() const override {
    return config_.max_position_embeddings - config_.first_position();
  }
  [[nodiscard]] const BertConfig& config() const override { return config_; }
  BertConfig& config() override { return config_; }

 private:
  void check_length(const Batch& batch) const;
  [[nodiscard]] ModelOutput run(const at::Tensor& words, const Batch& batch,
                                const nn::ForwardContext& context) const;

  BertConfig config_;
  LanguageRouter router_;
  Embeddings embeddings_;
  Encoder encoder_;
  std::optional<Pooler> pooler_;
};

void Bert::check_length(const Batch& batch) const {
  for (std::size_t s = 0; s + 1 < batch.boundaries.size(); ++s) {
    const std::int64_t length = batch.boundaries[s + 1] - batch.boundaries[s];
    if (length > max_tokens()) {
      throw DataError("segment ", s, " of ", length, " tokens is longer than the ", max_tokens(),
                      " positions of this encoder: truncate the texts");
    }
  }
}

ModelOutput Bert::run(const at::Tensor& words, const Batch& batch, const nn::ForwardContext& context) const {
  const Tokens tokens{batch.boundaries,
                      config_.has_language_adapters() ? router_.route(batch) : LanguageRows{}};
  ModelOutput output;
  at::Tensor hidden = embeddings_.forward(words, batch, context);
  if (context.all_hidden) output.all_hidden.push_back(hidden);
  for (const auto& layer : encoder_.layers.get()) {
    if (context.recompute) {
      const nn::Piece piece = [&layer = *layer, tokens, context](const std::vector<at::Tensor>& inputs) {
        return std::vector<at::Tensor>{layer.forward(inputs.front(), tokens, context)};
      };
      hidden = nn::recompute(piece, {hidden}).front();
    } else {
      hidden = layer->forward(hidden, tokens, context);
    }
    if (context.all_hidden) output.all_hidden.push_back(hidden);
  }
  output.hidden = encoder_.norm ? encoder_.norm->forward(hidden) : hidden;
  if (!encoder_.layers.get().empty()) encoder_.layers.get().front()->end_of_model(output.hidden);
  return output;
}

}  // namespace

std::unique_ptr<EncoderModel> make_bert(const BertConfig& config, at::TensorOptions options, bool pooler) {
  check(config);
  return std::make_unique<Bert>(config, options, pooler);
}

void initialise(EncoderModel& model, std::uint64_t seed) {
  initialise(model, model.config().initializer_range, seed);
}

}  // namespace bitrain::models
