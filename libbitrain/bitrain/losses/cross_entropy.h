#pragma once

#include <ATen/core/Tensor.h>

namespace bitrain::losses {

/// losses[i] = logsumexp(row i) - row i[labels[i]] for logits [n, V] whose rows lie side by side or apart,
/// labels [n] int64 in [0, V), losses [n] float32 (float64 for float64 logits). With `gradient`, the logits
/// become d(sum of weights_i losses_i) / d(logits); weights [n] like losses, or undefined: 1. Kernels
/// for float32 and bfloat16, and float16 on CUDA: there labels, weights and losses must be contiguous and on
/// the device of the logits; plain ATen for other types.
void cross_entropy_in_place(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& weights,
                            bool gradient, const at::Tensor& losses);

}  // namespace bitrain::losses
