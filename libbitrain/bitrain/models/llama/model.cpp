#include <bitrain/models/llama/model.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/models/initialise.h>
#include <bitrain/models/llama/rotary.h>
#include <bitrain/nn/functional.h>
#include <bitrain/nn/recompute.h>
#include <bitrain/nn/shared_attention.h>
#include <bitrain/nn/unit.h>

namespace bitrain::models {
namespace {

/// The weight of a norm; how it is applied is the layer's business, which fuses it with the residual sum.
class Norm : public nn::Module {
 public:
  Norm(std::int64_t width, at::TensorOptions options) : weight(at::empty({width}, options)) {
    register_tensor("weight", weight);
  }
  at::Tensor weight;
};

/// What all layers of a forward pass share.
struct Tokens {
  std::vector<std::int32_t> boundaries;  ///< Of the whole micro-batch.
  at::Tensor position_ids;
  RotaryTables rotary;
  bool shared = false;  ///< Other ranks have the other tokens of the micro-batch.
};

class Attention : public nn::Module {
 public:
  Attention(const LlamaConfig& config, at::TensorOptions options)
      : heads_(config.num_attention_heads),
        kv_heads_(config.key_value_heads()),
        width_(config.head_width()),
        q_proj_(config.hidden_size, heads_ * width_, config.qkv_bias(), options),
        k_proj_(config.hidden_size, kv_heads_ * width_, config.qkv_bias(), options),
        v_proj_(config.hidden_size, kv_heads_ * width_, config.qkv_bias(), options),
        o_proj_(heads_ * width_, config.hidden_size, config.output_bias(), options) {
    register_child("q_proj", q_proj_);
    register_child("k_proj", k_proj_);
    register_child("v_proj", v_proj_);
    register_child("o_proj", o_proj_);
  }

  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const Tokens& tokens,
                                   const nn::ForwardContext& context) const {
    const auto [q, k, v] = project(x, tokens, context);
    if (tokens.shared)
      return output(nn::shared_attention(q, k, v, tokens.boundaries, scale(), *context.token_ranks), context);
    return output(nn::packed_attention(q, k, v, tokens.boundaries, scale()), context);
  }

  /// Appends to `cache`, which holds `past` positions, and attends to all of it.
  [[nodiscard]] at::Tensor forward_cached(const at::Tensor& x, const Tokens& tokens,
                                          KeyValueCache::Layer& cache, std::int64_t past,
                                          const nn::ForwardContext& context) const {
    const auto [q, k, v] = project(x, tokens, context);
    append(cache.keys, k, past);
    append(cache.values, v, past);
    if (past == 0) return output(nn::packed_attention(q, k, v, tokens.boundaries, scale()), context);
    return output(attend(q, cache, past), context);
  }

 private:
  struct Heads {
    at::Tensor q;  ///< [N, heads, width]
    at::Tensor k;  ///< [N, kv_heads, width]
    at::Tensor v;  ///< [N, kv_heads, width]
  };

  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(static_cast<double>(width_)); }

  [[nodiscard]] Heads project(const at::Tensor& x, const Tokens& tokens,
                              const nn::ForwardContext& context) const {
    const auto rotated = [&](const nn::Linear& map, std::int64_t heads) {
      return nn::apply_rotary(map.forward(x, context).view({-1, heads, width_}), tokens.rotary.cos,
                              tokens.rotary.sin, tokens.position_ids);
    };
    return {rotated(q_proj_, heads_), rotated(k_proj_, kv_heads_),
            v_proj_.forward(x, context).view({-1, kv_heads_, width_})};
  }

  [[nodiscard]] at::Tensor output(const at::Tensor& attended, const nn::ForwardContext& context) const {
    return o_proj_.forward(attended.view({-1, heads_ * width_}), context);
  }

