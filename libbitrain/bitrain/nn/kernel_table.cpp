#include <bitrain/nn/kernel_table.h>

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/kernels/cuda_kernels.h>

namespace bitrain::nn {
namespace {

using kernels::ConstRows;
using kernels::CudaKernels;
using kernels::FloatType;
using kernels::Kernels;
using kernels::Rows;

const CudaKernels& cuda_kernels() {
  static const CudaKernels& kernels = [&]() -> const CudaKernels& {
    const CudaKernels& found = *cuda_function<decltype(bitrain_cuda_kernels)>("bitrain_cuda_kernels")();
    if (found.size != sizeof(CudaKernels))
      throw UnsupportedError(
          "device cuda: the library of kernels comes from another version of bitrain; build both "
          "together");
    return found;
  }();
  return kernels;
}

// A kernel of CUDA with the signature of the CPU's: on the current stream, and checked.
template <auto kKernel, class... Arguments>
void launch(Arguments... arguments) {
  check_cuda((cuda_kernels().*kKernel)(arguments..., current_cuda_stream()), "launch a kernel");
}
template <auto kKernel, class... Arguments>
void take(void (*&entry)(Arguments...)) {
  entry = &launch<kKernel, Arguments...>;
}

/// Memory on the current device for the shares of a norm's weight gradient.
at::Tensor share_memory(std::int64_t rows, std::int64_t dim, std::int64_t kinds, const float* dweight) {
  if (dweight == nullptr) return {};
  const c10::impl::VirtualGuardImpl guard(at::kCUDA);
  return at::empty({kernels::norm_chunks(rows) * kinds * dim},
                   at::TensorOptions(guard.getDevice()).dtype(at::kFloat));
}
float* address_of(const at::Tensor& memory) {
  return memory.defined() ? memory.mutable_data_ptr<float>() : nullptr;
}

void rms_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                       FloatType weight_type, const float* rstd, std::int64_t rows, std::int64_t dim, Rows dx,
                       float* dweight) {
  const at::Tensor memory = share_memory(rows, dim, 1, dweight);
  launch<&CudaKernels::rms_norm_backward>(type, dy, dsum, x, weight, weight_type, rstd, rows, dim, dx,
                                          dweight, address_of(memory));
}

void layer_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                         FloatType weight_type, const float* mean, const float* rstd, std::int64_t rows,
                         std::int64_t dim, Rows dx, float* dweight, float* dbias) {
  const at::Tensor memory = share_memory(rows, dim, 2, dweight);
  launch<&CudaKernels::layer_norm_backward>(type, dy, dsum, x, weight, weight_type, mean, rstd, rows, dim, dx,
                                            dweight, dbias, address_of(memory));
}

Kernels cuda_table() {
  Kernels table{};
  table.isa = "cuda";
  take<&CudaKernels::rms_norm>(table.rms_norm);
  table.rms_norm_backward = rms_norm_backward;
  take<&CudaKernels::layer_norm>(table.layer_norm);
  table.layer_norm_backward = layer_norm_backward;
  take<&CudaKernels::rotary>(table.rotary);
  take<&CudaKernels::swiglu>(table.swiglu);
  take<&CudaKernels::swiglu_backward>(table.swiglu_backward);
  take<&CudaKernels::gelu>(table.gelu);
  take<&CudaKernels::gelu_backward>(table.gelu_backward);
  take<&CudaKernels::cross_entropy>(table.cross_entropy);
  take<&CudaKernels::dropout>(table.dropout);
  take<&CudaKernels::segment_sum>(table.segment_sum);
  take<&CudaKernels::segment_sum_backward>(table.segment_sum_backward);
  take<&CudaKernels::segment_max>(table.segment_max);
  take<&CudaKernels::segment_max_backward>(table.segment_max_backward);
  return table;
}

}  // namespace

bool has_kernels(const at::Tensor& x) {
  const at::ScalarType type = x.scalar_type();
  return (x.is_cpu() || x.is_cuda()) &&
         (type == at::kFloat || type == at::kBFloat16 || (type == at::kHalf && x.is_cuda()));
}

kernels::FloatType kernel_type(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return kernels::FloatType::kFloat32;
    case at::kBFloat16: return kernels::FloatType::kBFloat16;
    case at::kHalf:
      if (x.is_cuda()) return kernels::FloatType::kFloat16;
      [[fallthrough]];
    default:
      throw UnsupportedError("no kernel for dtype ", c10::toString(x.scalar_type()), " on ",
                             x.device().str());
  }
}

const Kernels& kernels_on(const at::Tensor& x) {
  if (!x.is_cuda()) return kernels::cpu_kernels();
  const at::Device current = c10::impl::VirtualGuardImpl(at::kCUDA).getDevice();
  if (x.device() != current)
    throw StateError("a tensor on ", x.device().str(), " while ", current.str(),
                     " is the current device: make its device current (c10::DeviceGuard)");
  static const Kernels table = cuda_table();
  return table;
}

void scatter_add_on_cuda(const at::Tensor& dy, const at::Tensor& ids, const at::Tensor& order,
                         const at::Tensor& dtable) {
  check_cuda(
      cuda_kernels().scatter_add(kernel_type(dy), {dy.const_data_ptr(), dy.stride(0)},
                                 ids.const_data_ptr<std::int64_t>(), order.const_data_ptr<std::int64_t>(),
                                 ids.size(0), dy.size(1), dtable.mutable_data_ptr(), current_cuda_stream()),
      "add up the gradients of a table");
}

}  // namespace bitrain::nn
