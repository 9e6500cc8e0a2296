#pragma once

#include <bitrain/nn/batch_norm.h>
#include <bitrain/nn/linear.h>

namespace bitrain::nn {

/// CCP's head over sentence vectors (Wu et al. 2022): linear, batch norm, linear, then length 1; dropped
/// after pre-training. There one side of a pair passes with the statistics of its batch and the other with
/// running ones, in turns, so that the norm does not tell the two sides which texts share a batch. The
/// weights of the linear maps ("in_proj", "out_proj"; the norm is "norm") are allocated but not filled.
class ProjectionHead : public Module {
 public:
  ProjectionHead(std::int64_t in_features, std::int64_t hidden_features, std::int64_t out_features,
                 at::TensorOptions options = {});

  /// x [B, in] -> [B, out] of length 1. Throws as BatchNorm::forward.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, BatchStatistics statistics,
                                   const ForwardContext& context);

  Linear in_proj;
  BatchNorm norm;
  Linear out_proj;
};

}  // namespace bitrain::nn