  /// Writes `rows` behind the first `past` of `buffer`, which grows by doubling.
  static void append(at::Tensor& buffer, const at::Tensor& rows, std::int64_t past) {
    const std::int64_t needed = past + rows.size(0);
    if (!buffer.defined() || buffer.size(0) < needed) {
      const std::int64_t capacity = std::max<std::int64_t>(2 * needed, 64);
      const at::Tensor grown = at::empty({capacity, rows.size(1), rows.size(2)}, rows.options());
      if (past > 0) grown.narrow(0, 0, past).copy_(buffer.narrow(0, 0, past));
      buffer = grown;
    }
    buffer.narrow(0, past, rows.size(0)).copy_(rows);
  }

  /// Queries at positions past.. over all cached keys: few queries, so plain products do.
  [[nodiscard]] at::Tensor attend(const at::Tensor& q, const KeyValueCache::Layer& cache,
                                  std::int64_t past) const {
    const std::int64_t count = q.size(0);
    const std::int64_t length = past + count;
    const std::int64_t group = heads_ / kv_heads_;
    const at::ScalarType wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto by_head = [&](const at::Tensor& x) { return x.narrow(0, 0, length).transpose(0, 1).to(wide); };
    const at::Tensor queries = q.view({count, kv_heads_, group, width_})
                                   .permute({1, 2, 0, 3})
                                   .to(wide)
                                   .reshape({kv_heads_, group * count, width_});
    at::Tensor scores = at::matmul(queries, by_head(cache.keys).transpose(1, 2)).mul_(scale());
    if (count > 1) {
      const at::TensorOptions options = at::TensorOptions().dtype(at::kLong).device(q.device());
      const at::Tensor future =
          at::arange(length, options).gt(at::arange(past, length, options).unsqueeze(1));
      scores = scores.view({kv_heads_, group, count, length})
                   .masked_fill_(future, -std::numeric_limits<double>::infinity())
                   .view({kv_heads_, group * count, length});
    }
    const at::Tensor mixed = at::matmul(at::softmax(scores, -1), by_head(cache.values));
    return mixed.view({heads_, count, width_}).transpose(0, 1).to(q.scalar_type()).contiguous();
  }

  std::int64_t heads_;
  std::int64_t kv_heads_;
  std::int64_t width_;
  nn::Linear q_proj_;
  nn::Linear k_proj_;
  nn::Linear v_proj_;
  nn::Linear o_proj_;
};

class Mlp : public nn::Module {
 public:
  Mlp(const LlamaConfig& config, at::TensorOptions options)
      : gate_proj_(config.hidden_size, config.intermediate_size, bias(config), options),
        up_proj_(config.hidden_size, config.intermediate_size, bias(config), options),
        down_proj_(config.intermediate_size, config.hidden_size, bias(config), options) {
    register_child("gate_proj", gate_proj_);
    register_child("up_proj", up_proj_);
    register_child("down_proj", down_proj_);
  }

  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const nn::ForwardContext& context) const {
    return down_proj_.forward(nn::swiglu(gate_proj_.forward(x, context), up_proj_.forward(x, context)),
                              context);
  }

 private:
  static bool bias(const LlamaConfig& config) { return config.model_type == "llama" && config.mlp_bias; }

  nn::Linear gate_proj_;
  nn::Linear up_proj_;
  nn::Linear down_proj_;
};

/// The residual stream as the sum of what there was and the last branch's output: the sum itself is made by
/// the norm that reads it.
struct Stream {
  at::Tensor base;
  at::Tensor branch;  ///< Undefined before the first layer.

  /// Adds the branch and returns the norm of the sum.
  at::Tensor normed(const Norm& norm, double eps) {
    if (!branch.defined()) return nn::rms_norm(base, norm.weight, eps);
    auto [sum, result] = nn::add_rms_norm(base, branch, norm.weight, eps);
    base = std::move(sum);
    branch = at::Tensor();
    return result;
  }
  [[nodiscard]] at::Tensor sum() const { return branch.defined() ? base + branch : base; }
};

