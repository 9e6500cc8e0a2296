#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::eval {

/// Semantic textual similarity: Spearman's rank correlation of the cosines of row i of `left` and row i of
/// `right`, both float32 [N, D], with people's scores [N] (sentence-transformers'
/// EmbeddingSimilarityEvaluator, spearman_cosine). Throws as check_embeddings and spearman: DataError for NaN
/// and infinity, zero rows, fewer than two pairs, and where it is not defined because all embeddings, all
/// cosines or all scores are equal; StateError for shapes that do not fit.
[[nodiscard]] double score_similarity(const at::Tensor& left, const at::Tensor& right,
                                      const std::vector<double>& scores);

}  // namespace bitrain::eval
