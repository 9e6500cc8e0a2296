#include <bitrain/models/cross_encoder.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/models/initialise.h>
#include <bitrain/nn/activation.h>
#include <bitrain/nn/functional.h>
#include <bitrain/nn/pooling.h>

namespace bitrain::models {
namespace {

bool is_bert(const EncoderModel& encoder) {
  return encoder.config().model_type == "bert";
}

/// The share that transformers' heads drop: a key of its own, else that of the encoder.
double head_dropout(const BertConfig& config) {
  constexpr double kDistilBert = 0.2;  // seq_classif_dropout where the file has none.
  return config.classifier_dropout.value_or(config.is_distilbert() ? kDistilBert
                                                                   : config.hidden_dropout_prob);
}

/// Dropout of rows [S, D], each at the place of its segment's first token.
at::Tensor drop(const at::Tensor& rows, const Batch& batch, double p, const nn::ForwardContext& context,
                const char* place) {
  if (!context.training || p == 0) return rows;
  const std::uint64_t stream = stream_key(0, place);
  std::vector<at::Tensor> dropped;
  for (std::int64_t s = 0; s < rows.size(0); ++s) {
    nn::DropoutKey key = context.dropout;
    key.first_token += batch.boundaries[static_cast<std::size_t>(s)];
    dropped.push_back(nn::dropout(rows.narrow(0, s, 1), p, key, stream));
  }
  return at::cat(dropped);
}

/// The head of a model under its own names.
class Head : public nn::Module {
 public:
  explicit Head(CrossEncoder& model) {
    for (const auto& [name, child] : model.children())
      if (child != &model.encoder()) register_child(name, *child);
  }
};

/// The same encoder with a pooler, a new one, or without.
std::unique_ptr<EncoderModel> rebuilt(std::unique_ptr<EncoderModel> encoder, bool pooler,
                                      std::uint64_t seed) {
  if (encoder->has_pooler() == pooler) return encoder;
  auto other = make_bert(encoder->config(), encoder->input_embeddings().weight.options(), pooler);
  std::map<std::string, at::Tensor> weights;
  encoder->visit_tensors([&](const std::string& name, at::Tensor& tensor) { weights[name] = tensor; });
  initialise(*other, seed);
  other->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (const auto found = weights.find(name); found != weights.end()) tensor = found->second;
  });
  return other;
}

}  // namespace

CrossEncoder::CrossEncoder(std::unique_ptr<EncoderModel> encoder)
    : encoder_(std::move(encoder)),
      output_(encoder_->config().hidden_size, 1, true, encoder_->input_embeddings().weight.options()) {
  if (is_bert(*encoder_)) {
    if (!encoder_->has_pooler())
      throw ConfigError("a cross-encoder of the BERT family needs a pooler, which this encoder lacks");
    register_child("bert", *encoder_);
    register_child("classifier", output_);
    return;
  }
  const std::int64_t width = encoder_->config().hidden_size;
  dense_ = std::make_unique<nn::Linear>(width, width, true, encoder_->input_embeddings().weight.options());
  const bool distilbert = encoder_->config().is_distilbert();
  register_child(encoder_->config().base_name(), *encoder_);
  register_child(distilbert ? "pre_classifier" : "classifier.dense", *dense_);
  register_child(distilbert ? "classifier" : "classifier.out_proj", output_);
}

at::Tensor CrossEncoder::forward(const Batch& batch, const nn::ForwardContext& context) {
  const at::Tensor hidden = encoder_->forward(batch, context).hidden;
  const BertConfig& config = encoder_->config();
  const double p = head_dropout(config);
  at::Tensor rows;  // [S, D]
  if (dense_ == nullptr) {
    rows = encoder_->pooled(hidden, batch, context);
  } else {
    rows = nn::pool_segments(hidden, batch.boundaries, {nn::Pooling::kCls});
    if (!config.is_distilbert()) rows = drop(rows, batch, p, context, "classifier.dense");
    rows = nn::activate(dense_->forward(rows, context),
                        config.is_distilbert() ? nn::Activation::kRelu : nn::Activation::kTanh);
  }
  const at::Tensor scores = output_.forward(drop(rows, batch, p, context, "classifier"), context).squeeze(1);
  return scores.scalar_type() == at::kDouble ? scores : scores.to(at::kFloat);
}

std::unique_ptr<CrossEncoder> with_fresh_head(std::unique_ptr<EncoderModel> encoder, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  const bool pooler = is_bert(*encoder);
  auto model = std::make_unique<CrossEncoder>(rebuilt(std::move(encoder), pooler, seed));
  Head head(*model);
  initialise(head, model->encoder().config().initializer_range, seed);
  return model;
}

}  // namespace bitrain::models
