#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/base/model_output.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/module.h>

namespace bitrain::models {

struct BertConfig;

/// An encoder that maps packed tokens to hidden states; a token attends to all of its segment, before and
/// after. There is no padding.
class EncoderModel : public nn::Module {
 public:
  /// [N] tokens -> hidden [N, D] of the last layer. Throws DataError for a token outside the vocabulary, a
  /// segment longer than max_tokens(), or a segment whose language has no adapter.
  [[nodiscard]] virtual ModelOutput forward(const Batch& batch, const nn::ForwardContext& context) = 0;
  /// The same from `words` [N, D] in place of word embeddings (transformers' inputs_embeds): of `batch` only
  /// the segments, positions, types and languages are read. Throws StateError for another shape.
  [[nodiscard]] virtual ModelOutput forward_embeddings(const at::Tensor& words, const Batch& batch,
                                                       const nn::ForwardContext& context) = 0;
  /// BERT's pooler on the first token of each segment: hidden [N, D] -> tanh(dense(.)) [S, D]. Throws
  /// StateError for a model without one.
  [[nodiscard]] virtual at::Tensor pooled(const at::Tensor& hidden, const Batch& batch,
                                          const nn::ForwardContext& context) const = 0;
  [[nodiscard]] virtual bool has_pooler() const = 0;

  /// Says what Batch::language_ids index. A model with an adapter for each language (X-MOD) chooses by it;
  /// others ignore it. An adapter fits a language of its own name ("es_XX") or of the part before "_" ("es").
  /// Throws ConfigError naming a language that no adapter fits, or more than one.
  virtual void set_languages(const std::vector<std::string>& languages) = 0;

  [[nodiscard]] virtual nn::Embedding& input_embeddings() = 0;
  /// Longest segment the position table has rows for.
  [[nodiscard]] virtual std::int64_t max_tokens() const = 0;
  [[nodiscard]] virtual const BertConfig& config() const = 0;
  [[nodiscard]] virtual BertConfig& config() = 0;
};

}  // namespace bitrain::models
