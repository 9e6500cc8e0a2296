#pragma once

// For *_isa.cpp files only: small matrix products whose operands stay in cache, for attention.
//
// C [m, n] float (+)= A [m, k] B [k, n]. Everything moves in 32-bit words along k: a word is one float, or
// two neighbouring bfloat16 (the VNNI order of vdpbf16ps). A is row-major as it lies in memory. B is packed
// in panels of kPanel columns: [n / kPanel][words of k][kPanel] words.

#include <bitrain/kernels/isa_support.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 warns of its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace bitrain::kernels::BITRAIN_ISA {

constexpr Index kPanel = 64;

#if defined(__AVX512F__)
constexpr int kVectorFloats = 16;
constexpr int kTileVectors = 4;
#elif defined(__AVX2__)
constexpr int kVectorFloats = 8;
constexpr int kTileVectors = 2;
#else
constexpr int kVectorFloats = 4;
constexpr int kTileVectors = 2;
#endif
constexpr int kTileRows = 6;
constexpr Index kColumnUnit = 16;  // Columns are computed in multiples of this.

typedef float Vector __attribute__((vector_size(kVectorFloats * 4), aligned(4), may_alias));

/// What products are computed from: bfloat16 pairs where the machine has them, else float.
#if defined(__AVX512BF16__)
template <class T>
using Compute = T;
#else
template <class T>
using Compute = float;
#endif

/// Elements of a type in a word.
template <class T>
constexpr Index kUnit = 4 / static_cast<Index>(sizeof(T));

[[gnu::always_inline]] inline Vector broadcast(float value) {
  return Vector{} + value;
}

// acc + a b, where a and b are words: the product of floats, or the dot product of pairs.
template <class T>
[[gnu::always_inline]] inline Vector multiply_add(Vector acc, float a, Vector b) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == 2) {
    return reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc),
                                                     reinterpret_cast<__m512bh>(_mm512_set1_ps(a)),
                                                     reinterpret_cast<__m512bh>(b)));
  }
#endif
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(
      _mm512_fmadd_ps(_mm512_set1_ps(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(acc)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vector>(
      _mm256_fmadd_ps(_mm256_set1_ps(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(acc)));
#else
  return acc + broadcast(a) * b;
#endif
}

// The loops are unrolled early, so that the sums live in registers.
template <class T, int kRows, int kVectors, bool kAdd>
inline void tile(const T* a, Index a_stride, const float* b, Index words, float* c, Index c_stride) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kAdd) {
        sums[r][v] = *reinterpret_cast<const Vector*>(c + r * c_stride + v * kVectorFloats);
      } else {
        sums[r][v] = Vector{};
      }
    }
  }
  for (Index w = 0; w < words; ++w) {
    Vector columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      columns[v] = *reinterpret_cast<const Vector*>(b + w * kPanel + v * kVectorFloats);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      float word;
      std::memcpy(&word, a + r * a_stride + w * kUnit<T>, sizeof(word));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add<T>(sums[r][v], word, columns[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      *reinterpret_cast<Vector*>(c + r * c_stride + v * kVectorFloats) = sums[r][v];
    }
  }
}

template <class T, int kVectors, bool kAdd>
inline void tile_rows(Index rows, const T* a, Index a_stride, const float* b, Index words, float* c,
                      Index c_stride) {
  Index r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    tile<T, kTileRows, kVectors, kAdd>(a + r * a_stride, a_stride, b, words, c + r * c_stride, c_stride);
  }
  const T* last = a + r * a_stride;
  float* out = c + r * c_stride;
  switch (rows - r) {
    case 1: return tile<T, 1, kVectors, kAdd>(last, a_stride, b, words, out, c_stride);
    case 2: return tile<T, 2, kVectors, kAdd>(last, a_stride, b, words, out, c_stride);
    case 3: return tile<T, 3, kVectors, kAdd>(last, a_stride, b, words, out, c_stride);
    case 4: return tile<T, 4, kVectors, kAdd>(last, a_stride, b, words, out, c_stride);
    case 5: return tile<T, 5, kVectors, kAdd>(last, a_stride, b, words, out, c_stride);
    default: return;
  }
}

template <class T, bool kAdd>
inline void tile_columns(Index m, Index n, Index words, const T* a, Index a_stride, const float* b, float* c,
                         Index c_stride) {
  constexpr Index kStep = Index{kTileVectors} * kVectorFloats;
  for (Index first = 0; first < n; first += kPanel) {
    const float* panel = b + first * words;
    const Index width = min(kPanel, round_up(n - first, kColumnUnit));
    Index column = 0;
    for (; column + kStep <= width; column += kStep) {
      tile_rows<T, kTileVectors, kAdd>(m, a, a_stride, panel + column, words, c + first + column, c_stride);
    }
    for (; column < width; column += kVectorFloats) {
      tile_rows<T, 1, kAdd>(m, a, a_stride, panel + column, words, c + first + column, c_stride);
    }
  }
}

/// C = A B, or C += A B with `add`. Strides in elements; n is rounded up to kColumnUnit, and B and C must
/// have room for that.
template <class T>
inline void tile_gemm(Index m, Index n, Index words, const T* a, Index a_stride, const float* b, float* c,
                      Index c_stride, bool add) {
  if (add) {
    tile_columns<T, true>(m, n, words, a, a_stride, b, c, c_stride);
  } else {
    tile_columns<T, false>(m, n, words, a, a_stride, b, c, c_stride);
  }
}

