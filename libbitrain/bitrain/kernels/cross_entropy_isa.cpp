#include <bitrain/kernels/isa_support.h>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

template <class T>
float max_of(const T* x, Index n) {
  float highest = load(x, 0);
#pragma omp simd reduction(max : highest)
  for (Index i = 0; i < n; ++i) {
    const float value = load(x, i);
    highest = value > highest ? value : highest;
  }
  return highest;
}

// e^(x - highest) into `powers`, and their sum.
template <class T>
float sum_powers(const T* x, Index n, float highest, float* powers) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < n; ++i) {
    const float power = exp(load(x, i) - highest);
    powers[i] = power;
    sum += power;
  }
  return sum;
}

template <class T>
float row_loss(T* x, Index n, Index label, float weight, bool write_gradient, float* powers) {
  const float highest = max_of(x, n);
  const float sum = sum_powers(x, n, highest, powers);
  const float loss = highest - load(x, label) + __builtin_logf(sum);
  if (write_gradient) {
    const float factor = weight / sum;
#pragma omp simd
    for (Index i = 0; i < n; ++i) store(x, i, powers[i] * factor);
    store(x, label, (powers[label] / sum - 1.0F) * weight);
  }
  return loss;
}

}  // namespace

void cross_entropy(FloatType type, Rows logits, const Index* labels, const float* weights, Index rows,
                   Index vocab, bool write_gradient, float* losses) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel if (rows * vocab > kParallelElements)
    {
      Buffer<float> powers(vocab);  // A row's exponentials stay in cache between the two passes.
#pragma omp for schedule(static)
      for (Index r = 0; r < rows; ++r) {
        losses[r] = row_loss(row<T>(logits, r), vocab, labels[r], weights != nullptr ? weights[r] : 1.0F,
                             write_gradient, powers.data());
      }
    }
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
