#include <bitrain/kernels/isa_support.h>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

constexpr Index kStripe = 2048;  // Elements that a thread takes at a time.

template <class T>
void rotate_row(const T* x, const float* cos, const float* sin, float sign, Index half, T* y) {
#pragma omp simd
  for (Index i = 0; i < half; ++i) {
    const float first = load(x, i);
    const float second = load(x, i + half);
    const float s = sin[i] * sign;
    store(y, i, first * cos[i] - second * s);
    store(y, i + half, second * cos[i] + first * s);
  }
}

template <class T>
void swiglu_stripe(const T* gate, const T* up, Index n, T* y) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) {
    const float g = load(gate, i);
    store(y, i, g * sigmoid(g) * load(up, i));
  }
}

template <class T>
void swiglu_stripe_backward(const T* dy, const T* gate, const T* up, Index n, T* dgate, T* dup) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) {
    const float g = load(gate, i);
    const float u = load(up, i);
    const float d = load(dy, i);
    const float s = sigmoid(g);
    store(dup, i, d * g * s);
    store(dgate, i, d * u * s * (1.0F + g * (1.0F - s)));
  }
}

// 16 Philox 4x32-10 blocks side by side; counters (low 32 bits) first .. first + 15.
constexpr Index kLanes = 16;

struct PhiloxLanes {
  std::uint32_t words[4][kLanes];
};

inline void philox(std::uint64_t key, std::uint64_t high, std::uint32_t first, PhiloxLanes& out) {
  std::uint32_t c0[kLanes];
  std::uint32_t c1[kLanes];
  std::uint32_t c2[kLanes];
  std::uint32_t c3[kLanes];
  for (Index lane = 0; lane < kLanes; ++lane) {
    c0[lane] = first + static_cast<std::uint32_t>(lane);
    c1[lane] = 0;
    c2[lane] = static_cast<std::uint32_t>(high);
    c3[lane] = static_cast<std::uint32_t>(high >> 32);
  }
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (Index lane = 0; lane < kLanes; ++lane) {
      const std::uint64_t p0 = static_cast<std::uint64_t>(c0[lane]) * 0xD2511F53U;
      const std::uint64_t p1 = static_cast<std::uint64_t>(c2[lane]) * 0xCD9E8D57U;
      c0[lane] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[lane] ^ k0;
      c1[lane] = static_cast<std::uint32_t>(p1);
      c2[lane] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[lane] ^ k1;
      c3[lane] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  std::memcpy(out.words[0], c0, sizeof(c0));
  std::memcpy(out.words[1], c1, sizeof(c1));
  std::memcpy(out.words[2], c2, sizeof(c2));
  std::memcpy(out.words[3], c3, sizeof(c3));
}

template <class T>
void dropout_row(const T* x, std::uint64_t key, std::uint64_t token, std::uint32_t threshold, float scale,
                 Index dim, T* y) {
  constexpr Index kGroup = 8 * kLanes;
  PhiloxLanes draws;
  for (Index group = 0; group * kGroup < dim; ++group) {
    philox(key, token, static_cast<std::uint32_t>(group * kLanes), draws);
    for (Index j = 0; j < 8; ++j) {
      const Index begin = group * kGroup + j * kLanes;
      const Index n = min(kLanes, dim - begin);
      const std::uint32_t* words = draws.words[j / 2];
      const std::uint32_t shift = j % 2 == 0 ? 0 : 16;
      if (n == kLanes) {
#pragma omp simd
        for (Index lane = 0; lane < kLanes; ++lane) {
          const float factor = ((words[lane] >> shift) & 0xffffU) >= threshold ? scale : 0.0F;
          store(y, begin + lane, load(x, begin + lane) * factor);
        }
      } else {
        for (Index lane = 0; lane < n; ++lane) {
          const float factor = ((words[lane] >> shift) & 0xffffU) >= threshold ? scale : 0.0F;
          store(y, begin + lane, load(x, begin + lane) * factor);
        }
      }
    }
  }
}

constexpr Index kSums = 64;  // Columns whose sums stay in registers.

template <class T, bool kWhole>
[[gnu::always_inline]] inline void mean_columns(const T* table, const std::int32_t* ids, const float* weights,
                                                Index count, Index dim, Index n, float divisor, T* out) {
  float sum[kSums];
  const Index width = kWhole ? kSums : n;
  for (Index i = 0; i < width; ++i) sum[i] = 0;
  for (Index k = 0; k < count; ++k) {
    const T* source = table + ids[k] * dim;
    const float weight = weights != nullptr ? weights[k] : 1.0F;
#pragma omp simd
    for (Index i = 0; i < width; ++i) sum[i] += weight * load(source, i);
  }
#pragma omp simd
  for (Index i = 0; i < width; ++i) store(out, i, sum[i] / divisor);
}

template <class T>
void mean_row(const T* table, const std::int32_t* ids, const float* weights, Index count, Index dim, T* out) {
  float divisor = 0;
  for (Index k = 0; k < count; ++k) divisor += weights != nullptr ? weights[k] : 1.0F;
  Index i = 0;
  for (; i + kSums <= dim; i += kSums)
    mean_columns<T, true>(table + i, ids, weights, count, dim, kSums, divisor, out + i);
  if (i < dim) mean_columns<T, false>(table + i, ids, weights, count, dim, dim - i, divisor, out + i);
}

template <class T>
void add_group(ConstRows dy, const Index* order, Index count, Index dim, float* sum, T* out) {
  std::memset(sum, 0, static_cast<std::size_t>(dim) * sizeof(float));
  for (Index j = 0; j < count; ++j) {
    const T* source = row<T>(dy, order[j]);
#pragma omp simd
    for (Index i = 0; i < dim; ++i) sum[i] += load(source, i);
  }
#pragma omp simd
  for (Index i = 0; i < dim; ++i) store(out, i, sum[i]);
}

}  // namespace

