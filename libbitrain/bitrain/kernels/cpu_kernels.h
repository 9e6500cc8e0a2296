#pragma once

#include <cstdint>

#include <bitrain/kernels/nf4.h>

namespace bitrain::kernels {

/// Rows that start `stride` elements apart; the elements of a row lie side by side.
struct Rows {
  void* data = nullptr;
  std::int64_t stride = 0;
};
struct ConstRows {
  const void* data = nullptr;
  std::int64_t stride = 0;
};

/// One parameter in a fused AdamW step.
struct AdamWTensor {
  void* weight = nullptr;  ///< [numel] in weight_type.
  FloatType weight_type = FloatType::kFloat32;
  float* master =
      nullptr;  ///< [numel]: the float32 weight behind a bfloat16 one; null: `weight` is all there is.
  const void* grad = nullptr;  ///< [numel] in grad_type.
  FloatType grad_type = FloatType::kFloat32;
  float* exp_avg = nullptr;     ///< [numel], first moment.
  float* exp_avg_sq = nullptr;  ///< [numel], second moment.
  std::int64_t numel = 0;
  double lr = 0;
  double weight_decay = 0;
  std::int64_t step = 1;  ///< Updates of this parameter including this one: bias correction.
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double grad_scale = 1.0;  ///< Every gradient is multiplied by it first (clipping, division by a count).
};

/// A run of elements to read.
struct ConstSpan {
  const void* data = nullptr;
  FloatType type = FloatType::kFloat32;
  std::int64_t numel = 0;
};

/// Attention over packed rows. Tensors are [tokens, heads, head_dim]; heads of one token lie side by side,
/// tokens `stride` elements apart.
struct AttentionShape {
  FloatType type = FloatType::kFloat32;      ///< Of q, k, v, out and all gradients: float32 or bfloat16.
  const std::int32_t* boundaries = nullptr;  ///< [segments + 1]
  std::int64_t segments = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< Divides heads.
  std::int64_t head_dim = 0;
  float scale = 1;
  bool causal = true;
};

/// A table of kernels for one kind of machine: the CPU's, compiled once for each instruction set, or CUDA's
/// (kernels/cuda_kernels.h), which has some of them and null for the others. Storage is float32 or bfloat16
/// as `type` says, on CUDA float16 too; arithmetic is float32. On the CPU they run on the threads of OpenMP.
/// Results do not depend on the number of threads and come out the same every time. A result may lie over an
/// input of the same type and strides, except in attention and gather.
struct Kernels {
  const char* isa;

  /// x [rows, dim] -> y = x * rstd * weight, rstd [rows]. With `residual`, x is replaced by x + residual,
  /// written to `sum` (rounded to `type`) and normed from there.
  void (*rms_norm)(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
                   FloatType weight_type, std::int64_t rows, std::int64_t dim, float eps, Rows y,
                   float* rstd);

  /// dx from dy, plus `dsum` where given; dweight [dim] in float32 unless null (x: the normed input).
  void (*rms_norm_backward)(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                            FloatType weight_type, const float* rstd, std::int64_t rows, std::int64_t dim,
                            Rows dx, float* dweight);

  /// x [rows, dim] -> y = (x - mean) * rstd * weight + bias (null: 0), mean and rstd [rows]. `residual` and
  /// `sum` as in rms_norm.
  void (*layer_norm)(FloatType type, ConstRows x, ConstRows residual, Rows sum, const void* weight,
                     const void* bias, FloatType weight_type, std::int64_t rows, std::int64_t dim, float eps,
                     Rows y, float* mean, float* rstd);

  /// dx from dy, plus `dsum` where given; dweight and dbias [dim] in float32, both or neither (x: the normed
  /// input).
  void (*layer_norm_backward)(FloatType type, ConstRows dy, ConstRows dsum, ConstRows x, const void* weight,
                              FloatType weight_type, const float* mean, const float* rstd, std::int64_t rows,
                              std::int64_t dim, Rows dx, float* dweight, float* dbias);

  /// y = [x1 c - x2 s | x2 c + x1 s] for each head of each token; cos, sin [.., dim / 2] with rows
  /// `table_stride` apart; positions [tokens], or null for 0, 1, ... The backward of a rotation is that with
  /// `inverse`.
  void (*rotary)(FloatType type, ConstRows x, const float* cos, const float* sin, std::int64_t table_stride,
                 const std::int64_t* positions, std::int64_t tokens, std::int64_t heads, std::int64_t dim,
                 bool inverse, Rows y);

  /// y = silu(gate) * up over n elements.
  void (*swiglu)(FloatType type, const void* gate, const void* up, std::int64_t n, void* y);
  void (*swiglu_backward)(FloatType type, const void* dy, const void* gate, const void* up, std::int64_t n,
                          void* dgate, void* dup);

