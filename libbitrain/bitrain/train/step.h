#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/loss_sum.h>
#include <bitrain/dist/communicator.h>
#include <bitrain/nn/module.h>
#include <bitrain/objectives/embedding_loss.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/gradient_sums.h>

namespace bitrain::train {

/// The loss of one micro-batch.
using LossFunction = std::function<LossSum(const Batch&, const nn::ForwardContext&)>;

/// Sums over the micro-batches of a step. Gradients are those of the loss *sum*; nothing is divided yet.
struct StepSums {
  double loss = 0;
  double weight = 0;
  std::int64_t tokens = 0;
  std::int64_t nonfinite_micro_batch = -1;  ///< Index of the first one whose loss is NaN or infinite, or -1.
  std::map<std::string, LossSum::Part> parts;
  int signal = 0;                                        ///< What SignalWatch noted, on one of the ranks.
  bool save_due = false;                                 ///< StepTarget::save_due of one of the ranks.
  std::map<std::int32_t, std::int64_t> language_tokens;  ///< By Batch::language_ids; -1: unknown.
};

/// Where the gradients and figures of a step come together.
struct StepTarget {
  at::Device device = at::kCPU;  ///< Of the trained parameters.
  GradientSums& gradients;
  dist::Communicator& ranks;  ///< That share the step; figures are summed over them.
  bool save_due = false;      ///< This rank's clock asks for a checkpoint after the step.
};

/// Figures summed over ranks, in their order; the nonfinite micro-batch is that of the first rank that has
/// one. A collective.
[[nodiscard]] StepSums sum_over_ranks(const StepSums& own, dist::Communicator& ranks);

/// Forward and backward of all micro-batches that this rank has of a step; those without tokens are passed
/// over. The gradients are the target's. Reads the loss from the device once, at the end. Throws DataError
/// when nothing in the whole step is supervised.
[[nodiscard]] StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const LossFunction& loss,
                                            nn::ForwardContext context, const StepTarget& target);

/// The same for a loss that looks across all micro-batches of a step, by GradCache (Gao et al. 2021): the
/// embeddings of every micro-batch without gradients, the loss and its gradient for each embedding, then
/// every micro-batch once more with gradients, its dropout replayed. The gradients are those of the whole
/// batch at once, in the memory of one micro-batch. A step of one micro-batch is computed once.
[[nodiscard]] StepSums accumulate_gradients(const std::vector<Batch>& micro_batches,
                                            const objectives::EmbeddingLoss& loss, nn::ForwardContext context,
                                            const StepTarget& target);

/// Both for a rank by itself: the gradients are left in `optimizer` (see AdamW::gradients). With several
/// micro-batches and `accumulate_in_float32`, 16-bit gradients are summed in float32.
[[nodiscard]] StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const LossFunction& loss,
                                            nn::ForwardContext context, optim::AdamW& optimizer,
                                            bool accumulate_in_float32);

[[nodiscard]] StepSums accumulate_gradients(const std::vector<Batch>& micro_batches,
                                            const objectives::EmbeddingLoss& loss, nn::ForwardContext context,
                                            optim::AdamW& optimizer, bool accumulate_in_float32);

}  // namespace bitrain::train
