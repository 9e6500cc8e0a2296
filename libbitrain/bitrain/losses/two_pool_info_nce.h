#pragma once

#include <ATen/core/Tensor.h>

#include <bitrain/losses/info_nce.h>

namespace bitrain::losses {

/// HMDE's loss of pairs of documents with a pool of hard negatives for each side (Galoğlu et al. 2023, arXiv
/// 2305.07016): rows a1 [B, D] look for their pairs among [a2; a3], rows a2 [B, D] among [a1; a4], and the
/// SUM of both ways is taken, not their mean. a3 [H, D] are hard negatives in the language of a2, a4 [H', D]
/// in that of a1; either may be undefined. Without them it is twice symmetric InfoNCE. Nothing larger than a
/// tile of similarities is made. per_query is the sum of both ways; count is B. Throws as info_nce;
/// StateError for sides that are no pairs.
[[nodiscard]] ContrastiveLoss two_pool_info_nce(const at::Tensor& a1, const at::Tensor& a2,
                                                const at::Tensor& a3, const at::Tensor& a4,
                                                const InfoNceOptions& options = {});

}  // namespace bitrain::losses
