// Activations, rotary positions, dropout and gradients of tables on CUDA: each element is read once.
#include <bitrain/kernels/cuda_support.cuh>

namespace bitrain::kernels::cuda {
namespace {

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0F / (1.0F + __expf(-x));
}

template <class T>
__global__ void swiglu_kernel(const T* gate, const T* up, Index n, T* y) {
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<Index>(gridDim.x) * kThreads) {
    const float g = to_float(gate[i]);
    y[i] = from_float<T>(g * sigmoid(g) * to_float(up[i]));
  }
}

template <class T>
__global__ void swiglu_backward_kernel(const T* dy, const T* gate, const T* up, Index n, T* dgate, T* dup) {
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<Index>(gridDim.x) * kThreads) {
    const float g = to_float(gate[i]);
    const float u = to_float(up[i]);
    const float d = to_float(dy[i]);
    const float s = sigmoid(g);
    dup[i] = from_float<T>(d * g * s);
    dgate[i] = from_float<T>(d * u * s * (1.0F + g * (1.0F - s)));
  }
}

struct GeluPoint {
  float value;
  float slope;
};

__device__ __forceinline__ GeluPoint gelu_at(float x, bool tanh) {
  if (tanh) {  // x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
    constexpr float kTwice = 1.5957691216F;
    const float square = x * x;
    const float share = sigmoid(kTwice * x * (1.0F + 0.044715F * square));
    const float rise = kTwice * (1.0F + 3.0F * 0.044715F * square);
    return {x * share, x * share * (1.0F - share) * rise + share};
  }
  const float share = normcdff(x);
  return {x * share, x * 0.3989422804F * __expf(-0.5F * x * x) + share};
}

template <class T>
__global__ void gelu_kernel(bool tanh, const T* x, Index n, T* y) {
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<Index>(gridDim.x) * kThreads)
    y[i] = from_float<T>(gelu_at(to_float(x[i]), tanh).value);
}

template <class T>
__global__ void gelu_backward_kernel(bool tanh, const T* dy, const T* x, Index n, T* dx) {
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < n;
       i += static_cast<Index>(gridDim.x) * kThreads)
    dx[i] = from_float<T>(to_float(dy[i]) * gelu_at(to_float(x[i]), tanh).slope);
}

// A thread block a token.
template <class T>
__global__ void rotary_kernel(ConstRows x, const float* cos, const float* sin, Index table_stride,
                              const Index* positions, Index heads, Index dim, float sign, Rows y) {
  const Index token = blockIdx.x;
  const Index place = (positions != nullptr ? positions[token] : token) * table_stride;
  const Index half = dim / 2;
  for (Index i = threadIdx.x; i < heads * half; i += blockDim.x) {
    const Index feature = i % half;
    const Index first = i / half * dim + feature;
    const T* input = row<T>(x, token);
    T* output = row<T>(y, token);
    const float a = to_float(input[first]);
    const float b = to_float(input[first + half]);
    const float c = cos[place + feature];
    const float s = sin[place + feature] * sign;
    output[first] = from_float<T>(a * c - b * s);
    output[first + half] = from_float<T>(b * c + a * s);
  }
}

struct Words {
  std::uint32_t values[4];
};

// Philox 4x32-10 (base/rng.h).
__device__ __forceinline__ Words philox(std::uint64_t key, std::uint64_t high, std::uint32_t low) {
  std::uint32_t c0 = low;
  std::uint32_t c1 = 0;
  auto c2 = static_cast<std::uint32_t>(high);
  auto c3 = static_cast<std::uint32_t>(high >> 32);
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(c0) * 0xD2511F53U;
    const std::uint64_t p1 = static_cast<std::uint64_t>(c2) * 0xCD9E8D57U;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return {{c0, c1, c2, c3}};
}

// A thread takes one Philox block: eight features of a group of 128, 16 apart (Kernels::dropout).
template <class T>
__global__ void dropout_kernel(ConstRows x, std::uint64_t key, Index first_token, std::uint32_t threshold,
                               float scale, Index tokens, Index dim, Rows y) {
  constexpr Index kLanes = 16;
  const Index groups = (dim + 8 * kLanes - 1) / (8 * kLanes);
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < tokens * groups * kLanes;
       i += static_cast<Index>(gridDim.x) * kThreads) {
    const Index token = i / (groups * kLanes);
    const Index block = i % (groups * kLanes);
    const Words draws =
        philox(key, static_cast<std::uint64_t>(first_token + token), static_cast<std::uint32_t>(block));
    const T* input = row<T>(x, token);
    T* output = row<T>(y, token);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const Index feature = block / kLanes * (8 * kLanes) + j * kLanes + block % kLanes;
      if (feature >= dim) break;
      const bool kept = (draws.values[j / 2] >> (j % 2 * 16) & 0xffffU) >= threshold;
      output[feature] = from_float<T>(to_float(input[feature]) * (kept ? scale : 0.0F));
    }
  }
}

