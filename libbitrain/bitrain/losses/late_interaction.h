#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

/// Late interaction (ColBERT, Khattab and Zaharia 2020): a text is the set of its token vectors, and every
/// query token asks for its best document token.
namespace bitrain::losses {

/// Token vectors of some texts, packed without padding.
struct TokenVectors {
  at::Tensor vectors;                    ///< [N, D], of length 1 where scores are to be sums of cosines.
  std::vector<std::int32_t> boundaries;  ///< 0, then the end of each text, the last one N.
  at::Tensor left_out;  ///< [N] bool: tokens that do not count (punctuation). Undefined: none.

  [[nodiscard]] std::int64_t texts() const { return static_cast<std::int64_t>(boundaries.size()) - 1; }
};

/// scores [Bq, Bd]: score(q, d) = sum over query tokens i of max over document tokens j of <q_i, d_j>.
///
/// Tiles of similarities are made and reduced at once; of each (query token, document) one int32 is kept: the
/// best token, which alone gets the gradient (of equal ones, the first). float32, or float64 where a side is.
/// Sums do not depend on the number of threads. Throws DataError for a text of which every token is left out;
/// StateError for an empty text, or for shapes, types or boundaries that do not fit.
[[nodiscard]] at::Tensor max_sim(const TokenVectors& queries, const TokenVectors& documents);

/// scores [Bq, n]: query i against its own documents i * n .. i * n + n - 1 only; n = Bd / Bq must be whole.
[[nodiscard]] at::Tensor max_sim_own(const TokenVectors& queries, const TokenVectors& documents);

/// ColBERT's loss [B] for each query (v1.5, as ColBERT-XM trains; Louis et al. 2024): the softmax
/// cross-entropy of its positive among its own n documents (the first of each n, hard negatives after it),
/// plus that of its positive among the positives of the whole batch, with equal weights and no temperature.
/// With one query the second term is 0. Throws as max_sim does, and DataError when there is no negative at
/// all.
[[nodiscard]] at::Tensor colbert_loss(const TokenVectors& queries, const TokenVectors& documents);

namespace reference {
/// max_sim in plain ATen calls, for any device.
[[nodiscard]] at::Tensor max_sim(const TokenVectors& queries, const TokenVectors& documents);
[[nodiscard]] at::Tensor max_sim_own(const TokenVectors& queries, const TokenVectors& documents);
}  // namespace reference

}  // namespace bitrain::losses
