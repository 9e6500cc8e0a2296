#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

/// Exact nearest neighbours: every query against every candidate, in blocks.
namespace bitrain::eval {

struct SearchOptions {
  std::int64_t k = 10;
  std::string similarity = "cosine";
  std::int64_t csls_neighbours = 0;
};

template <class Visitor>
void visit_fields(Visitor& v, SearchOptions& o) {
  v.field("k", o.k, at_least(1), "Candidates returned for each query.");
  v.field("similarity", o.similarity, one_of({"cosine", "dot"}), "How two embeddings are compared.");
  v.field("csls_neighbours", o.csls_neighbours, at_least(0),
          "Above 0: cross-domain similarity local scaling over so many neighbours, against hubs "
          "(Lample et al. 2018; 10 there). 0: none.");
}

struct Neighbours {
  at::Tensor rows;    ///< [Q, k] int64, best first; of equal scores the lower row comes first.
  at::Tensor scores;  ///< [Q, k] float32.
};

/// The k best of candidates [N, D] for each of queries [Q, D], float32 or bfloat16 on one device; scores
/// are compared in float32, on the CPU after products in the type of the embeddings, on a GPU unrounded. k is
/// cut to N. No Q x N matrix is made. Throws DataError naming the first row that has NaN or infinity, or, for
/// cosine, is all zero; StateError for shapes or types that do not fit, or no candidates.
[[nodiscard]] Neighbours search(const at::Tensor& queries, const at::Tensor& candidates,
                                const SearchOptions& options = {});

}  // namespace bitrain::eval
