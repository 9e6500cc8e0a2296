// 4-bit quantisation on CUDA. Compiled into libbitrain_cuda.so, without LibTorch.
#include <bitrain/kernels/nf4_cuda.h>
#include <bitrain/kernels/cuda_support.cuh>

namespace bitrain::kernels::cuda {
namespace {

constexpr float kSmallestScale = 1e-38F;  // What bitsandbytes divides by when a block is all zero.

struct DynamicMap {
  float values[256];
};

// 2^k elements that move as one access.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

template <int kLanes>
__device__ __forceinline__ unsigned warp_max(unsigned value) {
  for (int step = kLanes / 2; step > 0; step /= 2)
    value = max(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

// How many of the 15 ascending thresholds `value` lies above: a binary search.
__device__ __forceinline__ int thresholds_passed(const float* thresholds, float value) {
  int passed = value > thresholds[7] ? 8 : 0;
  passed += value > thresholds[passed + 3] ? 4 : 0;
  passed += value > thresholds[passed + 1] ? 2 : 0;
  passed += value > thresholds[passed] ? 1 : 0;
  return passed;
}

// One warp a block of weights. The values are read twice; the second time from the cache.
template <class T>
__global__ void quantize_kernel(const __grid_constant__ FourBitCodebook book, const void* input, Index n,
                                Index block_size, std::uint8_t* codes, float* absmax, Index* bad_block) {
  __shared__ float thresholds[15];
  __shared__ std::uint8_t order[16];
  if (threadIdx.x < 16) order[threadIdx.x] = book.order[threadIdx.x];
  if (threadIdx.x < 15) thresholds[threadIdx.x] = book.thresholds[threadIdx.x];
  __syncthreads();

  const T* x = static_cast<const T*>(input);
  const Index block = (static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Index begin = block * block_size;
  if (begin >= n) return;  // The whole warp leaves.
  const Index size = min(block_size, n - begin);

  unsigned largest = 0;  // |x| as unsigned bits keeps its order and puts NaN on top.
  for (Index i = lane; i < size; i += kWarp)
    largest = max(largest, __float_as_uint(to_float(x[begin + i])) & 0x7fffffffU);
  largest = warp_max<kWarp>(largest);
  if (largest >= 0x7f800000U && lane == 0)
    atomicMin(reinterpret_cast<long long*>(bad_block), static_cast<long long>(block));

  // The last, shorter block is divided by its maximum, where a full block is multiplied by the reciprocal.
  const bool full = size == block_size;
  const float maximum = __uint_as_float(largest);
  const float scale = maximum > kSmallestScale ? maximum : kSmallestScale;
  const float reciprocal = __fdiv_rn(1.0F, scale);
  if (lane == 0) absmax[block] = full ? maximum : scale;
  const auto encode = [&](Index i) -> unsigned {
    const float value = i < size ? to_float(x[begin + i]) : 0.0F;
    const float scaled = full ? __fmul_rn(value, reciprocal) : __fdiv_rn(value, scale);
    return order[thresholds_passed(thresholds, scaled)];
  };
  for (Index i = 2 * lane; i < size; i += 2 * kWarp)
    codes[(begin + i) / 2] = static_cast<std::uint8_t>(encode(i) << 4 | encode(i + 1));
}

// A thread decodes eight weights: four bytes of codes become one or two 16-byte stores. Blocks are multiples
// of 32 weights, so eight never straddle two.
template <class T, bool kNested>
__global__ void dequantize_kernel(const __grid_constant__ FourBitCodebook book,
                                  const __grid_constant__ DynamicMap map, const std::uint8_t* codes,
                                  const __grid_constant__ BlockScales scales, Index n, int block_shift,
                                  void* output) {
  constexpr int kPerThread = 8;
  constexpr int kPerStore = sizeof(T) == 4 ? 4 : 8;
  __shared__ float values[16];
  __shared__ float map_values[kNested ? 256 : 1];
  if (threadIdx.x < 16) values[threadIdx.x] = book.values[threadIdx.x];
  if constexpr (kNested) map_values[threadIdx.x] = map.values[threadIdx.x];  // kThreads is 256.
  __syncthreads();

  T* y = static_cast<T*>(output);
  const Index groups = (n + kPerThread - 1) / kPerThread;
  for (Index group = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; group < groups;
       group += static_cast<Index>(gridDim.x) * kThreads) {
    const Index begin = group * kPerThread;
    const Index block = begin >> block_shift;
    float scale;
    if constexpr (kNested) {
      const float nested = scales.nested_absmax[block / kNestedBlockSize];
      scale = __fadd_rn(__fmul_rn(map_values[scales.absmax_codes[block]], nested), scales.nested_offset);
    } else {
      scale = scales.absmax[block];
    }
    if (begin + kPerThread <= n) {
      const auto bytes = *reinterpret_cast<const Pack<std::uint8_t, 4>*>(codes + begin / 2);
#pragma unroll
      for (int part = 0; part < kPerThread; part += kPerStore) {
        Pack<T, kPerStore> pack;
#pragma unroll
        for (int k = 0; k < kPerStore; k += 2) {
          const unsigned byte = bytes.values[(part + k) / 2];
          pack.values[k] = from_float<T>(__fmul_rn(values[byte >> 4], scale));
          pack.values[k + 1] = from_float<T>(__fmul_rn(values[byte & 15U], scale));
        }
        *reinterpret_cast<Pack<T, kPerStore>*>(y + begin + part) = pack;
      }
    } else {
      for (Index i = begin; i < n; ++i) {
        const unsigned byte = codes[i / 2];
        y[i] = from_float<T>(__fmul_rn(values[i % 2 == 0 ? byte >> 4 : byte & 15U], scale));
      }
    }
  }
}

// One thread block for each 256 statistics.
__global__ void quantize_absmax_kernel(const __grid_constant__ DynamicMap map, const float* absmax, Index n,
                                       const float* offset, std::uint8_t* codes, float* nested_absmax) {
  static_assert(kNestedBlockSize == kThreads);
  __shared__ float values[256];
  __shared__ unsigned largest_of_warps[kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  values[thread] = map.values[thread];
  const Index i = static_cast<Index>(blockIdx.x) * kThreads + thread;
  const float centred = i < n ? __fsub_rn(absmax[i], *offset) : 0.0F;
  const unsigned warp_largest = warp_max<kWarp>(__float_as_uint(centred) & 0x7fffffffU);
  if (thread % kWarp == 0) largest_of_warps[thread / kWarp] = warp_largest;
  __syncthreads();
  unsigned bits = 0;
  for (unsigned largest : largest_of_warps) bits = max(bits, largest);
  const float largest = __uint_as_float(bits);
  if (thread == 0) nested_absmax[blockIdx.x] = largest;
  if (i >= n) return;
  if (largest == 0) {
    codes[i] = 0;
    return;
  }
  // The last entry that is not above the value, then the nearer of it and its successor.
  const float value = fminf(fmaxf(__fmul_rn(centred, __fdiv_rn(1.0F, largest)), -1.0F), 1.0F);
  int low = 0;
  for (int step = 128; step > 0; step /= 2)
    if (low + step < 256 && values[low + step] <= value) low += step;
  if (low < 255 && values[low + 1] - value < value - values[low]) ++low;
  codes[i] = static_cast<std::uint8_t>(low);
}

DynamicMap copy_of(const float* map) {
  DynamicMap copy;
  for (int i = 0; i < 256; ++i) copy.values[i] = map[i];
  return copy;
}

}  // namespace
}  // namespace bitrain::kernels::cuda

using namespace bitrain::kernels;
using namespace bitrain::kernels::cuda;

extern "C" int bitrain_cuda_quantize_4bit(const FourBitCodebook* book, std::int32_t x_type, const void* x,
                                          std::int64_t n, std::int64_t block_size, std::uint8_t* codes,
                                          float* absmax, std::int64_t* bad_block, void* stream) {
  const Index blocks = (n + block_size - 1) / block_size;
  const Index grid = (blocks * kWarp + kThreads - 1) / kThreads;
  if (n <= 0 || grid > 0x7fffffff) return cudaErrorInvalidValue;
  return with_type(static_cast<FloatType>(x_type), [&](auto* t) {
    quantize_kernel<Pointee<decltype(t)>>
        <<<static_cast<unsigned>(grid), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            *book, x, n, block_size, codes, absmax, bad_block);
  });
}

extern "C" int bitrain_cuda_dequantize_4bit(const FourBitCodebook* book, const float* map,
                                            const std::uint8_t* codes, const BlockScales* scales,
                                            std::int64_t n, std::int64_t block_size, std::int32_t y_type,
                                            void* y, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  if (n <= 0 || block_size < 32 || (block_size & (block_size - 1)) != 0) return cudaErrorInvalidValue;
  int shift = 0;
  while ((Index{1} << shift) < block_size) ++shift;
  const DynamicMap copy = copy_of(map);
  const unsigned grid = grid_for((n + 7) / 8);
  return with_type(static_cast<FloatType>(y_type), [&](auto* t) {
    using T = Pointee<decltype(t)>;
    if (scales->absmax != nullptr)
      dequantize_kernel<T, false><<<grid, kThreads, 0, queue>>>(*book, copy, codes, *scales, n, shift, y);
    else
      dequantize_kernel<T, true><<<grid, kThreads, 0, queue>>>(*book, copy, codes, *scales, n, shift, y);
  });
}

extern "C" int bitrain_cuda_quantize_absmax(const float* map, const float* absmax, std::int64_t n,
                                            const float* offset, std::uint8_t* codes, float* nested_absmax,
                                            void* stream) {
  const Index blocks = (n + kNestedBlockSize - 1) / kNestedBlockSize;
  if (n <= 0 || blocks > 0x7fffffff) return cudaErrorInvalidValue;
  quantize_absmax_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      copy_of(map), absmax, n, offset, codes, nested_absmax);
  return cudaGetLastError();
}

extern "C" const char* bitrain_cuda_error_string(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
