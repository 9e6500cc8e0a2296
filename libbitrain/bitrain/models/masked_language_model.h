#pragma once

#include <cstdint>
#include <memory>

#include <bitrain/models/encoder.h>
#include <bitrain/nn/activation.h>
#include <bitrain/nn/layer_norm.h>
#include <bitrain/nn/linear.h>

namespace bitrain::models {

/// An encoder with the heads it is pre-trained with. Names are Hugging Face's: the encoder below "bert",
/// "distilbert" or "roberta"; of BERT cls.predictions.transform.{dense,LayerNorm}, cls.predictions.bias and,
/// for next sentences, cls.seq_relationship; of DistilBERT vocab_{transform,layer_norm,projector}; of RoBERTa
/// and its kin lm_head.{dense,layer_norm,bias}. Predictions are made by the rows of the word embedding, tied,
/// with a bias.
class MaskedLanguageModel : public nn::Module {
 public:
  /// Heads are allocated as the word embedding is, not filled: load them or call initialise_heads. Throws
  /// ConfigError for next sentences with an encoder that is no BERT or has no pooler.
  explicit MaskedLanguageModel(std::unique_ptr<EncoderModel> encoder, bool next_sentence = false);

  /// As EncoderModel::forward. Heads are applied by objectives, to the positions that need them.
  [[nodiscard]] ModelOutput forward(const Batch& batch, const nn::ForwardContext& context) {
    return encoder_->forward(batch, context);
  }
  /// What output_head() reads: norm(act(dense(hidden))), [n, D] -> [n, D].
  [[nodiscard]] at::Tensor transform(const at::Tensor& hidden, const nn::ForwardContext& context) const;
  /// D -> V with the word embedding's weight: that very tensor.
  [[nodiscard]] nn::Linear& output_head();
  /// Logits [S, 2] of each segment: its second text follows on its first (0), or is another's (1). From
  /// hidden [N, D]. Throws StateError for a model without this head.
  [[nodiscard]] at::Tensor next_sentence_logits(const at::Tensor& hidden, const Batch& batch,
                                                const nn::ForwardContext& context) const;
  [[nodiscard]] bool has_next_sentence() const { return next_sentence_ != nullptr; }

  [[nodiscard]] EncoderModel& encoder() { return *encoder_; }
  [[nodiscard]] const EncoderModel& encoder() const { return *encoder_; }

 private:
  /// Loading, casting and vocabulary extension replace the embedding's tensor; the head follows it, new rows
  /// with a bias of 0.
  void tie();

  std::unique_ptr<EncoderModel> encoder_;
  nn::Linear dense_;
  nn::Activation activation_;
  nn::LayerNorm norm_;
  nn::Linear output_head_;
  std::unique_ptr<nn::Linear> next_sentence_;
};

/// The model with a head for next sentences, and a pooler where it has none, both fresh. The weights that it
/// has are taken over. Throws ConfigError as the constructor.
[[nodiscard]] std::unique_ptr<MaskedLanguageModel> with_next_sentence(MaskedLanguageModel& model,
                                                                      std::uint64_t seed);

/// Fills the heads as Hugging Face does, at the config's initializer_range; the encoder stays as it is.
void initialise_heads(MaskedLanguageModel& model, std::uint64_t seed);

}  // namespace bitrain::models
