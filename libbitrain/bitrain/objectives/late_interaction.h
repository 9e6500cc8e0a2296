#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/data/packing.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/late_interaction_encoder.h>
#include <bitrain/objectives/embedding_loss.h>
#include <bitrain/objectives/interaction_tokens.h>

namespace bitrain::objectives {

struct LateInteractionLossOptions {
  std::int64_t negatives = 1;
};
template <class Visitor>
void visit_fields(Visitor& v, LateInteractionLossOptions& o) {
  v.field(
      "negatives", o.negatives, at_least(0),
      "Hard negatives of each query, the first of its row; rows with fewer are passed over and counted. 0: "
      "only the other documents of the step.");
}

/// Trains a late-interaction encoder as ColBERT-XM does (Louis et al. 2024): the positive of each query
/// (Example::text, Example::pair_text) is to score higher than its hard negatives (Example::negatives), and
/// than the positives of all other queries of the step.
class LateInteraction {
 public:
  /// `languages`: what Batch::language_ids mean (data::languages_of).
  LateInteraction(std::shared_ptr<const InteractionTokens> tokens, std::vector<std::string> languages,
                  LateInteractionLossOptions options = {});

  /// The texts of an example as parts: query, positive, negatives. Empty when a side is, when both are the
  /// same text, when a document has no token that counts, or there are too few negatives (those equal to
  /// another text of the example do not count). Throws DataError, naming source and row, for an example that
  /// is not a pair.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const;

  /// losses::colbert_loss over the token vectors of a step, for train::TrainParts; its weight is the number
  /// of queries. The model must outlive it. Throws DataError for a step of one query without hard negatives.
  [[nodiscard]] EmbeddingLoss loss(models::LateInteractionEncoder& model) const;

 private:
  [[nodiscard]] LossSum loss_of(const at::Tensor& vectors, const std::vector<Batch>& micro_batches) const;

  std::shared_ptr<const InteractionTokens> tokens_;
  std::vector<std::string> languages_;
  LateInteractionLossOptions options_;
};

}  // namespace bitrain::objectives
