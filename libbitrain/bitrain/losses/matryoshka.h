#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

namespace bitrain::losses {

struct MatryoshkaOptions {
  std::vector<std::int64_t> dims = {};
  std::vector<double> weights = {};
  bool normalize = true;
};

template <class Visitor>
void visit_fields(Visitor& v, MatryoshkaOptions& o) {
  v.field(
      "dims", o.dims, any(),
      "Numbers of leading features that must serve as embeddings of their own; all of them, too, only where "
      "the list names it. Empty: embeddings count whole.");
  v.field("weights", o.weights, any(), "What the loss at each width counts. Empty: 1 each.");
  v.field("normalize", o.normalize, any(), "Scale the leading features to length 1 again.");
}

/// A loss of some embeddings, each [.., D]: queries, documents, ...
using EmbeddingLoss = std::function<at::Tensor(const std::vector<at::Tensor>& embeddings)>;

/// Throws ConfigError for no width, one below 1, twice the same, or weights that are negative, not finite, or
/// of another number.
void check_widths(const MatryoshkaOptions& options);

/// sum over k of weights_k loss(leading dims_k features of every embedding), so that an embedding may be cut
/// (Matryoshka representations, Kusupati et al. 2022). Has the shape of what `loss` returns. Throws as
/// check_widths, and StateError for embeddings narrower than a width, or none.
[[nodiscard]] at::Tensor matryoshka(const EmbeddingLoss& loss, const std::vector<at::Tensor>& embeddings,
                                    const MatryoshkaOptions& options);

}  // namespace bitrain::losses