class Layer : public nn::Unit {
 public:
  Layer(const LlamaConfig& config, at::TensorOptions options)
      : eps_(config.rms_norm_eps),
        self_attn_(config, options),
        mlp_(config, options),
        input_norm_(config.hidden_size, options),
        post_attention_norm_(config.hidden_size, options) {
    register_child("self_attn", self_attn_);
    register_child("mlp", mlp_);
    register_child("input_layernorm", input_norm_);
    register_child("post_attention_layernorm", post_attention_norm_);
  }

  void forward(Stream& stream, const Tokens& tokens, const nn::ForwardContext& context) const {
    enter({&stream.base, &stream.branch});
    stream.branch = self_attn_.forward(stream.normed(input_norm_, eps_), tokens, context);
    stream.branch = mlp_.forward(stream.normed(post_attention_norm_, eps_), context);
    leave({&stream.base, &stream.branch});
  }

  void forward_cached(Stream& stream, const Tokens& tokens, KeyValueCache::Layer& cache, std::int64_t past,
                      const nn::ForwardContext& context) const {
    enter({});
    stream.branch = self_attn_.forward_cached(stream.normed(input_norm_, eps_), tokens, cache, past, context);
    stream.branch = mlp_.forward(stream.normed(post_attention_norm_, eps_), context);
    leave({});
  }

 private:
  double eps_;
  Attention self_attn_;
  Mlp mlp_;
  Norm input_norm_;
  Norm post_attention_norm_;
};

/// "model.layers": its children are named by their numbers.
class Layers : public nn::Module {
 public:
  Layers(const LlamaConfig& config, at::TensorOptions options) {
    for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
      layers_.push_back(std::make_unique<Layer>(config, options));
      register_child(std::to_string(i), *layers_.back());
    }
  }
  [[nodiscard]] std::size_t size() const { return layers_.size(); }
  [[nodiscard]] const Layer& operator[](std::size_t i) const { return *layers_[i]; }

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
};

/// "model": everything but the head.
class Decoder : public nn::Module {
 public:
  Decoder(const LlamaConfig& config, at::TensorOptions options)
      : embed_tokens(config.vocab_size, config.hidden_size, options),
        layers(config, options),
        norm(config.hidden_size, options) {
    register_child("embed_tokens", embed_tokens);
    register_child("layers", layers);
    register_child("norm", norm);
  }
  nn::Embedding embed_tokens;
  Layers layers;
  Norm norm;
};

class Llama : public LanguageModel {
 public:
  Llama(const LlamaConfig& config, at::TensorOptions options)
      : config_(config),
        frequencies_(rotary_frequencies(config)),
        model_(config, options),
        lm_head_(config.hidden_size, config.vocab_size, false, options) {
    register_child("model", model_);
    register_child("lm_head", lm_head_);
    tie();
  }

  ModelOutput forward(const Batch& batch, const nn::ForwardContext& context) override;
  at::Tensor forward_cached(const at::Tensor& input_ids, KeyValueCache& cache) override;

  nn::Embedding& input_embeddings() override { return model_.embed_tokens; }
  nn::Linear& output_head() override {
    tie();
    return lm_head_;
  }
  [[nodiscard]] bool tied() const override { return config_.tie_word_embeddings; }
  [[nodiscard]] const LlamaConfig& config() const override { return config_; }
  LlamaConfig& config() override { return config_; }

 private:
  /// Loading, casting and vocabulary extension replace the embedding's tensor; a tied head follows it.
  void tie() {
    lm_head_.shares_weight = tied();
    if (!tied()) return;
    lm_head_.weight = model_.embed_tokens.weight;
    lm_head_.out_features = lm_head_.weight.size(0);
  }

  [[nodiscard]] const RotaryTables& rotary(std::int64_t positions, at::Device device);
  void check_length(std::int64_t length);

  LlamaConfig config_;
  RotaryFrequencies frequencies_;
  RotaryTables rotary_;
  bool warned_ = false;
  Decoder model_;
  nn::Linear lm_head_;
};

