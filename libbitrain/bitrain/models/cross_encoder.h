#pragma once

#include <cstdint>
#include <memory>

#include <bitrain/models/encoder.h>
#include <bitrain/nn/linear.h>

namespace bitrain::models {

/// An encoder that reads two texts as one segment and says in one number how well they go together: Hugging
/// Face's ...ForSequenceClassification with one label. Names and activations are theirs: of BERT "bert" with
/// its pooler and "classifier"; of DistilBERT "distilbert", pre_classifier (ReLU) and classifier; of RoBERTa
/// and its kin "roberta" and classifier.{dense,out_proj} (tanh).
class CrossEncoder : public nn::Module {
 public:
  /// The head is allocated as the word embedding is, not filled: load it, or see with_fresh_head. Throws
  /// ConfigError for a BERT without a pooler.
  explicit CrossEncoder(std::unique_ptr<EncoderModel> encoder);

  /// Segments of two texts each (Batch::token_type_ids) -> one score a segment, [S] in float32 (float64 for a
  /// float64 model). Dropout of the head is drawn at a segment's first token, whatever the split into
  /// micro-batches. Throws as EncoderModel::forward.
  [[nodiscard]] at::Tensor forward(const Batch& batch, const nn::ForwardContext& context);

  [[nodiscard]] EncoderModel& encoder() { return *encoder_; }
  [[nodiscard]] const EncoderModel& encoder() const { return *encoder_; }

 private:
  std::unique_ptr<EncoderModel> encoder_;
  std::unique_ptr<nn::Linear> dense_;  ///< RoBERTa's and DistilBERT's; a BERT has it in the pooler.
  nn::Linear output_;
};

/// The encoder with a new head, filled as Hugging Face does. A BERT without a pooler gets one, another's is
/// left aside, as transformers does. The encoder's weights must be dense.
[[nodiscard]] std::unique_ptr<CrossEncoder> with_fresh_head(std::unique_ptr<EncoderModel> encoder,
                                                            std::uint64_t seed);

}  // namespace bitrain::models
