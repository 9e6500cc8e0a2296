#pragma once

// For *_isa.cpp files only: what kernels of one instruction set share. Everything lies in the namespace of
// that set, so that no linker merges code of one into another; for the same reason no std templates are used
// here.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <bitrain/kernels/cpu_kernels.h>

namespace bitrain::kernels::BITRAIN_ISA {

using Index = std::int64_t;

constexpr Index kParallelElements = 1 << 14;  // Below this, starting threads costs more than it gives.
constexpr Index kCacheLine = 64;

inline Index min(Index a, Index b) {
  return a < b ? a : b;
}
inline Index max(Index a, Index b) {
  return a > b ? a : b;
}
inline Index round_up(Index n, Index unit) {
  return (n + unit - 1) / unit * unit;
}

// Loops vectorise only when everything in them is inlined, however large the file: hence always_inline.
[[gnu::always_inline]] inline std::uint32_t bits_of(float value) {
  return __builtin_bit_cast(std::uint32_t, value);
}
[[gnu::always_inline]] inline float float_of(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

// Rounds once where the machine can.
[[gnu::always_inline]] inline float fma(float a, float b, float c) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

/// Storage as bfloat16, rounded to nearest even; NaN stays NaN.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;
  [[gnu::always_inline]] explicit BFloat16(float value) {
    const std::uint32_t raw = bits_of(value);
    const std::uint32_t rounded = (raw + 0x7fffU + ((raw >> 16) & 1U)) >> 16;
    const std::uint32_t nan = (raw >> 16) | 0x40U;
    bits = static_cast<std::uint16_t>(value != value ? nan : rounded);
  }
  [[gnu::always_inline]] explicit operator float() const {
    return float_of(static_cast<std::uint32_t>(bits) << 16);
  }
};

template <class T>
[[gnu::always_inline]] inline float load(const T* x, Index i) {
  return static_cast<float>(x[i]);
}
template <class T>
[[gnu::always_inline]] inline void store(T* y, Index i, float value) {
  y[i] = T(value);
}
template <class T>
inline const T* row(ConstRows rows, Index i) {
  return static_cast<const T*>(rows.data) + i * rows.stride;
}
template <class T>
inline T* row(Rows rows, Index i) {
  return static_cast<T*>(rows.data) + i * rows.stride;
}

/// Calls f with a null T* of the storage type: `with_type(type, [&]<class T>(T*) { ... })`.
template <class Function>
inline void with_type(FloatType type, const Function& f) {
  if (type == FloatType::kBFloat16) {
    f(static_cast<BFloat16*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr));
  }
}

/// e^x to 2 units in the last place; 0 below -87.3, and no more than 2^127.5. NaN stays NaN. Written so that
/// loops over it vectorise.
[[gnu::always_inline]] inline float exp(float x) {
  constexpr float kRound = 0x1.8p23F;  // Adding it rounds to an integer in the low bits.
  const float clamped = x > 88.37F ? 88.37F : x;
  const float shifted = fma(clamped, 0x1.715476p+0F, kRound);
  const float n = shifted - kRound;
  const float r = fma(n, -0x1.7f7d1cp-20F, fma(n, -0x1.62e4p-1F, clamped));
  float p = fma(r, 0x1.6a23d0p-10F, 0x1.123a20p-7F);
  p = fma(p, r, 0x1.5558f2p-5F);
  p = fma(p, r, 0x1.555492p-3F);
  p = fma(p, r, 0x1.fffffcp-2F);
  p = fma(p, r, 1.0F);
  p = fma(p, r, 1.0F);
  const float power = float_of((bits_of(shifted) + 127U) << 23);
  return x < -87.3F ? 0.0F : p * power;
}

[[gnu::always_inline]] inline float sigmoid(float x) {
  return 1.0F / (1.0F + exp(-x));
}

/// Uninitialised memory on a cache line for the life of the object.
template <class T>
class Buffer {
 public:
  explicit Buffer(Index size)
      : data_(static_cast<T*>(std::aligned_alloc(
            kCacheLine,
            static_cast<std::size_t>(round_up(max(size, 1) * static_cast<Index>(sizeof(T)), kCacheLine))))) {
    if (data_ == nullptr) std::abort();
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return data_; }
  T& operator[](Index i) const { return data_[i]; }

 private:
  T* data_;
};

