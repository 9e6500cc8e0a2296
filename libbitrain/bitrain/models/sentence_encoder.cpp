#include <bitrain/models/sentence_encoder.h>

#include <algorithm>
#include <string>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include <bitrain/base/error.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::models {
namespace {

/// Some tokens of every segment.
struct Inner {
  at::Tensor hidden;
  std::vector<std::int32_t> boundaries = {0};
};

Inner without_margins(const at::Tensor& hidden, const std::vector<std::int32_t>& boundaries,
                      const PoolingMargins& margins) {
  std::vector<std::int64_t> kept;
  Inner inner;
  for (std::size_t s = 0; s + 1 < boundaries.size(); ++s) {
    const bool has_more = boundaries[s + 1] - boundaries[s] > margins.first + margins.last;
    const std::int64_t begin = boundaries[s] + (has_more ? margins.first : 0);
    const std::int64_t end = boundaries[s + 1] - (has_more ? margins.last : 0);
    for (std::int64_t token = begin; token < end; ++token) kept.push_back(token);
    inner.boundaries.push_back(static_cast<std::int32_t>(kept.size()));
  }
  at::Tensor rows = at::empty({static_cast<std::int64_t>(kept.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(kept.begin(), kept.end(), rows.mutable_data_ptr<std::int64_t>());
  inner.hidden = at::index_select(hidden, 0, rows.to(hidden.device()));
  return inner;
}

}  // namespace

Dense::Dense(std::int64_t in_features, std::int64_t out_features, bool bias, nn::Activation function,
             at::TensorOptions options)
    : linear(in_features, out_features, bias, options), activation(function) {
  register_child("linear", linear);
}

SentenceEncoder::SentenceEncoder(std::unique_ptr<EncoderModel> encoder, EmbeddingOptions options,
                                 std::vector<std::unique_ptr<Dense>> dense)
    : encoder_(std::move(encoder)), options_(std::move(options)), dense_(std::move(dense)) {
  if (options_.pooling.empty()) throw ConfigError("a sentence encoder needs a pooling mode");
  std::int64_t width = encoder_->config().hidden_size * static_cast<std::int64_t>(options_.pooling.size());
  register_child("transformer", *encoder_);
  for (std::size_t i = 0; i < dense_.size(); ++i) {
    const nn::Linear& linear = dense_[i]->linear;
    if (linear.in_features != width) {
      throw ConfigError("dense map ", i, " takes ", linear.in_features, " features, but is given ", width);
    }
    width = linear.out_features;
    register_child("dense." + std::to_string(i), *dense_[i]);
  }
}

at::Tensor SentenceEncoder::forward(const Batch& batch, const nn::ForwardContext& context) {
  return embed(encoder_->forward(batch, context).hidden, batch.boundaries, context);
}

at::Tensor SentenceEncoder::embed(const at::Tensor& hidden, const std::vector<std::int32_t>& boundaries,
                                  const nn::ForwardContext& context) const {
  at::Tensor embedding;
  if (margins_.first + margins_.last == 0) {
    embedding = nn::pool_segments(hidden, boundaries, options_.pooling);
  } else {
    const Inner inner = without_margins(hidden, boundaries, margins_);
    embedding = nn::pool_segments(inner.hidden, inner.boundaries, options_.pooling);
  }
  for (const auto& map : dense_) embedding = map->forward(embedding, context);
  return options_.normalize ? nn::unit_rows(embedding) : embedding;
}

void SentenceEncoder::set_margins(PoolingMargins margins) {
  if (margins.first < 0 || margins.last < 0)
    throw ConfigError("pooling cannot leave out ", margins.first, " and ", margins.last, " tokens");
  margins_ = margins;
}

std::int64_t SentenceEncoder::dimension() const {
  if (!dense_.empty()) return dense_.back()->linear.out_features;
  return encoder_->config().hidden_size * static_cast<std::int64_t>(options_.pooling.size());
}

}  // namespace bitrain::models
