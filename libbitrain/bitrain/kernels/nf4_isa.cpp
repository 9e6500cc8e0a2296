// Compiled once for each instruction set. Everything but the table is in an anonymous namespace, so that no
// linker merges code of one instruction set into another.
#include <bitrain/kernels/nf4.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 warns of its own _mm512_undefined_epi32.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace bitrain::kernels {
namespace {

using Index = std::int64_t;

constexpr Index kParallelElements = 1 << 15;  // Below this, starting threads costs more than it gives.
constexpr float kSmallestScale = 1e-38F;      // What bitsandbytes divides by when a block is all zero.

inline std::uint32_t bits_of(float value) {
  return __builtin_bit_cast(std::uint32_t, value);
}
inline float float_of(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

// ---- 16-bit floats

inline std::uint16_t to_bfloat16(float value) {  // Rounds to nearest even; keeps infinities; quiets NaN.
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t quiet = bits >> 16 | 0x40U;
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet : rounded);
}

inline float from_float16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t rest = half & 0x7fffU;
  if (rest >= 0x7c00U) {
    return float_of(sign | 0x7f800000U | (rest << 13));
  }  // Infinity or NaN.
  // A power of two moves the exponent to its place and makes subnormals normal, without rounding.
  return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112F));
}

inline std::uint16_t to_float16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t rest = bits & 0x7fffffffU;
  if (rest > 0x7f800000U) {
    return static_cast<std::uint16_t>(sign | 0x7e00U | ((rest >> 13) & 0x3ffU));
  }
  if (rest >= 0x47800000U) {
    return static_cast<std::uint16_t>(sign | 0x7c00U);
  }  // 65536 or more.
  if (rest < 0x38800000U) {
    // Subnormal: adding 0.5 leaves the value in the low bits as a multiple of 2^-24, rounded to even.
    const std::uint32_t low = bits_of(float_of(rest) + 0.5F) - bits_of(0.5F);
    return static_cast<std::uint16_t>(sign | low);
  }
  const std::uint32_t rounded = rest - 0x38000000U + 0xfffU + ((rest >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | (rounded >> 13));  // A carry past the largest gives infinity.
}

template <FloatType kType>
inline float load(const void* x, Index i) {
  if constexpr (kType == FloatType::kFloat32) {
    return static_cast<const float*>(x)[i];
  } else if constexpr (kType == FloatType::kBFloat16) {
    return float_of(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(x)[i]) << 16);
  } else {
    return from_float16(static_cast<const std::uint16_t*>(x)[i]);
  }
}

// The element type of the decoded side as bits, and the rounding to it.
template <FloatType kType>
struct Stored {
  using Bits = std::uint16_t;
  static Bits round(float value) {
    return kType == FloatType::kBFloat16 ? to_bfloat16(value) : to_float16(value);
  }
};
template <>
struct Stored<FloatType::kFloat32> {
  using Bits = std::uint32_t;
  static Bits round(float value) { return bits_of(value); }
};

inline float scale_of(const BlockScales& scales, const float* map, Index block) {
  if (scales.absmax != nullptr) {
    return scales.absmax[block];
  }
  const float product = map[scales.absmax_codes[block]] * scales.nested_absmax[block / kNestedBlockSize];
  return product + scales.nested_offset;  // Two roundings: this file is compiled with -ffp-contract=off.
}

// ---- Quantise