/// Cuts spans into chunks, so that small tensors share threads evenly and sums have a fixed order:
/// f(span, begin, end, chunk) for every chunk, in parallel. `numel(i)` is the size of span i.
constexpr Index kChunkElements = 1 << 14;

template <class Numel>
inline Index count_chunks(Index spans, const Numel& numel) {
  Index chunks = 0;
  for (Index i = 0; i < spans; ++i) chunks += (numel(i) + kChunkElements - 1) / kChunkElements;
  return chunks;
}

template <class Numel, class Function>
inline void for_each_chunk(Index spans, const Numel& numel, const Function& f) {
  Buffer<Index> first(spans + 1);  // First chunk of each span.
  first[0] = 0;
  for (Index i = 0; i < spans; ++i)
    first[i + 1] = first[i] + (numel(i) + kChunkElements - 1) / kChunkElements;
  const Index chunks = first[spans];
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (Index chunk = 0; chunk < chunks; ++chunk) {
    Index low = 0;
    Index high = spans;  // The last span that starts at or before this chunk, by bisection.
    while (high - low > 1) {
      const Index middle = (low + high) / 2;
      (first[middle] <= chunk ? low : high) = middle;
    }
    const Index begin = (chunk - first[low]) * kChunkElements;
    f(low, begin, min(begin + kChunkElements, numel(low)), chunk);
  }
}

// The kernels of this instruction set, as in Kernels.
void rms_norm(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
              FloatType weight_type, Index rows, Index dim, float eps, Rows y, float* rstd);
void rms_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                       FloatType weight_type, const float* rstd, Index rows, Index dim, Rows dx,
                       float* dweight);
void layer_norm(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
                const void* bias, FloatType weight_type, Index rows, Index dim, float eps, Rows y,
                float* mean, float* rstd);
void layer_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                         FloatType weight_type, const float* mean, const float* rstd, Index rows, Index dim,
                         Rows dx, float* dweight, float* dbias);
void rotary(FloatType type, ConstRows x, const float* cos, const float* sin, Index table_stride,
            const Index* positions, Index tokens, Index heads, Index dim, bool inverse, Rows y);
void swiglu(FloatType type, const void* gate, const void* up, Index n, void* y);
void swiglu_backward(FloatType type, const void* dy, const void* gate, const void* up, Index n, void* dgate,
                     void* dup);
void gelu(FloatType type, bool tanh, const void* x, Index n, void* y);
void gelu_backward(FloatType type, bool tanh, const void* dy, const void* x, Index n, void* dx);
void cross_entropy(FloatType type, Rows logits, const Index* labels, const float* weights, Index rows,
                   Index vocab, bool write_gradient, float* losses);
void adamw(const AdamWTensor* tensors, Index count, const AdamWOptions& options);
double sum_of_squares(const ConstSpan* spans, Index count);
void dropout(FloatType type, ConstRows x, std::uint64_t key, Index first_token, std::uint32_t threshold,
             Index tokens, Index dim, Rows y);
void gather(FloatType type, const void* table, const Index* ids, Index n, Index dim, void* y);
void gather_mean(FloatType type, const void* table, const std::int32_t* ids, const float* weights,
                 const Index* offsets, Index groups, Index dim, void* y);
void scatter_add(FloatType type, ConstRows dy, const Index* ids, const Index* order, const Index* starts,
                 Index groups, Index dim, void* dtable);
void segment_sum(FloatType type, ConstRows x, const float* weights, const std::int32_t* boundaries,
                 Index segments, Index dim, float* y);
void segment_sum_backward(FloatType type, const float* dy, const float* weights,
                          const std::int32_t* boundaries, Index segments, Index dim, Rows dx);
void segment_max(FloatType type, ConstRows x, const std::int32_t* boundaries, Index segments, Index dim,
                 float* y, std::int32_t* where);
void segment_max_backward(FloatType type, const float* dy, const std::int32_t* where,
                          const std::int32_t* boundaries, Index segments, Index dim, Rows dx);
void attention(const AttentionShape& shape, ConstRows q, ConstRows k, ConstRows v, Rows out, float* lse);
void attention_backward(const AttentionShape& shape, ConstRows dout, ConstRows q, ConstRows k, ConstRows v,
                        ConstRows out, const float* lse, Rows dq, Rows dk, Rows dv);

}  // namespace bitrain::kernels::BITRAIN_ISA
