#pragma once

#include <bitrain/nn/linear.h>

namespace bitrain::losses {

struct CrossEntropyOptions {
  std::int64_t chunk_tokens = 2048;  ///< Rows of logits that exist at a time.
};

struct TokenLosses {
  at::Tensor
      sum;  ///< [] float32: sum over supervised positions of weight_i * -log p(label_i). Differentiable.
  at::Tensor per_token;  ///< [N] float32, detached: -log p(label_i), 0 where ignored.
  double count = 0;      ///< Supervised positions (labels != kIgnoreIndex).
};

/// Head and cross-entropy as one piece over chunks of supervised positions: the logits [N, V] never exist.
/// hidden [N, D], labels [N] int64 already shifted. The head may be dense or 4-bit, with adapters and
/// trainable rows, trained or frozen. `token_weights` [N] float32 scales each position's loss (undefined: 1).
/// Throws DataError for a label outside [0, V) that is not kIgnoreIndex.
[[nodiscard]] TokenLosses linear_cross_entropy(const at::Tensor& hidden, const nn::Linear& head,
                                               const at::Tensor& labels, const nn::ForwardContext& context,
                                               const at::Tensor& token_weights = {},
                                               const CrossEntropyOptions& options = {});

}  // namespace bitrain::losses