// |x| as unsigned bits keeps its order and puts NaN on top, which floating maxima may lose.
template <FloatType kType>
inline std::uint32_t largest_magnitude(const void* x, Index begin, Index size) {
  std::uint32_t largest = 0;
  for (Index i = begin; i < begin + size; ++i) {
    const std::uint32_t magnitude = bits_of(load<kType>(x, i)) & 0x7fffffffU;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

inline std::uint8_t encode(const FourBitCodebook& book, float value) {
  std::uint32_t passed = 0;
  for (float threshold : book.thresholds) {
    passed += value > threshold ? 1U : 0U;
  }
  return book.order[passed];
}

// The last, shorter block is divided by its maximum, where a full block is multiplied by the reciprocal.
template <FloatType kType>
std::uint32_t quantize_tail(const FourBitCodebook& book, const void* x, Index begin, Index size,
                            std::uint8_t* codes, float* absmax) {
  const std::uint32_t largest = largest_magnitude<kType>(x, begin, size);
  const float scale = float_of(largest) > kSmallestScale ? float_of(largest) : kSmallestScale;
  *absmax = scale;
  for (Index i = 0; i < size; i += 2) {
    const std::uint8_t even = encode(book, load<kType>(x, begin + i) / scale);
    const std::uint8_t odd = encode(book, i + 1 < size ? load<kType>(x, begin + i + 1) / scale : 0.0F);
    codes[i / 2] = static_cast<std::uint8_t>(even << 4 | odd);
  }
  return largest;
}

#if defined(__AVX512BW__)

template <FloatType kType>
inline __m512 load_vector(const void* x, Index i) {
  if constexpr (kType == FloatType::kFloat32) {
    return _mm512_loadu_ps(static_cast<const float*>(x) + i);
  } else {
    const void* address = static_cast<const std::uint16_t*>(x) + i;
    const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(address));
    if constexpr (kType == FloatType::kFloat16) {
      return _mm512_cvtph_ps(halves);
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
}

// A binary search among the 15 thresholds: after each step the lanes hold how many are known to be passed.
struct Encoder {
  explicit Encoder(const FourBitCodebook& book) {
    alignas(64) float shifted[3][16] = {};
    alignas(64) std::uint32_t order_lanes[16];
    for (int i = 0; i < 16; ++i) {
      for (int step = 0; step < 3; ++step) {
        const int threshold = i + (4 >> step) - 1;
        shifted[step][i] = threshold < 15 ? book.thresholds[threshold] : 0.0F;
      }
      order_lanes[i] = book.order[i];
    }
    middle = _mm512_set1_ps(book.thresholds[7]);
    for (int step = 0; step < 3; ++step) {
      thresholds[step] = _mm512_load_ps(shifted[step]);
    }
    order = _mm512_load_si512(order_lanes);
  }

  __m512i operator()(__m512 values) const {
    __mmask16 above = _mm512_cmp_ps_mask(values, middle, _CMP_GT_OQ);
    __m512i passed = _mm512_maskz_set1_epi32(above, 8);
    for (int step = 0; step < 3; ++step) {
      above = _mm512_cmp_ps_mask(values, _mm512_permutexvar_ps(passed, thresholds[step]), _CMP_GT_OQ);
      passed = _mm512_mask_add_epi32(passed, above, passed, _mm512_set1_epi32(4 >> step));
    }
    return _mm512_permutexvar_epi32(passed, order);
  }

  __m512 middle;
  __m512 thresholds[3];
  __m512i order;
};

template <FloatType kType>
inline std::uint32_t quantize_block(const Encoder& encoder, const void* x, Index begin, Index size,
                                    std::uint8_t* codes, float* absmax) {
  const __m512i magnitude_mask = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512();
  for (Index i = 0; i < size; i += 16) {
    const __m512i bits = _mm512_castps_si512(load_vector<kType>(x, begin + i));
    largest = _mm512_max_epu32(largest, _mm512_and_si512(bits, magnitude_mask));
  }
  const std::uint32_t largest_bits = _mm512_reduce_max_epu32(largest);
  *absmax = float_of(largest_bits);
  const __m512 reciprocal = _mm512_set1_ps(1.0F / (*absmax > kSmallestScale ? *absmax : kSmallestScale));
  for (Index i = 0; i < size; i += 16) {
    const __m512i wide = encoder(_mm512_mul_ps(load_vector<kType>(x, begin + i), reciprocal));
    const __m512i pairs = _mm512_or_si512(_mm512_slli_epi64(wide, 4), _mm512_srli_epi64(wide, 32));
    _mm_storel_epi64(static_cast<__m128i*>(static_cast<void*>(codes + i / 2)), _mm512_cvtepi64_epi8(pairs));
  }
  return largest_bits;
}

#else

using Encoder = const FourBitCodebook&;

template <FloatType kType>
inline std::uint32_t quantize_block(const FourBitCodebook& book, const void* x, Index begin, Index size,
                                    std::uint8_t* codes, float* absmax) {
  constexpr Index kStep = 32;  // Divides every block size.
  const std::uint32_t largest = largest_magnitude<kType>(x, begin, size);
  *absmax = float_of(largest);
  const float reciprocal = 1.0F / (*absmax > kSmallestScale ? *absmax : kSmallestScale);
  for (Index i = 0; i < size; i += kStep) {
    std::int32_t passed[kStep];
    for (Index j = 0; j < kStep; ++j) {
      const float value = load<kType>(x, begin + i + j) * reciprocal;
      std::int32_t count = 0;
      for (int t = 0; t < 15; ++t) {
        count += value > book.thresholds[t] ? 1 : 0;
      }
      passed[j] = count;
    }
    for (Index j = 0; j < kStep; j += 2) {
      codes[(i + j) / 2] = static_cast<std::uint8_t>(book.order[passed[j]] << 4 | book.order[passed[j + 1]]);
    }
  }
  return largest;
}

#endif

template <FloatType kType>
Index quantize_typed(FourBitType type, const void* x, Index n, Index block_size, std::uint8_t* codes,
                     float* absmax) {
  const FourBitCodebook& book = four_bit_codebook(type);
  const Encoder encoder{book};
  const Index full = n / block_size;
  Index bad = full + 1;
#pragma omp parallel for schedule(static) reduction(min : bad) if (n >= kParallelElements)
  for (Index block = 0; block < full; ++block) {
    const Index begin = block * block_size;
    const std::uint32_t largest =
        quantize_block<kType>(encoder, x, begin, block_size, codes + begin / 2, absmax + block);
    if (largest >= 0x7f800000U && block < bad) {
      bad = block;
    }
  }
  if (bad > full && full * block_size < n) {
    const Index begin = full * block_size;
    const std::uint32_t largest =
        quantize_tail<kType>(book, x, begin, n - begin, codes + begin / 2, absmax + full);
    if (largest >= 0x7f800000U) {
      bad = full;
    }
  }
  return bad > full ? -1 : bad;
}

Index quantize(FourBitType type, FloatType x_type, const void* x, Index n, Index block_size,
               std::uint8_t* codes, float* absmax) {
  switch (x_type) {
    case FloatType::kBFloat16:
      return quantize_typed<FloatType::kBFloat16>(type, x, n, block_size, codes, absmax);
    case FloatType::kFloat16:
      return quantize_typed<FloatType::kFloat16>(type, x, n, block_size, codes, absmax);
    default: return quantize_typed<FloatType::kFloat32>(type, x, n, block_size, codes, absmax);
  }
}

// ---- Dequantise

// A block has only 16 different values: they are scaled and rounded once, then looked up.
template <FloatType kType, class Bits>
inline void scale_codebook(const float* values, float scale, Bits* table) {
#if defined(__AVX512BW__)
  const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(values), _mm512_set1_ps(scale));
  if constexpr (kType == FloatType::kFloat32) {
    _mm512_store_ps(table, scaled);
  } else if constexpr (kType == FloatType::kFloat16) {
    _mm256_store_si256((__m256i*)table, _mm512_cvtps_ph(scaled, _MM_FROUND_TO_NEAREST_INT));
  } else {  // The instruction for this would flush subnormals. Scales are finite or never were (NaN stays
            // NaN).
    const __m512i bits = _mm512_castps_si512(scaled);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i raised = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(scaled, scaled, _CMP_UNORD_Q);
    const __m512i rounded = _mm512_mask_mov_epi32(raised, nan, quiet);
    _mm256_store_si256((__m256i*)table, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
#else
  for (int k = 0; k < 16; ++k) table[k] = Stored<kType>::round(values[k] * scale);
#endif
}

template <FloatType kType, class Bits>
inline void decode_range(const std::uint8_t* codes, const Bits* table, Index size, Bits* y) {
  Index i = 0;
#if defined(__AVX512BW__)
  if constexpr (kType == FloatType::kFloat32) {
    const __m512i lanes = _mm512_loadu_si512(table);
    for (; i + 16 <= size; i += 16) {
      const __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i*)(codes + i / 2)));
      const __m512i index = _mm512_or_si512(_mm512_srli_epi64(bytes, 4), _mm512_slli_epi64(bytes, 32));
      _mm512_storeu_si512(y + i, _mm512_permutexvar_epi32(index, lanes));
    }
  } else {
    // The table fills both halves, so that the fifth bit of an index, left over from the high code, is moot.
    const __m256i half = _mm256_loadu_si256((const __m256i*)table);
    const __m512i lanes = _mm512_broadcast_i64x4(half);
    for (; i + 32 <= size; i += 32) {
      const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(codes + i / 2)));
      const __m512i index = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), _mm512_slli_epi32(bytes, 16));
      _mm512_storeu_si512(y + i, _mm512_permutexvar_epi16(index, lanes));
    }
  }
