#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/loss_sum.h>
#include <bitrain/nn/module.h>

namespace bitrain::objectives {

/// A loss of the embeddings of a whole step: negatives come from all of its micro-batches.
struct EmbeddingLoss {
  /// What the loss needs of one micro-batch: [rows, D], in the order of its segments; differentiable.
  std::function<at::Tensor(const Batch&, const nn::ForwardContext&)> embed;
  /// Optional: what a teacher says of it, [rows, D']; never differentiated.
  std::function<at::Tensor(const Batch&)> teach;
  /// The sum over the step from the joined rows of its micro-batches; `taught` is undefined without a
  /// teacher.
  std::function<LossSum(const at::Tensor& embedded, const at::Tensor& taught,
                        const std::vector<Batch>& micro_batches)>
      loss;
};

}  // namespace bitrain::objectives
