#pragma once

#include <ATen/core/Tensor.h>

#include <bitrain/kernels/cpu_kernels.h>

/// Which kernels run on a tensor. For the .cpp files of this module and of those above it.
namespace bitrain::nn {

/// Whether tensors like `x` have kernels: float32 and bfloat16 on the CPU; those and float16 on CUDA.
[[nodiscard]] bool has_kernels(const at::Tensor& x);

/// How kernels name the dtype of `x`. Throws UnsupportedError where has_kernels is false.
[[nodiscard]] kernels::FloatType kernel_type(const at::Tensor& x);

/// The kernels of the machine that holds `x`; all other tensors of a call must lie there too. Those of CUDA
/// run on LibTorch's current stream and throw StateError when they cannot be launched or when work before
/// them had failed; entries that CUDA lacks are null. Throws StateError when `x` is not on the current
/// device.
[[nodiscard]] const kernels::Kernels& kernels_on(const at::Tensor& x);

/// Row v of dtable [V, D] becomes the sum of the rows of dy [n, D] whose id is v, in float32 and in order,
/// for CUDA; `ids` [n] int64 sorted, `order` [n] int64 the row of dy of each. Rows without an id are left.
void scatter_add_on_cuda(const at::Tensor& dy, const at::Tensor& ids, const at::Tensor& order,
                         const at::Tensor& dtable);

}  // namespace bitrain::nn
