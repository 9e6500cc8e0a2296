#include <type_traits>

#include <bitrain/kernels/cuda_kernels.h>

namespace bitrain::kernels::cuda {

// What the other files define; a signature that differs from the table's is another function and does not
// link.
std::remove_pointer_t<decltype(CudaKernels::rms_norm)> rms_norm;
std::remove_pointer_t<decltype(CudaKernels::rms_norm_backward)> rms_norm_backward;
std::remove_pointer_t<decltype(CudaKernels::layer_norm)> layer_norm;
std::remove_pointer_t<decltype(CudaKernels::layer_norm_backward)> layer_norm_backward;
std::remove_pointer_t<decltype(CudaKernels::rotary)> rotary;
std::remove_pointer_t<decltype(CudaKernels::swiglu)> swiglu;
std::remove_pointer_t<decltype(CudaKernels::swiglu_backward)> swiglu_backward;
std::remove_pointer_t<decltype(CudaKernels::gelu)> gelu;
std::remove_pointer_t<decltype(CudaKernels::gelu_backward)> gelu_backward;
std::remove_pointer_t<decltype(CudaKernels::cross_entropy)> cross_entropy;
std::remove_pointer_t<decltype(CudaKernels::dropout)> dropout;
std::remove_pointer_t<decltype(CudaKernels::scatter_add)> scatter_add;
std::remove_pointer_t<decltype(CudaKernels::segment_sum)> segment_sum;
std::remove_pointer_t<decltype(CudaKernels::segment_sum_backward)> segment_sum_backward;
std::remove_pointer_t<decltype(CudaKernels::segment_max)> segment_max;
std::remove_pointer_t<decltype(CudaKernels::segment_max_backward)> segment_max_backward;

}  // namespace bitrain::kernels::cuda

extern "C" const bitrain::kernels::CudaKernels* bitrain_cuda_kernels() {
  using namespace bitrain::kernels;
  static const CudaKernels kKernels = {sizeof(CudaKernels),
                                       cuda::rms_norm,
                                       cuda::rms_norm_backward,
                                       cuda::layer_norm,
                                       cuda::layer_norm_backward,
                                       cuda::rotary,
                                       cuda::swiglu,
                                       cuda::swiglu_backward,
                                       cuda::gelu,
                                       cuda::gelu_backward,
                                       cuda::cross_entropy,
                                       cuda::dropout,
                                       cuda::scatter_add,
                                       cuda::segment_sum,
                                       cuda::segment_sum_backward,
                                       cuda::segment_max,
                                       cuda::segment_max_backward};
  return &kKernels;
}