// A thread block a place in the sorted ids and kThreads columns; at the first of equal ids it sums them all,
// in order.
template <class T>
__global__ void scatter_add_kernel(ConstRows dy, const Index* ids, const Index* order, Index n, Index dim,
                                   T* dtable) {
  const Index first = blockIdx.x;
  const Index id = ids[first];
  if (first > 0 && ids[first - 1] == id) return;
  Index end = first + 1;  // Past the last of equal ids: known beforehand, the loop below loads ahead.
  for (Index reach = n; end < reach;) {
    const Index middle = end + (reach - end) / 2;
    if (ids[middle] == id)
      end = middle + 1;
    else
      reach = middle;
  }
  const Index i = static_cast<Index>(blockIdx.y) * kThreads + threadIdx.x;
  if (i >= dim) return;
  float sum = 0;
#pragma unroll 8
  for (Index k = first; k < end; ++k) sum += to_float(row<T>(dy, order[k])[i]);
  dtable[id * dim + i] = from_float<T>(sum);
}

}  // namespace

int swiglu(FloatType type, const void* gate, const void* up, Index n, void* y, void* stream) {
  if (n == 0) return cudaSuccess;
  return with_type(type, [&](auto* t) {
    using T = Pointee<decltype(t)>;
    swiglu_kernel<<<grid_for(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(gate), static_cast<const T*>(up), n, static_cast<T*>(y));
  });
}

int swiglu_backward(FloatType type, const void* dy, const void* gate, const void* up, Index n, void* dgate,
                    void* dup, void* stream) {
  if (n == 0) return cudaSuccess;
  return with_type(type, [&](auto* t) {
    using T = Pointee<decltype(t)>;
    swiglu_backward_kernel<<<grid_for(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(dy), static_cast<const T*>(gate), static_cast<const T*>(up), n,
        static_cast<T*>(dgate), static_cast<T*>(dup));
  });
}

int gelu(FloatType type, bool tanh, const void* x, Index n, void* y, void* stream) {
  if (n == 0) return cudaSuccess;
  return with_type(type, [&](auto* t) {
    using T = Pointee<decltype(t)>;
    gelu_kernel<<<grid_for(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        tanh, static_cast<const T*>(x), n, static_cast<T*>(y));
  });
}

int gelu_backward(FloatType type, bool tanh, const void* dy, const void* x, Index n, void* dx, void* stream) {
  if (n == 0) return cudaSuccess;
  return with_type(type, [&](auto* t) {
    using T = Pointee<decltype(t)>;
    gelu_backward_kernel<<<grid_for(n), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        tanh, static_cast<const T*>(dy), static_cast<const T*>(x), n, static_cast<T*>(dx));
  });
}

int rotary(FloatType type, ConstRows x, const float* cos, const float* sin, Index table_stride,
           const Index* positions, Index tokens, Index heads, Index dim, bool inverse, Rows y, void* stream) {
  if (tokens == 0) return cudaSuccess;
  if (tokens > 0x7fffffff) return cudaErrorInvalidValue;
  return with_type(type, [&](auto* t) {
    using T = Pointee<decltype(t)>;
    rotary_kernel<T><<<static_cast<unsigned>(tokens), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        x, cos, sin, table_stride, positions, heads, dim, inverse ? -1.0F : 1.0F, y);
  });
}

int dropout(FloatType type, ConstRows x, std::uint64_t key, Index first_token, std::uint32_t threshold,
            Index tokens, Index dim, Rows y, void* stream) {
  if (tokens == 0 || dim == 0) return cudaSuccess;
  const float scale = 65536.0F / static_cast<float>(65536U - threshold);
  return with_type(type, [&](auto* t) {
    using T = Pointee<decltype(t)>;
    dropout_kernel<T>
        <<<grid_for(tokens * ((dim + 127) / 128) * 16), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            x, key, first_token, threshold, scale, tokens, dim, y);
  });
}

int scatter_add(FloatType type, ConstRows dy, const Index* ids, const Index* order, Index n, Index dim,
                void* dtable, void* stream) {
  if (n == 0 || dim == 0) return cudaSuccess;
  if (n > 0x7fffffff || dim > Index{0xffff} * kThreads) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>((dim + kThreads - 1) / kThreads));
  return with_type(type, [&](auto* t) {
    using T = Pointee<decltype(t)>;
    scatter_add_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(dy, ids, order, n, dim,
                                                                                 static_cast<T*>(dtable));
  });
}

}  // namespace bitrain::kernels::cuda
