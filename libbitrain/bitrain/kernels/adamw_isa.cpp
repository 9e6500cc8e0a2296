#include <bitrain/kernels/isa_support.h>

#include <cmath>

namespace bitrain::kernels::BITRAIN_ISA {
namespace {

struct Constants {
  float beta1, beta2, keep1, keep2, eps, grad_scale, decay, step_size, root;
};

Constants constants_of(const AdamWTensor& tensor, const AdamWOptions& options) {
  const auto step = static_cast<double>(tensor.step);
  return {.beta1 = static_cast<float>(options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .keep1 = static_cast<float>(1 - options.beta1),
          .keep2 = static_cast<float>(1 - options.beta2),
          .eps = static_cast<float>(options.eps),
          .grad_scale = static_cast<float>(options.grad_scale),
          .decay = static_cast<float>(1 - tensor.lr * tensor.weight_decay),
          .step_size = static_cast<float>(tensor.lr / (1 - ::pow(options.beta1, step))),
          .root = static_cast<float>(1 / ::sqrt(1 - ::pow(options.beta2, step)))};
}

inline float updated(float weight, float gradient, float& m, float& v, const Constants& c) {
  const float g = gradient * c.grad_scale;
  m = c.beta1 * m + c.keep1 * g;
  v = c.beta2 * v + c.keep2 * g * g;
  return weight * c.decay - c.step_size * m / (__builtin_sqrtf(v) * c.root + c.eps);
}

template <class W, class G>
void update(const AdamWTensor& tensor, const Constants& c, Index begin, Index end) {
  W* weight = static_cast<W*>(tensor.weight);
  const G* grad = static_cast<const G*>(tensor.grad);
  float* master = tensor.master;
  float* exp_avg = tensor.exp_avg;
  float* exp_avg_sq = tensor.exp_avg_sq;
  if (master != nullptr) {
#pragma omp simd
    for (Index i = begin; i < end; ++i) {
      const float value = updated(master[i], load(grad, i), exp_avg[i], exp_avg_sq[i], c);
      master[i] = value;
      store(weight, i, value);
    }
  } else {
#pragma omp simd
    for (Index i = begin; i < end; ++i) {
      store(weight, i, updated(load(weight, i), load(grad, i), exp_avg[i], exp_avg_sq[i], c));
    }
  }
}

template <class T>
double squares(const T* x, Index begin, Index end) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = begin; i < end; ++i)
    sum += static_cast<double>(load(x, i)) * static_cast<double>(load(x, i));
  return sum;
}

}  // namespace

void adamw(const AdamWTensor* tensors, Index count, const AdamWOptions& options) {
  Buffer<Constants> constants(count);
  for (Index i = 0; i < count; ++i) constants[i] = constants_of(tensors[i], options);
  for_each_chunk(
      count, [&](Index i) { return tensors[i].numel; },
      [&](Index i, Index begin, Index end, Index) {
        with_type(tensors[i].weight_type, [&]<class W>(W*) {
          with_type(tensors[i].grad_type,
                    [&]<class G>(G*) { update<W, G>(tensors[i], constants[i], begin, end); });
        });
      });
}

double sum_of_squares(const ConstSpan* spans, Index count) {
  const auto numel = [&](Index i) { return spans[i].numel; };
  const Index chunks = count_chunks(count, numel);
  Buffer<double> partial(chunks);
  for_each_chunk(count, numel, [&](Index i, Index begin, Index end, Index chunk) {
    with_type(spans[i].type, [&]<class T>(T*) {
      partial[chunk] = squares(static_cast<const T*>(spans[i].data), begin, end);
    });
  });
  double sum = 0;
  for (Index chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk];
  return sum;
}

}  // namespace bitrain::kernels::BITRAIN_ISA
