#include <bitrain/models/late_interaction_encoder.h>

#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/initialise.h>
#include <bitrain/nn/unit_rows.h>

namespace bitrain::models {
namespace {

std::unique_ptr<Dense> projection_of(const EncoderModel& encoder, std::int64_t dimension,
                                     const at::TensorOptions& options) {
  if (dimension < 1)
    throw ConfigError("token vectors must have at least 1 feature, not dimension ", dimension);
  return std::make_unique<Dense>(encoder.config().hidden_size, dimension, /*bias=*/false,
                                 nn::Activation::kIdentity, options);
}

}  // namespace

std::vector<std::string> punctuation() {
  std::vector<std::string> words;
  for (const char mark : std::string("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")) words.emplace_back(1, mark);
  return words;
}

LateInteractionEncoder::LateInteractionEncoder(std::unique_ptr<EncoderModel> encoder, std::int64_t dimension,
                                               LateInteractionOptions options)
    : encoder_(std::move(encoder)),
      projection_(projection_of(*encoder_, dimension, encoder_->input_embeddings().weight.options())),
      options_(std::move(options)) {
  register_child("transformer", *encoder_);
  register_child("projection", *projection_);
}

LateInteractionEncoder::LateInteractionEncoder(std::unique_ptr<EncoderModel> encoder,
                                               std::unique_ptr<Dense> projection,
                                               LateInteractionOptions options)
    : encoder_(std::move(encoder)), projection_(std::move(projection)), options_(std::move(options)) {
  if (projection_->linear.in_features != encoder_->config().hidden_size)
    throw ConfigError("the projection takes ", projection_->linear.in_features,
                      " features, but the encoder gives ", encoder_->config().hidden_size);
  register_child("transformer", *encoder_);
  register_child("projection", *projection_);
}

at::Tensor LateInteractionEncoder::forward(const Batch& batch, const nn::ForwardContext& context) {
  const at::Tensor projected = projection_->forward(encoder_->forward(batch, context).hidden, context);
  // Scores are sums over many tokens: 16-bit vectors would lose their digits.
  return nn::unit_rows(projected.scalar_type() == at::kDouble ? projected : projected.to(at::kFloat));
}

void initialise_projection(LateInteractionEncoder& model, std::uint64_t seed) {
  initialise(model.projection(), model.encoder().config().initializer_range, seed);
}

}  // namespace bitrain::models