#elif defined(__AVX2__)
  if constexpr (kType != FloatType::kFloat32) {
    // Low and high bytes of the table apart, for two byte shuffles.
    alignas(16) std::uint8_t low[16];
    alignas(16) std::uint8_t high[16];
    for (int k = 0; k < 16; ++k) {
      low[k] = static_cast<std::uint8_t>(table[k]);
      high[k] = static_cast<std::uint8_t>(table[k] >> 8);
    }
    const __m128i low_lanes = _mm_load_si128((const __m128i*)low);
    const __m128i high_lanes = _mm_load_si128((const __m128i*)high);
    const __m128i nibble = _mm_set1_epi8(15);
    for (; i + 16 <= size; i += 16) {
      const __m128i bytes = _mm_loadl_epi64((const __m128i*)(codes + i / 2));
      const __m128i index =
          _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), nibble), _mm_and_si128(bytes, nibble));
      const __m128i lows = _mm_shuffle_epi8(low_lanes, index);
      const __m128i highs = _mm_shuffle_epi8(high_lanes, index);
      _mm_storeu_si128((__m128i*)(y + i), _mm_unpacklo_epi8(lows, highs));
      _mm_storeu_si128((__m128i*)(y + i + 8), _mm_unpackhi_epi8(lows, highs));
    }
  }
