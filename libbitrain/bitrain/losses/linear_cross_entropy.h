#pragma once

#include <bitrain/nn/linear.h>

namespace bitrain::losses {

struct CrossEntropyOptions {
  std::int64_t chunk_tokens = 1024;  ///< Rows of logits that exist at a time.
};

struct TokenLosses {
  /// [] float32 (float64 for float64 hidden): sum over supervised positions of weight_i * -log p(label_i).
  /// Differentiable once.
  at::Tensor sum;
  at::Tensor per_token;  ///< [N] like `sum`, detached: -log p(label_i) without weight, 0 where ignored.
  double count = 0;      ///< Supervised positions (labels != kIgnoreIndex).
};

/// Head and cross-entropy as one piece over chunks of supervised positions: the logits [N, V] never exist.
/// hidden [N, D], labels [N] int64 already shifted. The head may be dense or 4-bit, with adapters and
/// trainable rows, trained or frozen. `token_weights` [N] float32 scales each position's loss (undefined: 1).
/// Where a gradient will be asked for, each chunk's is computed at once from its logits, in their place, and
/// backward only scales (Liger kernels, Hsu et al. 2024); so backward can run once. Logits are in hidden's
/// dtype, the loss in float32 or wider. Throws DataError for a label outside [0, V) that is not kIgnoreIndex,
/// StateError for shapes that do not fit, ConfigError for chunk_tokens below 1.
[[nodiscard]] TokenLosses linear_cross_entropy(const at::Tensor& hidden, const nn::Linear& head,
                                               const at::Tensor& labels, const nn::ForwardContext& context,
                                               const at::Tensor& token_weights = {},
                                               const CrossEntropyOptions& options = {});

}  // namespace bitrain::losses
