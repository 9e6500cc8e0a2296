#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain::losses {

struct ListwiseLoss {
  at::Tensor sum;          ///< [] in the type of the scores; differentiable.
  std::int64_t count = 0;  ///< Queries.
  std::int64_t first = 0;  ///< Those whose positive scores above all their negatives.
};

/// Sum over queries of -log softmax, over the query's candidates, of its positive's score, which comes first
/// (T2Ranking's cross-encoder, Xie et al. 2023). `scores` [C] float32 or float64, the candidates of a query
/// next to each other; `ends`: where those of each query end, the last one C. Throws DataError for a query
/// whose positive is alone: it has nothing to be told from; StateError for ends that do not fit.
[[nodiscard]] ListwiseLoss listwise_cross_entropy(const at::Tensor& scores,
                                                  const std::vector<std::int64_t>& ends);

}  // namespace bitrain::losses
