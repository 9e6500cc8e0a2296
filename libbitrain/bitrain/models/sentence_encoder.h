#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <bitrain/models/encoder.h>
#include <bitrain/nn/activation.h>
#include <bitrain/nn/linear.h>
#include <bitrain/nn/pooling.h>

namespace bitrain::models {

/// sentence-transformers' Dense: an activation of a linear map of the embedding.
class Dense : public nn::Module {
 public:
  Dense(std::int64_t in_features, std::int64_t out_features, bool bias, nn::Activation activation,
        at::TensorOptions options = {});

  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const nn::ForwardContext& context) const {
    return nn::activate(linear.forward(x, context), activation);
  }

  nn::Linear linear;
  nn::Activation activation;
};

/// What follows the encoder in a SentenceEncoder.
struct EmbeddingOptions {
  std::vector<nn::Pooling> pooling = {nn::Pooling::kMean};
  bool normalize = false;  ///< Scale embeddings to length 1.
};

/// Tokens at the ends of every segment that pooling leaves out: its special tokens, for words on their own.
struct PoolingMargins {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

/// An encoder, the pooling of its hidden states, maps of the result and its normalisation: segments to
/// embeddings, as sentence-transformers computes them. Names are those of the parts: transformer.*,
/// dense.N.*.
class SentenceEncoder : public nn::Module {
 public:
  /// Throws ConfigError when the maps do not follow on the pooled width, or no pooling is given.
  SentenceEncoder(std::unique_ptr<EncoderModel> encoder, EmbeddingOptions options,
                  std::vector<std::unique_ptr<Dense>> dense = {});

  /// One embedding a segment, [S, dimension()] in float32 (float64 for a float64 model). Throws as
  /// EncoderModel::forward.
  [[nodiscard]] at::Tensor forward(const Batch& batch, const nn::ForwardContext& context);
  /// The same from hidden states [N, D] of the encoder.
  [[nodiscard]] at::Tensor embed(const at::Tensor& hidden, const std::vector<std::int32_t>& boundaries,
                                 const nn::ForwardContext& context) const;

  /// From now on pooling leaves these out; a segment of nothing else is pooled whole. A folder of
  /// sentence-transformers cannot say so: whoever reads one sets it again. Throws ConfigError below 0.
  void set_margins(PoolingMargins margins);
  [[nodiscard]] const PoolingMargins& margins() const { return margins_; }

  [[nodiscard]] std::int64_t dimension() const;
  [[nodiscard]] EncoderModel& encoder() { return *encoder_; }
  [[nodiscard]] const EncoderModel& encoder() const { return *encoder_; }
  [[nodiscard]] const EmbeddingOptions& options() const { return options_; }
  [[nodiscard]] const std::vector<std::unique_ptr<Dense>>& dense() const { return dense_; }

 private:
  std::unique_ptr<EncoderModel> encoder_;
  EmbeddingOptions options_;
  PoolingMargins margins_;
  std::vector<std::unique_ptr<Dense>> dense_;
};

}  // namespace bitrain::models