  /// y = x P(normal <= x) over n elements, or its approximation by tanh.
  void (*gelu)(FloatType type, bool tanh, const void* x, std::int64_t n, void* y);
  void (*gelu_backward)(FloatType type, bool tanh, const void* dy, const void* x, std::int64_t n, void* dx);

  /// losses[i] = logsumexp(row i) - row i[labels[i]]; logits [rows, vocab]. With `write_gradient` the logits
  /// are replaced by (softmax - onehot) * weights[i] (null: 1). Labels must lie in [0, vocab).
  void (*cross_entropy)(FloatType type, Rows logits, const std::int64_t* labels, const float* weights,
                        std::int64_t rows, std::int64_t vocab, bool write_gradient, float* losses);

  /// AdamW with decoupled weight decay (Loshchilov and Hutter 2019), one pass over each tensor, in PyTorch's
  /// order: w -= lr wd w; m, v updated; w -= lr m^ / (sqrt(v^) + eps).
  void (*adamw)(const AdamWTensor* tensors, std::int64_t count, const AdamWOptions& options);

  /// Sum of squares of all elements, in double. NaN or infinity where an element is.
  double (*sum_of_squares)(const ConstSpan* spans, std::int64_t count);

  /// y [tokens, dim] = x where kept, else 0, times 65536 / (65536 - threshold). Element f of token t is kept
  /// when its 16 bits are >= threshold. Features go in groups of 128, group g by 16 Philox blocks (key,
  /// first_token + t, 16 g + lane): feature 128 g + 16 j + lane has half-word j (low halves first) of block
  /// `lane`.
  void (*dropout)(FloatType type, ConstRows x, std::uint64_t key, std::int64_t first_token,
                  std::uint32_t threshold, std::int64_t tokens, std::int64_t dim, Rows y);

  /// y[i] = table[ids[i]] for rows of `dim` elements. Ids must be inside the table.
  void (*gather)(FloatType type, const void* table, const std::int64_t* ids, std::int64_t n, std::int64_t dim,
                 void* y);
  /// y[i] = the mean of the rows ids[k] of `table`, k from offsets[i] to offsets[i + 1] - 1, in their order;
  /// with `weights` [ids] the weighted mean. No group may be empty; y may be another part of the table.
  void (*gather_mean)(FloatType type, const void* table, const std::int32_t* ids, const float* weights,
                      const std::int64_t* offsets, std::int64_t groups, std::int64_t dim, void* y);
  /// dtable[v] = sum of dy[i] over the i with ids[i] == v, for every v that has one; other rows are left.
  /// `order` [n] lists the i sorted by id, and group g of equal ids is order[starts[g]] .. order[starts[g +
  /// 1] - 1].
  void (*scatter_add)(FloatType type, ConstRows dy, const std::int64_t* ids, const std::int64_t* order,
                      const std::int64_t* starts, std::int64_t groups, std::int64_t dim, void* dtable);

  /// y [segments, dim] = sum of weights[t] x[t] over the tokens t of each segment, boundaries[s] ..
  /// boundaries[s + 1] - 1.
  void (*segment_sum)(FloatType type, ConstRows x, const float* weights, const std::int32_t* boundaries,
                      std::int64_t segments, std::int64_t dim, float* y);
  void (*segment_sum_backward)(FloatType type, const float* dy, const float* weights,
                               const std::int32_t* boundaries, std::int64_t segments, std::int64_t dim,
                               Rows dx);
  /// y [segments, dim] = the largest of each feature in each segment (none empty), `where` its token.
  void (*segment_max)(FloatType type, ConstRows x, const std::int32_t* boundaries, std::int64_t segments,
                      std::int64_t dim, float* y, std::int32_t* where);
  void (*segment_max_backward)(FloatType type, const float* dy, const std::int32_t* where,
                               const std::int32_t* boundaries, std::int64_t segments, std::int64_t dim,
                               Rows dx);

  /// out = softmax(scale q k^T) v within segments; lse [heads, tokens] for backward.
  void (*attention)(const AttentionShape& shape, ConstRows q, ConstRows k, ConstRows v, Rows out, float* lse);
  void (*attention_backward)(const AttentionShape& shape, ConstRows dout, ConstRows q, ConstRows k,
                             ConstRows v, ConstRows out, const float* lse, Rows dq, Rows dk, Rows dv);
};

/// The table for this machine: avx512, avx2 or generic.
[[nodiscard]] const Kernels& cpu_kernels();

/// The table of that name, or null where this build or this machine lacks it. For tests and benchmarks.
[[nodiscard]] const Kernels* cpu_kernels_for(const char* isa);

}  // namespace bitrain::kernels