const RotaryTables& Llama::rotary(std::int64_t positions, at::Device device) {
  if (!rotary_.cos.defined() || rotary_.cos.size(0) < positions || rotary_.cos.device() != device) {
    std::int64_t size = 256;
    while (size < positions) size *= 2;
    rotary_ = rotary_tables(frequencies_, size, device);
  }
  return rotary_;
}

void Llama::check_length(std::int64_t length) {
  if (config_.sliding_window && length > *config_.sliding_window) {
    throw UnsupportedError("a sequence of ", length, " tokens is longer than this model's sliding window of ",
                           *config_.sliding_window, ", which is not supported: shorten the sequences");
  }
  if (length > config_.max_position_embeddings && !warned_) {
    log_warn("a sequence of ", length, " tokens is longer than the ", config_.max_position_embeddings,
             " positions (max_position_embeddings) this model is meant for");
    warned_ = true;
  }
}

ModelOutput Llama::forward(const Batch& batch, const nn::ForwardContext& context) {
  const std::int64_t longest = batch.longest_segment();
  check_length(longest);
  const bool shared = !batch.whole_boundaries.empty();
  if (shared && context.token_ranks == nullptr)
    throw StateError("a share of a batch's tokens needs the ranks that have the others");
  const Tokens tokens{shared ? batch.whole_boundaries : batch.boundaries, batch.position_ids,
                      rotary(longest, batch.input_ids.device()), shared};
  ModelOutput output;
  Stream stream{model_.embed_tokens.forward(batch.input_ids, context), {}};
  if (context.all_hidden) output.all_hidden.push_back(stream.base);
  for (std::size_t i = 0; i < model_.layers.size(); ++i) {
    const Layer& layer = model_.layers[i];
    if (context.recompute) {
      const bool first = !stream.branch.defined();
      const nn::Piece piece = [&layer, tokens, context, first](const std::vector<at::Tensor>& inputs) {
        Stream local{inputs[0], first ? at::Tensor() : inputs[1]};
        layer.forward(local, tokens, context);
        return std::vector<at::Tensor>{local.base, local.branch};
      };
      std::vector<at::Tensor> inputs{stream.base};
      if (!first) inputs.push_back(stream.branch);
      const std::vector<at::Tensor> outputs = nn::recompute(piece, inputs);
      stream = {outputs[0], outputs[1]};
    } else {
      layer.forward(stream, tokens, context);
    }
    if (context.all_hidden) output.all_hidden.push_back(stream.sum());
  }
  output.hidden = stream.normed(model_.norm, config_.rms_norm_eps);
  if (model_.layers.size() > 0) model_.layers[0].end_of_model(output.hidden);
  return output;
}

at::Tensor Llama::forward_cached(const at::Tensor& input_ids, KeyValueCache& cache) {
  const at::NoGradGuard no_grad;
  const std::int64_t past = cache.length;
  const std::int64_t count = input_ids.size(0);
  check_length(past + count);
  cache.layers.resize(model_.layers.size());
  const at::Tensor positions = at::arange(past, past + count, input_ids.options());
  const Tokens tokens{
      {0, static_cast<std::int32_t>(count)}, positions, rotary(past + count, input_ids.device()), false};
  const nn::ForwardContext context;
  Stream stream{model_.embed_tokens.forward(input_ids, context), {}};
  for (std::size_t i = 0; i < model_.layers.size(); ++i)
    model_.layers[i].forward_cached(stream, tokens, cache.layers[i], past, context);
  cache.length += count;
  return stream.normed(model_.norm, config_.rms_norm_eps);
}

}  // namespace

std::unique_ptr<LanguageModel> make_llama(const LlamaConfig& config, at::TensorOptions options) {
  check(config);
  return std::make_unique<Llama>(config, options);
}

void initialise(LanguageModel& model, std::uint64_t seed) {
  initialise(model, model.config().initializer_range, seed);
}

}  // namespace bitrain::models
