#pragma once

#include <ATen/core/Tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/kernels/cpu_kernels.h>

/// For the .cpp files of this module: tensors as the CPU kernels see them.
namespace bitrain::optim {

[[nodiscard]] inline bool has_cpu_kernel(const at::Tensor& tensor) {
  return tensor.is_cpu() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
}

[[nodiscard]] inline kernels::FloatType kernel_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return kernels::FloatType::kFloat32;
    case at::kBFloat16: return kernels::FloatType::kBFloat16;
    default: throw UnsupportedError("no CPU kernel for dtype ", c10::toString(tensor.scalar_type()));
  }
}

}  // namespace bitrain::optim
