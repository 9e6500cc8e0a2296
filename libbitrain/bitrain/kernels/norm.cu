// RMS and layer norm on CUDA: a thread block a row; gradients of the weights by columns.
#include <bitrain/kernels/cuda_support.cuh>

namespace bitrain::kernels::cuda {
namespace {

constexpr int kColumns = 32;  // Of a thread block that sums columns, as wide as a warp.
constexpr int kLines = 8;

// kCentred: layer norm, with mean and bias; else RMS norm.
template <class T, class W, bool kCentred>
__global__ void norm_kernel(ConstRows x, ConstRows residual, Rows sum, const W* weight, const W* bias,
                            Index dim, float eps, Rows y, float* means, float* rstds) {
  const Index r = blockIdx.x;
  const T* input = row<T>(x, r);
  if (residual.data != nullptr) {
    const T* other = row<T>(residual, r);
    T* total = row<T>(sum, r);
    for (Index i = threadIdx.x; i < dim; i += blockDim.x)
      total[i] = from_float<T>(to_float(input[i]) + to_float(other[i]));
    input = total;  // A thread reads only what it wrote itself.
  }
  float mean = 0;
  if constexpr (kCentred) {
    float share = 0;
    for (Index i = threadIdx.x; i < dim; i += blockDim.x) share += to_float(input[i]);
    mean = block_sum(share) / static_cast<float>(dim);
  }
  float squares = 0;
  for (Index i = threadIdx.x; i < dim; i += blockDim.x) {
    const float centred = to_float(input[i]) - mean;
    squares += centred * centred;
  }
  const float rstd = 1.0F / sqrtf(block_sum(squares) / static_cast<float>(dim) + eps);
  T* output = row<T>(y, r);
  for (Index i = threadIdx.x; i < dim; i += blockDim.x) {
    float value = (to_float(input[i]) - mean) * rstd * to_float(weight[i]);
    if (bias != nullptr) value += to_float(bias[i]);
    output[i] = from_float<T>(value);
  }
  if (threadIdx.x != 0) return;
  if constexpr (kCentred) means[r] = mean;
  rstds[r] = rstd;
}

template <class T, class W, bool kCentred>
__global__ void norm_backward_kernel(ConstRows dy, ConstRows dsum, ConstRows x, const W* weight,
                                     const float* means, const float* rstds, Index dim, Rows dx) {
  const Index r = blockIdx.x;
  const T* slope = row<T>(dy, r);
  const T* input = row<T>(x, r);
  const float mean = kCentred ? means[r] : 0.0F;
  const float rstd = rstds[r];
  float level = 0;
  float along = 0;
  for (Index i = threadIdx.x; i < dim; i += blockDim.x) {
    const float weighted = to_float(slope[i]) * to_float(weight[i]);
    level += weighted;
    along += weighted * (to_float(input[i]) - mean) * rstd;
  }
  level = kCentred ? block_sum(level) / static_cast<float>(dim) : 0.0F;
  along = block_sum(along) / static_cast<float>(dim);
  const T* through = dsum.data != nullptr ? row<T>(dsum, r) : nullptr;
  T* output = row<T>(dx, r);
  for (Index i = threadIdx.x; i < dim; i += blockDim.x) {
    const float normed = (to_float(input[i]) - mean) * rstd;
    float value = rstd * (to_float(slope[i]) * to_float(weight[i]) - level - normed * along);
    if (through != nullptr) value += to_float(through[i]);
    output[i] = from_float<T>(value);
  }
}

// shares [chunks][kCentred ? 2 : 1][dim]: what kNormChunk rows add to the gradients of weight and bias.
template <class T, bool kCentred>
__global__ void weight_shares_kernel(ConstRows dy, ConstRows x, const float* means, const float* rstds,
                                     Index rows, Index dim, float* shares) {
  __shared__ float sums[2][kLines][kColumns];
  const Index column = static_cast<Index>(blockIdx.y) * kColumns + threadIdx.x;
  const Index begin = static_cast<Index>(blockIdx.x) * kNormChunk;
  const Index end = min(begin + kNormChunk, rows);
  float weight = 0;
  float bias = 0;
  if (column < dim) {
    for (Index r = begin + threadIdx.y; r < end; r += kLines) {
      const float slope = to_float(row<T>(dy, r)[column]);
      const float centred = to_float(row<T>(x, r)[column]) - (kCentred ? means[r] : 0.0F);
      weight += slope * centred * rstds[r];
      bias += slope;
    }
  }
  sums[0][threadIdx.y][threadIdx.x] = weight;
  sums[1][threadIdx.y][threadIdx.x] = bias;
  __syncthreads();
  if (threadIdx.y != 0 || column >= dim) return;
  constexpr int kKinds = kCentred ? 2 : 1;
  for (int kind = 0; kind < kKinds; ++kind) {
    float sum = 0;
    for (int line = 0; line < kLines; ++line) sum += sums[kind][line][threadIdx.x];
    shares[(static_cast<Index>(blockIdx.x) * kKinds + kind) * dim + column] = sum;
  }
}

// The shares of all chunks, in their order.
__global__ void add_shares_kernel(const float* shares, Index chunks, Index dim, float* dweight,
                                  float* dbias) {
  const Index kinds = dbias != nullptr ? 2 : 1;
  const Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= kinds * dim) return;
  float sum = 0;
  for (Index chunk = 0; chunk < chunks; ++chunk) sum += shares[chunk * kinds * dim + i];
  (i < dim ? dweight : dbias)[i < dim ? i : i - dim] = sum;
}

unsigned threads_for(Index dim) {
  return dim <= 512 ? 128 : dim <= 2048 ? 256 : 512;
}

template <bool kCentred>
int norm(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight, const void* bias,
         FloatType weight_type, Index rows, Index dim, float eps, Rows y, float* mean, float* rstd,
         void* stream) {
  if (rows == 0) return cudaSuccess;
  if (rows > 0x7fffffff) return cudaErrorInvalidValue;
  return with_types(type, weight_type, [&](auto* t, auto* w) {
    using T = Pointee<decltype(t)>;
    using W = Pointee<decltype(w)>;
    norm_kernel<T, W, kCentred>
        <<<static_cast<unsigned>(rows), threads_for(dim), 0, static_cast<cudaStream_t>(stream)>>>(
            x, residual, sum, static_cast<const W*>(weight), static_cast<const W*>(bias), dim, eps, y, mean,
            rstd);
  });
}

template <bool kCentred>
int norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                  FloatType weight_type, const float* mean, const float* rstd, Index rows, Index dim, Rows dx,
                  float* dweight, float* dbias, float* shares, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  if (rows == 0) {
    if (dweight != nullptr) cudaMemsetAsync(dweight, 0, dim * sizeof(float), queue);
    if (dbias != nullptr) cudaMemsetAsync(dbias, 0, dim * sizeof(float), queue);
    return cudaGetLastError();
  }
  if (rows > 0x7fffffff || dim > Index{0xffff} * kColumns) return cudaErrorInvalidValue;
  if (dweight != nullptr) {  // First, for dx may lie over dy.
    const Index chunks = norm_chunks(rows);
    const int status = with_type(type, [&](auto* t) {
      using T = Pointee<decltype(t)>;
      const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>((dim + kColumns - 1) / kColumns));
      const dim3 threads(kColumns, kLines);
      weight_shares_kernel<T, kCentred><<<grid, threads, 0, queue>>>(dy, x, mean, rstd, rows, dim, shares);
      add_shares_kernel<<<grid_for(2 * dim), kThreads, 0, queue>>>(shares, chunks, dim, dweight, dbias);
    });
    if (status != cudaSuccess) return status;
  }
  return with_types(type, weight_type, [&](auto* t, auto* w) {
    using T = Pointee<decltype(t)>;
    using W = Pointee<decltype(w)>;
    norm_backward_kernel<T, W, kCentred><<<static_cast<unsigned>(rows), threads_for(dim), 0, queue>>>(
        dy, dsum, x, static_cast<const W*>(weight), mean, rstd, dim, dx);
  });
}

}  // namespace