#endif
  for (; i + 2 <= size; i += 2) {
    y[i] = table[codes[i / 2] >> 4];
    y[i + 1] = table[codes[i / 2] & 15];
  }
  if (i < size) {
    y[i] = table[codes[i / 2] >> 4];
  }
}

template <FloatType kType>
void dequantize_typed(FourBitType type, const std::uint8_t* codes, const BlockScales& scales, Index n,
                      Index block_size, void* y) {
  using Bits = typename Stored<kType>::Bits;
  const FourBitCodebook& book = four_bit_codebook(type);
  const float* map = dynamic_map();
  Bits* out = static_cast<Bits*>(y);
  const Index blocks = (n + block_size - 1) / block_size;
#pragma omp parallel for schedule(static) if (n >= kParallelElements)
  for (Index block = 0; block < blocks; ++block) {
    const Index begin = block * block_size;
    const Index size = n - begin < block_size ? n - begin : block_size;
    const float scale = scale_of(scales, map, block);
    alignas(64) Bits table[16];
    scale_codebook<kType>(book.values, scale, table);
    decode_range<kType>(codes + begin / 2, table, size, out + begin);
  }
}

void dequantize(FourBitType type, const std::uint8_t* codes, const BlockScales& scales, Index n,
                Index block_size, FloatType y_type, void* y) {
  switch (y_type) {
    case FloatType::kBFloat16:
      return dequantize_typed<FloatType::kBFloat16>(type, codes, scales, n, block_size, y);
    case FloatType::kFloat16:
      return dequantize_typed<FloatType::kFloat16>(type, codes, scales, n, block_size, y);
    default: return dequantize_typed<FloatType::kFloat32>(type, codes, scales, n, block_size, y);
  }
}

// ---- Double quantisation

void quantize_absmax(const float* absmax, Index n, float offset, std::uint8_t* codes, float* nested_absmax) {
  const std::uint8_t* bins = dynamic_map_bins();
  const Index blocks = (n + kNestedBlockSize - 1) / kNestedBlockSize;
#pragma omp parallel for schedule(static) if (n >= kParallelElements)
  for (Index block = 0; block < blocks; ++block) {
    const Index begin = block * kNestedBlockSize;
    const Index end = begin + kNestedBlockSize < n ? begin + kNestedBlockSize : n;
    float largest = 0;
    for (Index i = begin; i < end; ++i) {
      const float magnitude = __builtin_fabsf(absmax[i] - offset);
      largest = magnitude > largest ? magnitude : largest;
    }
    nested_absmax[block] = largest;
    const float reciprocal = 1.0F / largest;  // Infinite below 2^-128: every code is then an outer one.
    for (Index i = begin; i < end; ++i) {
      float value = (absmax[i] - offset) * reciprocal;
      value = value < -1 ? -1.0F : value;
      value = value > 1 ? 1.0F : value;
      const float position = (value + 1.0F) * 0.5F * 65535.0F + 0.5F;
      codes[i] = largest == 0 || value != value ? std::uint8_t{0} : bins[static_cast<std::int32_t>(position)];
    }
  }
}

void restore_absmax(const BlockScales& scales, Index n, float* absmax) {
  const float* map = dynamic_map();
  for (Index block = 0; block < n; ++block) {
    absmax[block] = scale_of(scales, map, block);
  }
}

#define BITRAIN_STRING_OF(name) #name
#define BITRAIN_STRING(name) BITRAIN_STRING_OF(name)
#define BITRAIN_JOIN_OF(a, b) a##b
#define BITRAIN_JOIN(a, b) BITRAIN_JOIN_OF(a, b)

}  // namespace

const FourBitKernels& BITRAIN_JOIN(four_bit_kernels_, BITRAIN_ISA)() {
  static constexpr FourBitKernels kKernels = {BITRAIN_STRING(BITRAIN_ISA), quantize, dequantize,
                                              quantize_absmax, restore_absmax};
  return kKernels;
}

}  // namespace bitrain::kernels
