// Cross-entropy on CUDA: a thread block a row of logits, which is read twice and written once.
#include <bitrain/kernels/cuda_support.cuh>

namespace bitrain::kernels::cuda {
namespace {

template <class T>
__global__ void cross_entropy_kernel(Rows logits, const Index* labels, const float* weights, Index vocab,
                                     bool write_gradient, float* losses) {
  const Index r = blockIdx.x;
  T* scores = row<T>(logits, r);
  const Index label = labels[r];
  // Largest and sum of what a thread sees, the sum scaled anew whenever the largest grows.
  float largest = -INFINITY;
  float sum = 0;
  for (Index i = threadIdx.x; i < vocab; i += blockDim.x) {
    const float score = to_float(scores[i]);
    if (score > largest) {
      sum = sum * __expf(largest - score) + 1.0F;
      largest = score;
    } else if (score != -INFINITY) {
      sum += __expf(score - largest);
    }
  }
  const float most = block_max(largest);
  const float total = block_sum(largest == -INFINITY ? sum : sum * __expf(largest - most));
  if (threadIdx.x == 0) losses[r] = (most - to_float(scores[label])) + logf(total);
  if (!write_gradient) return;
  __syncthreads();  // The label's logit was read.
  const float weight = weights != nullptr ? weights[r] : 1.0F;
  const float share = 1.0F / total;
  for (Index i = threadIdx.x; i < vocab; i += blockDim.x)
    scores[i] =
        from_float<T>((__expf(to_float(scores[i]) - most) * share - (i == label ? 1.0F : 0.0F)) * weight);
}

}  // namespace

int cross_entropy(FloatType type, Rows logits, const Index* labels, const float* weights, Index rows,
                  Index vocab, bool write_gradient, float* losses, void* stream) {
  if (rows == 0) return cudaSuccess;
  if (rows > 0x7fffffff) return cudaErrorInvalidValue;
  const int threads = vocab > 4096 ? 1024 : kThreads;
  return with_type(type, [&](auto* t) {
    cross_entropy_kernel<Pointee<decltype(t)>>
        <<<static_cast<unsigned>(rows), threads, 0, static_cast<cudaStream_t>(stream)>>>(
            logits, labels, weights, vocab, write_gradient, losses);
  });
}

}  // namespace bitrain::kernels::cuda
