#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/nn/module.h>

/// The differentiable pieces of a transformer over packed tokens. float32 and bfloat16 tensors (on CUDA
/// float16 too) go through kernels, forward and backward: those of <bitrain/kernels/cpu_kernels.h> or
/// <bitrain/kernels/cuda_kernels.h>, and LibTorch's for attention on CUDA; anything else
/// (float64, float16 on the CPU) through the plain ATen forms of <bitrain/nn/functional_reference.h>. All
/// arithmetic is in float32 (or wider), whatever the storage. On the CPU results do not depend on the number
/// of threads. Shapes that do not fit throw StateError.
namespace bitrain::nn {

/// x [.., D] * rsqrt(mean(x^2) + eps) * weight [D] (Zhang and Sennrich 2019), rounded once. `weight` may have
/// another floating dtype than x. Keeps x and one float32 a row for backward.
[[nodiscard]] at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// {x + residual, rms_norm(x + residual, weight, eps)} in one pass each way: the sum of a residual branch and
/// the norm that reads it.
[[nodiscard]] std::pair<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                                             const at::Tensor& weight, double eps);

/// (x - mean(x)) * rsqrt(var(x) + eps) * weight [D] + bias [D] over the last dimension (Ba et al. 2016),
/// rounded once. `weight` and `bias` share a floating dtype, which may differ from x's. Keeps x and two
/// float32 a row for backward.
[[nodiscard]] at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                    double eps);

/// {x + residual, layer_norm(x + residual, weight, bias, eps)} in one pass each way.
[[nodiscard]] std::pair<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& x,
                                                               const at::Tensor& residual,
                                                               const at::Tensor& weight,
                                                               const at::Tensor& bias, double eps);

/// How gelu is computed: kErf is x P(normal <= x) (Hendrycks and Gimpel 2016), kTanh their approximation of
/// it.
enum class Gelu { kErf, kTanh };
/// Keeps x, nothing else.
[[nodiscard]] at::Tensor gelu(const at::Tensor& x, Gelu form = Gelu::kErf);

/// silu(gate) * up (Shazeer 2020), same shape and dtype. Keeps gate and up, nothing else.
[[nodiscard]] at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// Rotary positions in Hugging Face's half-rotation layout (Su et al. 2021): with x = [x1 | x2] in halves of
/// the head, y = [x1 cos - x2 sin | x2 cos + x1 sin]. x [N, H, head_dim]; cos and sin float32 [P, head_dim]
/// (both halves equal, only the first is read) or [P, head_dim / 2], constants; position_ids [N] int64 in
/// [0, P), or undefined for 0..N-1. Throws DataError for a position outside the tables (on the CPU).
[[nodiscard]] at::Tensor apply_rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                                      const at::Tensor& position_ids = {});

/// softmax(scale * q k^T) v within each segment. q [N, H, head_dim]; k and v [N, H_kv, head_dim], H a
/// multiple of H_kv (grouped-query attention: head h reads h / (H / H_kv)). `boundaries`: 0, then the end of
/// each segment, the last one N (Batch::boundaries). Never holds more than a tile of scores
/// (FlashAttention-2, Dao 2023); backward recomputes them. Returns [N, H, head_dim].
[[nodiscard]] at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const std::vector<std::int32_t>& boundaries, double scale,
                                          bool causal = true);

/// Zeroes elements of x [N, ..] with probability p (rounded to a multiple of 2^-16) and divides the others by
/// 1 - p. Whether an element stays is a pure function of (key.seed, key.step, stream, key.first_token + row,
/// position in the row), drawn again in backward: nothing is kept. p = 0 returns x.
[[nodiscard]] at::Tensor dropout(const at::Tensor& x, double p, const DropoutKey& key, std::uint64_t stream);

/// Rows of weight [V, D] by ids [N] int64 -> [N, D]. The gradient of the weight is dense, sums in float32 and
/// in a fixed order. Throws DataError naming the position for an id outside [0, V) (on the CPU).
[[nodiscard]] at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids);

}  // namespace bitrain::nn
