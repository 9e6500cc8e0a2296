#pragma once

// For *.cu files only: what the kernels share.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <bitrain/kernels/cuda_kernels.h>

namespace bitrain::kernels::cuda {

using Index = std::int64_t;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kThreads = 256;  // Of a thread block, where nothing else is said.

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

template <class T>
__device__ __forceinline__ const T* row(ConstRows rows, Index i) {
  return static_cast<const T*>(rows.data) + i * rows.stride;
}
template <class T>
__device__ __forceinline__ T* row(Rows rows, Index i) {
  return static_cast<T*>(rows.data) + i * rows.stride;
}

/// Sum over the thread block, the same in every thread and every run. All threads must call it.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float shares[32];
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  __syncthreads();  // Another call may still be reading the shares.
  if (threadIdx.x % kWarp == 0) shares[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) sum += shares[warp];
  return sum;
}
__device__ __forceinline__ float block_max(float value) {
  __shared__ float shares[32];
  for (int step = kWarp / 2; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shares[threadIdx.x / kWarp] = value;
  __syncthreads();
  float largest = shares[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) largest = fmaxf(largest, shares[warp]);
  return largest;
}

/// Calls f with a null T* of the storage type, then says whether what it launched could be launched.
template <class Function>
int with_type(FloatType type, const Function& f) {
  switch (type) {
    case FloatType::kFloat32: f(static_cast<float*>(nullptr)); break;
    case FloatType::kBFloat16: f(static_cast<__nv_bfloat16*>(nullptr)); break;
    case FloatType::kFloat16: f(static_cast<__half*>(nullptr)); break;
    default: return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}
/// The same for two types; f takes a null pointer to each.
template <class Function>
int with_types(FloatType first, FloatType second, const Function& f) {
  int status = cudaErrorInvalidValue;
  with_type(first, [&](auto* t) { status = with_type(second, [&](auto* w) { f(t, w); }); });
  return status;
}
template <class Pointer>
using Pointee = std::remove_pointer_t<Pointer>;

/// Thread blocks for `work` threads; kernels loop where there are fewer.
inline unsigned grid_for(Index work, Index most = 1 << 16) {
  const Index blocks = (work + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

}  // namespace bitrain::kernels::cuda