/// Words of 16 x 16: target[j][i] = source[i][j].
inline void transpose16(const float* source, Index source_stride, float* target, Index target_stride) {
#if defined(__AVX512F__)
  __m512 r[16];
  __m512 t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(source + i * source_stride);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  const auto low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  for (int i = 0; i < 16; i += 4) {
    r[i] = low(t[i], t[i + 2]);
    r[i + 1] = high(t[i], t[i + 2]);
    r[i + 2] = low(t[i + 1], t[i + 3]);
    r[i + 3] = high(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {  // r[i + 4 g]: column 4 lane + i of rows 4 g .. 4 g + 3.
    const __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    const __m512 d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    _mm512_storeu_ps(target + i * target_stride, _mm512_shuffle_f32x4(a, b, 0x88));
    _mm512_storeu_ps(target + (i + 4) * target_stride, _mm512_shuffle_f32x4(c, d, 0x88));
    _mm512_storeu_ps(target + (i + 8) * target_stride, _mm512_shuffle_f32x4(a, b, 0xdd));
    _mm512_storeu_ps(target + (i + 12) * target_stride, _mm512_shuffle_f32x4(c, d, 0xdd));
  }
#else
  for (Index i = 0; i < 16; ++i) {
    for (Index j = 0; j < 16; ++j)
      std::memcpy(target + j * target_stride + i, source + i * source_stride + j, 4);
  }
#endif
}

/// Two rows of floats to one row of words, pairs (even[i], odd[i]) of bfloat16, for 16 columns at a time.
inline void pair_rows(const float* even, const float* odd, Index n, float* words) {
#if defined(__AVX512BF16__)
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (Index i = 0; i < n; i += 16) {
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(odd + i), _mm512_loadu_ps(even + i));
    _mm512_storeu_si512(words + i, _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
  }
#else
  for (Index i = 0; i < n; ++i) {
    words[i] = float_of(BFloat16(even[i]).bits | static_cast<std::uint32_t>(BFloat16(odd[i]).bits) << 16);
  }
#endif
}

/// Floats to elements, 16 at a time.
inline void convert(const float* source, Index n, float* target) {
  std::memcpy(target, source, static_cast<std::size_t>(n) * sizeof(float));
}
inline void convert(const float* source, Index n, BFloat16* target) {
#if defined(__AVX512BF16__)
  for (Index i = 0; i < n; i += 16) {
    const __m256bh half = _mm512_cvtneps_pbh(_mm512_loadu_ps(source + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i), reinterpret_cast<__m256i>(half));
  }
#else
#pragma omp simd
  for (Index i = 0; i < n; ++i) store(target, i, source[i]);
#endif
}

/// `rows` rows of `dim` elements of T -> C, padded with zeros to `padded` elements a row.
template <class T, class C>
inline void copy_rows(const T* source, Index stride, Index rows, Index dim, C* target, Index padded) {
  for (Index r = 0; r < rows; ++r) {
    if constexpr (sizeof(T) == sizeof(C)) {
      std::memcpy(target + r * padded, source + r * stride, static_cast<std::size_t>(dim) * sizeof(T));
    } else {
#pragma omp simd
      for (Index i = 0; i < dim; ++i) store(target + r * padded, i, load(source + r * stride, i));
    }
    std::memset(static_cast<void*>(target + r * padded + dim), 0,
                static_cast<std::size_t>(padded - dim) * sizeof(C));
  }
}

/// B = X^T for up to kPanel rows of X: target [padded / unit][kPanel] words, from `rows` rows of `padded`
/// elements (a multiple of 16 words; zero beyond the head). Columns beyond `rows` become zero.
template <class C>
inline void pack_transposed(const C* source, Index padded, Index rows, float* target) {
  alignas(64) float block[16 * 16];
  const Index words = padded / kUnit<C>;
  for (Index first = 0; first < kPanel; first += 16) {
    for (Index w = 0; w < words; w += 16) {
      const Index present = max(0, min(16, rows - first));
      if (present < 16) std::memset(block, 0, sizeof(block));
      for (Index r = 0; r < present; ++r) {
        std::memcpy(block + r * 16, source + (first + r) * padded + w * kUnit<C>, 16 * sizeof(float));
      }
      transpose16(block, 16, target + w * kPanel + first, kPanel);
    }
  }
}

/// B = X for up to kPanel rows of X, the rows being the depth: target [panels of `padded`][kPanel /
/// unit][kPanel] words. Rows beyond `rows` become zero.
template <class C>
inline void pack_interleaved(const C* source, Index padded, Index rows, float* target) {
  constexpr Index kWords = kPanel / kUnit<C>;
  for (Index column = 0; column < padded; column += kPanel) {
    const Index width = min(kPanel, padded - column);
    float* panel = target + column * kWords;
    for (Index w = 0; w < kWords; ++w, panel += kPanel) {
      if constexpr (sizeof(C) == 4) {
        if (w < rows) {
          std::memcpy(panel, source + w * padded + column, static_cast<std::size_t>(width) * sizeof(float));
        } else {
          std::memset(panel, 0, static_cast<std::size_t>(width) * sizeof(float));
        }
      } else {
        const C* even = source + 2 * w * padded + column;
        const C* odd = even + padded;
        const std::uint32_t has_even = 2 * w < rows ? 0xffffU : 0;
        const std::uint32_t has_odd = 2 * w + 1 < rows ? 0xffffU : 0;
        if (has_odd == 0) odd = source + column;
        if (has_even == 0) even = source + column;
#pragma omp simd
        for (Index i = 0; i < width; ++i) {
          panel[i] = float_of((even[i].bits & has_even) | (odd[i].bits & has_odd) << 16);
        }
      }
    }
  }
}

}  // namespace bitrain::kernels::BITRAIN_ISA

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
