#pragma once

#include <optional>
#include <vector>

#include <bitrain/nn/low_rank.h>
#include <bitrain/nn/unit.h>

namespace bitrain::nn {

/// A table of token rows with optional LowRank adapters and separately trained rows.
class Embedding : public Unit {
 public:
  Embedding(std::int64_t num_embeddings, std::int64_t embedding_dim, at::TensorOptions options = {});

  /// ids [N] int64 -> [N, dim]. Throws DataError for an id outside the table (CPU only: a check on GPU would
  /// synchronise).
  [[nodiscard]] at::Tensor forward(const at::Tensor& ids, const ForwardContext& context) const;
  [[nodiscard]] at::Tensor merged_weight(at::ScalarType dtype) const;

  [[nodiscard]] std::int64_t num_embeddings() const { return weight.size(0); }
  [[nodiscard]] std::int64_t embedding_dim() const { return weight.size(1); }

  at::Tensor weight;  ///< [V, D]
  std::vector<LowRank> adapters;
  std::optional<TrainableRows> trainable_rows;

  void visit_own_tensors(const TensorVisitor& visit) override;
  void visit_own_parts(const PartVisitor& visit) override;
};

}  // namespace bitrain::nn
