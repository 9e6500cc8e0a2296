// Sums and maxima over segments on CUDA: a thread a feature, in the order of the tokens, as on the CPU.
#include <bitrain/kernels/cuda_support.cuh>

namespace bitrain::kernels::cuda {
namespace {

template <class T>
__global__ void segment_sum_kernel(ConstRows x, const float* weights, const std::int32_t* boundaries,
                                   Index dim, float* y) {
  const Index segment = blockIdx.x;
  const Index i = static_cast<Index>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= dim) return;
  float sum = 0;
  for (Index t = boundaries[segment]; t < boundaries[segment + 1]; ++t)
    sum = fmaf(weights[t], to_float(row<T>(x, t)[i]), sum);
  y[segment * dim + i] = sum;
}

template <class T>
__global__ void segment_sum_backward_kernel(const float* dy, const float* weights,
                                            const std::int32_t* boundaries, Index dim, Rows dx) {
  const Index segment = blockIdx.x;
  const Index i = static_cast<Index>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= dim) return;
  const float slope = dy[segment * dim + i];
  for (Index t = boundaries[segment]; t < boundaries[segment + 1]; ++t)
    row<T>(dx, t)[i] = from_float<T>(weights[t] * slope);
}

// The first of equal values wins, and NaN above all.
template <class T>
__global__ void segment_max_kernel(ConstRows x, const std::int32_t* boundaries, Index dim, float* y,
                                   std::int32_t* where) {
  const Index segment = blockIdx.x;
  const Index i = static_cast<Index>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= dim) return;
  const std::int32_t begin = boundaries[segment];
  float largest = to_float(row<T>(x, begin)[i]);
  std::int32_t place = begin;
  for (std::int32_t t = begin + 1; t < boundaries[segment + 1]; ++t) {
    const float value = to_float(row<T>(x, t)[i]);
    if (value > largest || (value != value && largest == largest)) {
      largest = value;
      place = t;
    }
  }
  y[segment * dim + i] = largest;
  where[segment * dim + i] = place;
}

template <class T>
__global__ void segment_max_backward_kernel(const float* dy, const std::int32_t* where,
                                            const std::int32_t* boundaries, Index dim, Rows dx) {
  const Index segment = blockIdx.x;
  const Index i = static_cast<Index>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= dim) return;
  const float slope = dy[segment * dim + i];
  const std::int32_t place = where[segment * dim + i];
  for (std::int32_t t = boundaries[segment]; t < boundaries[segment + 1]; ++t)
    row<T>(dx, t)[i] = from_float<T>(t == place ? slope : 0.0F);
}

bool fits(Index segments, Index dim) {
  return segments <= 0x7fffffff && dim <= Index{0xffff} * kThreads;
}
dim3 grid(Index segments, Index dim) {
  return {static_cast<unsigned>(segments), static_cast<unsigned>((dim + kThreads - 1) / kThreads)};
}

}  // namespace

int segment_sum(FloatType type, ConstRows x, const float* weights, const std::int32_t* boundaries,
                Index segments, Index dim, float* y, void* stream) {
  if (segments == 0 || dim == 0) return cudaSuccess;
  if (!fits(segments, dim)) return cudaErrorInvalidValue;
  return with_type(type, [&](auto* t) {
    segment_sum_kernel<Pointee<decltype(t)>>
        <<<grid(segments, dim), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(x, weights, boundaries, dim,
                                                                                  y);
  });
}

int segment_sum_backward(FloatType type, const float* dy, const float* weights,
                         const std::int32_t* boundaries, Index segments, Index dim, Rows dx, void* stream) {
  if (segments == 0 || dim == 0) return cudaSuccess;
  if (!fits(segments, dim)) return cudaErrorInvalidValue;
  return with_type(type, [&](auto* t) {
    segment_sum_backward_kernel<Pointee<decltype(t)>>
        <<<grid(segments, dim), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(dy, weights, boundaries,
                                                                                  dim, dx);
  });
}

int segment_max(FloatType type, ConstRows x, const std::int32_t* boundaries, Index segments, Index dim,
                float* y, std::int32_t* where, void* stream) {
  if (segments == 0 || dim == 0) return cudaSuccess;
  if (!fits(segments, dim)) return cudaErrorInvalidValue;
  return with_type(type, [&](auto* t) {
    segment_max_kernel<Pointee<decltype(t)>>
        <<<grid(segments, dim), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(x, boundaries, dim, y,
                                                                                  where);
  });
}

int segment_max_backward(FloatType type, const float* dy, const std::int32_t* where,
                         const std::int32_t* boundaries, Index segments, Index dim, Rows dx, void* stream) {
  if (segments == 0 || dim == 0) return cudaSuccess;
  if (!fits(segments, dim)) return cudaErrorInvalidValue;
  return with_type(type, [&](auto* t) {
    segment_max_backward_kernel<Pointee<decltype(t)>>
        <<<grid(segments, dim), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(dy, where, boundaries, dim,
                                                                                  dx);
  });
}

}  // namespace bitrain::kernels::cuda
