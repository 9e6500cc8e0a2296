#include <bitrain/kernels/isa_support.h>

#include <cmath>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

constexpr Index kBlockRows = 64;  // Rows whose share of dweight is summed together, whatever the threads.

template <class T, class W>
void norm_row(const T* x, const W* weight, Index dim, float eps, T* y, float* rstd) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (Index i = 0; i < dim; ++i) squares += load(x, i) * load(x, i);
  const float scale = 1.0F / __builtin_sqrtf(squares / static_cast<float>(dim) + eps);
#pragma omp simd
  for (Index i = 0; i < dim; ++i) store(y, i, load(x, i) * scale * load(weight, i));
  *rstd = scale;
}

template <class T, class W>
void norm(ConstRows x, ConstRows residual, Rows sum, const W* weight, Index rows, Index dim, float eps,
          Rows y, float* rstd) {
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
    norm_row(input, weight, dim, eps, row<T>(y, r), rstd + r);
  }
}

template <class T, class W>
void norm_row_backward(const T* dy, const T* dsum, const T* x, const W* weight, float rstd, Index dim, T* dx,
                       float* dweight) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (Index i = 0; i < dim; ++i) dot += load(dy, i) * load(weight, i) * load(x, i);
  const float mean = dot * rstd * rstd / static_cast<float>(dim);  // mean(dy w xhat) rstd
  if (dweight != nullptr) {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) dweight[i] += load(dy, i) * load(x, i) * rstd;
  }
  if (dsum != nullptr) {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) {
      store(dx, i, rstd * (load(dy, i) * load(weight, i) - load(x, i) * mean) + load(dsum, i));
    }
  } else {
#pragma omp simd
    for (Index i = 0; i < dim; ++i) store(dx, i, rstd * (load(dy, i) * load(weight, i) - load(x, i) * mean));
  }
}

template <class T, class W>
void norm_backward(ConstRows dy, ConstRows dsum, ConstRows x, const W* weight, const float* rstd, Index rows,
                   Index dim, Rows dx, float* dweight) {
  const Index blocks = (rows + kBlockRows - 1) / kBlockRows;
  Buffer<float> partial(dweight != nullptr ? blocks * dim : 0);
#pragma omp parallel for schedule(static) if (rows * dim > kParallelElements)
  for (Index block = 0; block < blocks; ++block) {
    float* share = nullptr;
    if (dweight != nullptr) {
      share = partial.data() + block * dim;
      std::memset(share, 0, static_cast<std::size_t>(dim) * sizeof(float));
    }
    for (Index r = block * kBlockRows; r < min((block + 1) * kBlockRows, rows); ++r) {
      norm_row_backward(row<T>(dy, r), dsum.data != nullptr ? row<T>(dsum, r) : nullptr, row<T>(x, r), weight,
                        rstd[r], dim, row<T>(dx, r), share);
    }
  }
  if (dweight == nullptr) return;
  std::memset(dweight, 0, static_cast<std::size_t>(dim) * sizeof(float));
  for (Index block = 0; block < blocks; ++block) {
    const float* share = partial.data() + block * dim;
#pragma omp simd
    for (Index i = 0; i < dim; ++i) dweight[i] += share[i];
  }
}

}  // namespace

void rms_norm(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
              FloatType weight_type, Index rows, Index dim, float eps, Rows y, float* rstd) {
  with_type(type, [&]<class T>(T*) {
    with_type(weight_type, [&]<class W>(W*) {
      norm<T, W>(x, residual, sum, static_cast<const W*>(weight), rows, dim, eps, y, rstd);
    });
  });
}

void rms_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                       FloatType weight_type, const float* rstd, Index rows, Index dim, Rows dx,
                       float* dweight) {
  with_type(type, [&]<class T>(T*) {
    with_type(weight_type, [&]<class W>(W*) {
      norm_backward<T, W>(dy, dsum, x, static_cast<const W*>(weight), rstd, rows, dim, dx, dweight);
    });
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
