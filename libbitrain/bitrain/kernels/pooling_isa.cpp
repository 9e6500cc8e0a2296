#include <bitrain/kernels/isa_support.h>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

template <class T>
void sum_segment(ConstRows x, const float* weights, Index begin, Index end, Index dim, float* sum) {
  std::memset(sum, 0, static_cast<std::size_t>(dim) * sizeof(float));
  for (Index t = begin; t < end; ++t) {
    const T* source = row<T>(x, t);
    const float weight = weights[t];
#pragma omp simd
    for (Index i = 0; i < dim; ++i) sum[i] = fma(weight, load(source, i), sum[i]);
  }
}

// The first of equal values wins, and NaN above all.
template <class T>
void max_segment(ConstRows x, Index begin, Index end, Index dim, float* largest, std::int32_t* where) {
  const T* first = row<T>(x, begin);
  for (Index i = 0; i < dim; ++i) {
    largest[i] = load(first, i);
    where[i] = static_cast<std::int32_t>(begin);
  }
  for (Index t = begin + 1; t < end; ++t) {
    const T* source = row<T>(x, t);
#pragma omp simd
    for (Index i = 0; i < dim; ++i) {
      const float value = load(source, i);
      const bool takes = value > largest[i] || (value != value && largest[i] == largest[i]);
      largest[i] = takes ? value : largest[i];
      where[i] = takes ? static_cast<std::int32_t>(t) : where[i];
    }
  }
}

}  // namespace

void segment_sum(FloatType type, ConstRows x, const float* weights, const std::int32_t* boundaries,
                 Index segments, Index dim, float* y) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (boundaries[segments] * dim > kParallelElements)
    for (Index s = 0; s < segments; ++s)
      sum_segment<T>(x, weights, boundaries[s], boundaries[s + 1], dim, y + s * dim);
  });
}

void segment_sum_backward(FloatType type, const float* dy, const float* weights,
                          const std::int32_t* boundaries, Index segments, Index dim, Rows dx) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (boundaries[segments] * dim > kParallelElements)
    for (Index s = 0; s < segments; ++s) {
      const float* slope = dy + s * dim;
      for (Index t = boundaries[s]; t < boundaries[s + 1]; ++t) {
        T* target = row<T>(dx, t);
        const float weight = weights[t];
#pragma omp simd
        for (Index i = 0; i < dim; ++i) store(target, i, weight * slope[i]);
      }
    }
  });
}

void segment_max(FloatType type, ConstRows x, const std::int32_t* boundaries, Index segments, Index dim,
                 float* y, std::int32_t* where) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (boundaries[segments] * dim > kParallelElements)
    for (Index s = 0; s < segments; ++s)
      max_segment<T>(x, boundaries[s], boundaries[s + 1], dim, y + s * dim, where + s * dim);
  });
}

void segment_max_backward(FloatType type, const float* dy, const std::int32_t* where,
                          const std::int32_t* boundaries, Index segments, Index dim, Rows dx) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (boundaries[segments] * dim > kParallelElements)
    for (Index s = 0; s < segments; ++s) {
      for (Index t = boundaries[s]; t < boundaries[s + 1]; ++t) {
        T* target = row<T>(dx, t);
#pragma omp simd
        for (Index i = 0; i < dim; ++i)
          store(target, i, where[s * dim + i] == static_cast<std::int32_t>(t) ? dy[s * dim + i] : 0.0F);
      }
    }
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
