#pragma once

#include <memory>

#include <bitrain/base/batch.h>
#include <bitrain/base/model_output.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>
#include <bitrain/nn/module.h>

namespace bitrain::models {

struct LlamaConfig;

/// Keys and values of past tokens, for generation: the only place that has rows.
struct KeyValueCache {
  struct Layer {
    at::Tensor keys;    ///< [capacity, H_kv, head_dim]; the first `length` rows are filled.
    at::Tensor values;  ///< The same.
  };
  std::vector<Layer> layers;
  std::int64_t length = 0;
};

/// A decoder that maps packed tokens to hidden states. The head is applied by objectives, in chunks.
class LanguageModel : public nn::Module {
 public:
  /// [N] tokens -> hidden [N, D] after the final norm. Throws DataError for a token outside the vocabulary,
  /// UnsupportedError for a segment longer than the model's sliding window.
  [[nodiscard]] virtual ModelOutput forward(const Batch& batch, const nn::ForwardContext& context) = 0;
  /// The next tokens of one row: input_ids [n] are appended to the cache; returns hidden [n, D]. No gradient.
  [[nodiscard]] virtual at::Tensor forward_cached(const at::Tensor& input_ids, KeyValueCache& cache) = 0;

  [[nodiscard]] virtual nn::Embedding& input_embeddings() = 0;
  /// The head. With tied embeddings its weight is the very tensor of the embedding.
  [[nodiscard]] virtual nn::Linear& output_head() = 0;
  [[nodiscard]] virtual bool tied() const = 0;
  [[nodiscard]] virtual const LlamaConfig& config() const = 0;
  [[nodiscard]] virtual LlamaConfig& config() = 0;
};

}  // namespace bitrain::models
