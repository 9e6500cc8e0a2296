#pragma once

#include <bitrain/nn/module.h>

namespace bitrain::nn {

/// Which mean and variance a batch norm subtracts and divides by.
enum class BatchStatistics {
  kBatch,    ///< Those of the rows at hand: every row sees the others.
  kRunning,  ///< Those of earlier batches: no row sees another.
};

/// Batch normalisation of rows (Ioffe and Szegedy 2015) with the statistics chosen call by call, because
/// those of the batch let a contrastive loss see which texts share one. Names and arithmetic as in PyTorch:
/// "weight", "bias", "running_mean", "running_var"; the variance within a batch is the biased one, the
/// running one is made of unbiased ones.
class BatchNorm : public Module {
 public:
  /// The identity: weight 1, bias 0, mean 0, variance 1.
  explicit BatchNorm(std::int64_t width, at::TensorOptions options = {});

  /// x [B, width] -> the same shape and dtype, computed in float32 or wider. In training with kBatch the
  /// running statistics move by `momentum` towards those of the batch; nothing else changes them. Throws
  /// DataError for kBatch with fewer than two rows, StateError for another width.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, BatchStatistics statistics,
                                   const ForwardContext& context);

  double eps = 1e-5;
  double momentum = 0.1;
  at::Tensor weight;        ///< [width]
  at::Tensor bias;          ///< [width]
  at::Tensor running_mean;  ///< [width] float32 or wider, without gradient, as is running_var.
  at::Tensor running_var;   ///< [width]
};

}  // namespace bitrain::nn