int rms_norm(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
             FloatType weight_type, Index rows, Index dim, float eps, Rows y, float* rstd, void* stream) {
  return norm<false>(type, x, residual, sum, weight, nullptr, weight_type, rows, dim, eps, y, nullptr, rstd,
                     stream);
}

int rms_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                      FloatType weight_type, const float* rstd, Index rows, Index dim, Rows dx,
                      float* dweight, float* shares, void* stream) {
  return norm_backward<false>(type, dy, dsum, x, weight, weight_type, nullptr, rstd, rows, dim, dx, dweight,
                              nullptr, shares, stream);
}

int layer_norm(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
               const void* bias, FloatType weight_type, Index rows, Index dim, float eps, Rows y, float* mean,
               float* rstd, void* stream) {
  return norm<true>(type, x, residual, sum, weight, bias, weight_type, rows, dim, eps, y, mean, rstd, stream);
}

int layer_norm_backward(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                        FloatType weight_type, const float* mean, const float* rstd, Index rows, Index dim,
                        Rows dx, float* dweight, float* dbias, float* shares, void* stream) {
  return norm_backward<true>(type, dy, dsum, x, weight, weight_type, mean, rstd, rows, dim, dx, dweight,
                             dbias, shares, stream);
}

}  // namespace bitrain::kernels::cuda
