#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

/// Contrastive losses over in-batch candidates. The [B, M] matrix of similarities never exists: tiles of some
/// rows are made, turned into their gradient in place and used up, so memory grows with B + M and not with
/// B * M.
namespace bitrain::losses {

struct InfoNceOptions {
  std::string similarity = "cosine";
  double scale = 20.0;
  std::int64_t csls_neighbours = 0;
};

template <class Visitor>
void visit_fields(Visitor& v, InfoNceOptions& o) {
  v.field("similarity", o.similarity, one_of({"cosine", "dot"}), "How two embeddings are compared.");
  v.field("scale", o.scale, above(0),
          "Similarities are multiplied by it: 1 / temperature (sentence-transformers: 20).");
  v.field(
      "csls_neighbours", o.csls_neighbours, at_least(0),
      "Above 0: compare by cross-domain similarity local scaling over so many queries, which takes from a "
      "candidate what it has in common with all (Lample et al. 2018; 10 there). 0: none.");
}

/// Which candidate is whose positive, and which do not count. All by numbers of rows, so that it costs
/// O(B + M).
struct CandidateRules {
  /// What becomes of a candidate that has the label of the query without being its positive.
  enum class SameLabel { kLeftOut, kPositive };

  at::Tensor positives;     ///< [B] int64: column of each query's positive. Undefined: column i for row i.
  at::Tensor query_labels;  ///< [B] int64; undefined: no labels.
  at::Tensor candidate_labels;  ///< [M] int64, with query_labels.
  SameLabel same_label = SameLabel::kLeftOut;
  bool exclude_self =
      false;  ///< Column i is row i itself and does not count. Needs `positives` or kPositive.
};

struct ContrastiveLoss {
  at::Tensor sum;        ///< [] float32 (float64 for float64 embeddings), differentiable once.
  at::Tensor per_query;  ///< [B] like `sum`, detached, without weights.
  double count = 0;      ///< Queries that have a positive.
};

/// InfoNCE (van den Oord et al. 2018), as MultipleNegativesRanking: sum over queries i of
///     weights_i * -log softmax_j(scale * sim(query_i, candidate_j))[positive_i].
///
/// queries [B, D], candidates [M, D]: the first B usually the positives, then hard negatives, a memory bank
/// or what other ranks sent. Candidates that need no gradient (a bank) must not require grad.
/// - NT-Xent (Chen et al. 2020): both sides joined are queries and candidates, positives point to the other
///   half, exclude_self.
/// - SupCon (Khosla et al. 2020): labels with kPositive, exclude_self: the mean over all positives of a query
///   of its log-probabilities. A query without any is left out of sum and count.
///
/// `logit_scale` []: a learnable scale in place of options.scale. `weights` [B]. Where a gradient will be
/// asked for, it is computed at once, and backward can run once. A zero vector has cosine 0 with everything.
///
/// Throws DataError when a query has no negative (a batch of one pair has nothing to learn from) or no query
/// has a positive; StateError for shapes, types or columns that do not fit.
[[nodiscard]] ContrastiveLoss info_nce(const at::Tensor& queries, const at::Tensor& candidates,
                                       const InfoNceOptions& options = {}, const CandidateRules& rules = {},
                                       const at::Tensor& logit_scale = {}, const at::Tensor& weights = {});

}  // namespace bitrain::losses
