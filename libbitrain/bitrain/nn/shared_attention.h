#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/dist/communicator.h>

namespace bitrain::nn {

/// packed_attention, causal, where ranks share the tokens (DeepSpeed-Ulysses, Jacobs et al. 2023): heads are
/// exchanged for tokens, so that each rank attends over all tokens with its share of the heads, and exchanged
/// back. Every head is computed as on one rank. q [n, H, head_dim], k and v [n, H_kv, head_dim] are this
/// rank's tokens (bitrain::token_share); `boundaries` are those of all of them. Heads need not divide by
/// ranks; key-value heads that several ranks read go to all of these. Returns [n, H, head_dim].
///
/// Moves n (H + 2 H_kv + H) head_dim elements forward and as many backward (more where key-value heads are
/// read by several ranks), (W - 1) / W of them to other ranks. A collective, in backward too. Throws
/// ConfigError for more ranks than heads.
[[nodiscard]] at::Tensor shared_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const std::vector<std::int32_t>& boundaries, double scale,
                                          dist::Communicator& ranks);

}  // namespace bitrain::nn
