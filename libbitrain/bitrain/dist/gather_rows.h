#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/dist/communicator.h>

namespace bitrain::dist {

struct GatheredRows {
  at::Tensor rows;          ///< [M, ...]: the rows of every rank, in the order of ranks.
  std::int64_t offset = 0;  ///< Where this rank's rows begin in it.
};

/// The rows [n, ...] of all ranks of a group; n may differ. Differentiable: backward sums over ranks what
/// each has for a row and gives it to the rank the row is from (a reduce-scatter), so every rank of the group
/// must run backward.
///
/// The convention: with a loss on every rank that is a *sum over its own rows*, what arrives is the gradient
/// of the sum of these losses over the ranks; parameter gradients are then summed over ranks and divided once
/// by the global count. Where every rank computes the same loss of all rows, it is that loss `size` times.
///
/// `group` must live until backward has run. In a group of one, the rows themselves.
[[nodiscard]] GatheredRows gather_rows(const at::Tensor& rows, Communicator& group);

/// Communicator::all_to_all, differentiable: backward gives every row's gradient back to the rank it came
/// from, so every rank of the group must run backward. `group` must live until then.
[[nodiscard]] at::Tensor exchange_rows(const at::Tensor& rows, const std::vector<std::int64_t>& given,
                                       const std::vector<std::int64_t>& taken, Communicator& group,
                                       const std::string& what);

}  // namespace bitrain::dist
