#include <bitrain/kernels/isa_support.h>

#include <cmath>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

constexpr Index kBlockRows = 64;  // Rows whose share of dweight is summed together, whatever the threads.

template <class T, class W>
void norm_row(const T* x, const W* weight, const W* bias, Index dim, float eps, T* y, float* mean,
              float* rstd) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < dim; ++i) sum += load(x, i);
  const float centre = sum / static_cast<float>(dim);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (Index i = 0; i < dim; ++i) squares += (load(x, i) - centre) * (load(x, i) - centre);
  const float scale = 1.0F / __builtin_sqrtf(squares / static_cast<float>(dim) + eps);
  if (bias != nullptr) {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) {
      store(y, i, fma((load(x, i) - centre) * scale, load(weight, i), load(bias, i)));
    }
  } else {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) store(y, i, (load(x, i) - centre) * scale * load(weight, i));
  }
  *mean = centre;
  *rstd = scale;
}

template <class T, class W>
void norm(ConstRows x, ConstRows residual, Rows sum, const W* weight, const W* bias, Index rows, Index dim,
          float eps, Rows y, float* mean, float* rstd) {
#pragma omp parallel for schedule(static) if (rows * dim > kParallelElements)
  for (Index r = 0; r < rows; ++r) {
    const T* input = row<T>(x, r);
    if (residual.data != nullptr) {
      const T* other = row<T>(residual, r);
      T* total = row<T>(sum, r);
#pragma omp simd
      for (Index i = 0; i < dim; ++i) store(total, i, load(input, i) + load(other, i));
      input = total;
    }
    norm_row(input, weight, bias, dim, eps, row<T>(y, r), mean + r, rstd + r);
  }
}

// dweight and dbias are added to; both or neither are null.
template <class T, class W>
void norm_row_backward(const T* dy, const T* dsum, const T* x, const W* weight, float mean, float rstd,
                       Index dim, T* dx, float* dweight, float* dbias) {
  float total = 0;
  float dot = 0;
#pragma omp simd reduction(+ : total, dot)
  for (Index i = 0; i < dim; ++i) {
    const float slope = load(dy, i) * load(weight, i);
    total += slope;
    dot += slope * (load(x, i) - mean);
  }
  if (dweight != nullptr) {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) {
      dweight[i] += load(dy, i) * (load(x, i) - mean) * rstd;
      dbias[i] += load(dy, i);
    }
  }
  // dx = rstd (slope - mean(slope) - xhat mean(slope xhat))
  const float shift = total / static_cast<float>(dim);
  const float along = dot * rstd * rstd / static_cast<float>(dim);
  if (dsum != nullptr) {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) {
      const float inner = load(dy, i) * load(weight, i) - shift - (load(x, i) - mean) * along;
      store(dx, i, rstd * inner + load(dsum, i));
    }
  } else {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) {
      const float inner = load(dy, i) * load(weight, i) - shift - (load(x, i) - mean) * along;
      store(dx, i, rstd * inner);
    }
  }
}

template <class T, class W>
void norm_backward(ConstRows dy, ConstRows dsum, ConstRows x, const W* weight, const float* mean,
                   const float* rstd, Index rows, Index dim, Rows dx, float* dweight, float* dbias) {
  const Index blocks = (rows + kBlockRows - 1) / kBlockRows;
  Buffer<float> partial(dweight != nullptr ? blocks * 2 * dim : 0);
#pragma omp parallel for schedule(static) if (rows * dim > kParallelElements)
  for (Index block = 0; block < blocks; ++block) {
    float* share = nullptr;
    if (dweight != nullptr) {
      share = partial.data() + block * 2 * dim;
      std::memset(share, 0, static_cast<std::size_t>(2 * dim) * sizeof(float));
    }
    for (Index r = block * kBlockRows; r < min((block + 1) * kBlockRows, rows); ++r) {
      norm_row_backward(row<T>(dy, r), dsum.data != nullptr ? row<T>(dsum, r) : nullptr, row<T>(x, r), weight,
                        mean[r], rstd[r], dim, row<T>(dx, r), share,
                        share != nullptr ? share + dim : nullptr);
    }
  }
  if (dweight == nullptr) return;
  std::memset(dweight, 0, static_cast<std::size_t>(dim) * sizeof(float));
  std::memset(dbias, 0, static_cast<std::size_t>(dim) * sizeof(float));
  for (Index block = 0; block < blocks; ++block) {
    const float* share = partial.data() + block * 2 * dim;
#pragma omp simd
    for (Index i = 0; i < dim; ++i) {
      dweight[i] += share[i];
      dbias[i] += share[dim + i];
    }
  }
}

}  // namespace

void layer_norm(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
                const void* bias, FloatType weight_type, Index rows, Index dim, float eps, Rows y,
                float* mean, float* rstd) {
  with_type(type, [&]<class T>(T*) {
    with_type(weight_type, [&]<class W>(W*) {
      norm<T, W>(x, residual, sum, static_cast<const W*>(weight), static_cast<const W*>(bias), rows, dim, eps,
                 y, mean, rstd);
    });
  });
}

void layer_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                         FloatType weight_type, const float* mean, const float* rstd, Index rows, Index dim,
                         Rows dx, float* dweight, float* dbias) {
  with_type(type, [&]<class T>(T*) {
    with_type(weight_type, [&]<class W>(W*) {
      norm_backward<T, W>(dy, dsum, x, static_cast<const W*>(weight), mean, rstd, rows, dim, dx, dweight,
                          dbias);
    });
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