void rotary(FloatType type, ConstRows x, const float* cos, const float* sin, Index table_stride,
            const Index* positions, Index tokens, Index heads, Index dim, bool inverse, Rows y) {
  const float sign = inverse ? -1.0F : 1.0F;
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (tokens * heads * dim > kParallelElements)
    for (Index t = 0; t < tokens; ++t) {
      const Index position = positions != nullptr ? positions[t] : t;
      for (Index h = 0; h < heads; ++h) {
        rotate_row(row<T>(x, t) + h * dim, cos + position * table_stride, sin + position * table_stride, sign,
                   dim / 2, row<T>(y, t) + h * dim);
      }
    }
  });
}

void swiglu(FloatType type, const void* gate, const void* up, Index n, void* y) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (n > kParallelElements)
    for (Index i = 0; i < n; i += kStripe) {
      swiglu_stripe(static_cast<const T*>(gate) + i, static_cast<const T*>(up) + i, min(kStripe, n - i),
                    static_cast<T*>(y) + i);
    }
  });
}

void swiglu_backward(FloatType type, const void* dy, const void* gate, const void* up, Index n, void* dgate,
                     void* dup) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (n > kParallelElements)
    for (Index i = 0; i < n; i += kStripe) {
      swiglu_stripe_backward(static_cast<const T*>(dy) + i, static_cast<const T*>(gate) + i,
                             static_cast<const T*>(up) + i, min(kStripe, n - i), static_cast<T*>(dgate) + i,
                             static_cast<T*>(dup) + i);
    }
  });
}

void dropout(FloatType type, ConstRows x, std::uint64_t key, Index first_token, std::uint32_t threshold,
             Index tokens, Index dim, Rows y) {
  const float scale = 65536.0F / static_cast<float>(65536U - threshold);
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (tokens * dim > kParallelElements)
    for (Index t = 0; t < tokens; ++t) {
      dropout_row(row<T>(x, t), key, static_cast<std::uint64_t>(first_token + t), threshold, scale, dim,
                  row<T>(y, t));
    }
  });
}

void gather(FloatType type, const void* table, const Index* ids, Index n, Index dim, void* y) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (n * dim > kParallelElements)
    for (Index i = 0; i < n; ++i) {
      std::memcpy(static_cast<T*>(y) + i * dim, static_cast<const T*>(table) + ids[i] * dim,
                  static_cast<std::size_t>(dim) * sizeof(T));
    }
  });
}

void gather_mean(FloatType type, const void* table, const std::int32_t* ids, const float* weights,
                 const Index* offsets, Index groups, Index dim, void* y) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (groups * dim > kParallelElements)
    for (Index group = 0; group < groups; ++group) {
      const Index first = offsets[group];
      mean_row(static_cast<const T*>(table), ids + first, weights != nullptr ? weights + first : nullptr,
               offsets[group + 1] - first, dim, static_cast<T*>(y) + group * dim);
    }
  });
}

void scatter_add(FloatType type, ConstRows dy, const Index* ids, const Index* order, const Index* starts,
                 Index groups, Index dim, void* dtable) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel if (starts[groups] * dim > kParallelElements)
    {
      Buffer<float> sum(dim);
#pragma omp for schedule(static)
      for (Index g = 0; g < groups; ++g) {
        add_group(dy, order + starts[g], starts[g + 1] - starts[g], dim, sum.data(),
                  static_cast<T*>(dtable) + ids[order[starts[g]]] * dim);
      }
    }
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
