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

template <class T>
float log_sum_exp(const T* x, Index n) {
  const float highest = max_of(x, n);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < n; ++i) sum += exp(load(x, i) - highest);
  return highest + __builtin_logf(sum);
}

template <class T>
void write_softmax(T* x, Index n, float lse, float weight) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) store(x, i, exp(load(x, i) - lse) * weight);
}

}  // namespace

void cross_entropy(FloatType type, Rows logits, const Index* labels, const float* weights, Index rows,
                   Index vocab, bool write_gradient, float* losses) {
  with_type(type, [&]<class T>(T*) {
#pragma omp parallel for schedule(static) if (rows * vocab > kParallelElements)
    for (Index r = 0; r < rows; ++r) {
      T* x = row<T>(logits, r);
      const float lse = log_sum_exp(x, vocab);
      const float label_logit = load(x, labels[r]);
      losses[r] = lse - label_logit;
      if (write_gradient) {
        const float weight = weights != nullptr ? weights[r] : 1.0F;
        write_softmax(x, vocab, lse, weight);
        store(x, labels[r], (exp(label_logit - lse) - 1.0F) * weight);
      }
    }
  });
}

}  // namespace bitrain::kernels::BITRAIN_ISA
