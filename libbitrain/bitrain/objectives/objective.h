#pragma once

#include <string>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/base/loss_sum.h>
#include <bitrain/data/packing.h>
#include <bitrain/models/language_model.h>

namespace bitrain::objectives {

/// What one training step optimises: how an example becomes tokens and labels, and a batch a loss.
class Objective {
 public:
  Objective() = default;
  Objective(const Objective&) = delete;
  Objective& operator=(const Objective&) = delete;
  virtual ~Objective() = default;

  /// Tokens and labels of an example; empty when there is nothing to learn from. Thread-safe.
  [[nodiscard]] virtual data::TokenSequence encode(const data::Example& example) const = 0;

  /// Sum over the supervised tokens of a micro-batch, their number as weight, and the share of each language
  /// as part "language/<code>".
  [[nodiscard]] virtual LossSum loss(models::LanguageModel& model, const Batch& batch,
                                     const nn::ForwardContext& context) const = 0;
};

/// Next-token loss of a batch with labels: the model, then head and cross-entropy in chunks. Shared by
/// objectives and evaluation. Batch::weights scale segments, in sum and weight alike.
[[nodiscard]] LossSum next_token_loss(models::LanguageModel& model, const Batch& batch,
                                      const nn::ForwardContext& context,
                                      const std::vector<std::string>& languages);

/// Sequence from whole tokens and which of them are to be learnt: shifts labels, drops trailing tokens that
/// predict nothing. Empty when nothing is left.
[[nodiscard]] data::TokenSequence shift_labels(const std::vector<std::int32_t>& tokens,
                                               const std::vector<bool>& supervised);

}  // namespace bitrain::objectives
