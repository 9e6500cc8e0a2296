#pragma once

#include <cstddef>

#include <bitrain/kernels/cpu_kernels.h>

/// The kernels of libbitrain_cuda.so, which is opened at run time (base/cuda_library.h).
namespace bitrain::kernels {

/// Rows whose share of a norm's weight gradient is summed together.
inline constexpr std::int64_t kNormChunk = 128;
constexpr std::int64_t norm_chunks(std::int64_t rows) {
  return (rows + kNormChunk - 1) / kNormChunk;
}

/// The entries of Kernels that there are for CUDA: the same arguments, every pointer in device memory, and a
/// cudaStream_t of the current device. Launches are asynchronous and return a cudaError_t; 0: launched, and
/// nothing before it had failed. The backward of norms takes memory of norm_chunks(rows) x dim float32 before
/// the stream, twice as much for layer_norm; null without dweight.
struct CudaKernels {
  template <class Function>
  struct OnStream;
  template <class... Arguments>
  struct OnStream<void (*)(Arguments...)> {
    using Type = int (*)(Arguments..., void* stream);
    using WithMemory = int (*)(Arguments..., float* memory, void* stream);
  };
  template <class Function>
  using Launch = typename OnStream<Function>::Type;

  std::size_t size;  ///< sizeof(CudaKernels) where the library was built: another one is another version.
  Launch<decltype(Kernels::rms_norm)> rms_norm;
  OnStream<decltype(Kernels::rms_norm_backward)>::WithMemory rms_norm_backward;
  Launch<decltype(Kernels::layer_norm)> layer_norm;
  OnStream<decltype(Kernels::layer_norm_backward)>::WithMemory layer_norm_backward;
  Launch<decltype(Kernels::rotary)> rotary;
  Launch<decltype(Kernels::swiglu)> swiglu;
  Launch<decltype(Kernels::swiglu_backward)> swiglu_backward;
  Launch<decltype(Kernels::gelu)> gelu;
  Launch<decltype(Kernels::gelu_backward)> gelu_backward;
  Launch<decltype(Kernels::cross_entropy)> cross_entropy;
  Launch<decltype(Kernels::dropout)> dropout;
  /// As Kernels::scatter_add, but for how equal ids are found: `ids` [n] are sorted, `order` [n] says which
  /// row of dy each belongs to.
  int (*scatter_add)(FloatType type, ConstRows dy, const std::int64_t* ids, const std::int64_t* order,
                     std::int64_t n, std::int64_t dim, void* dtable, void* stream);
  Launch<decltype(Kernels::segment_sum)> segment_sum;
  Launch<decltype(Kernels::segment_sum_backward)> segment_sum_backward;
  Launch<decltype(Kernels::segment_max)> segment_max;
  Launch<decltype(Kernels::segment_max_backward)> segment_max_backward;
};

}  // namespace bitrain::kernels

extern "C" const bitrain::kernels::CudaKernels* bitrain_cuda_kernels();
