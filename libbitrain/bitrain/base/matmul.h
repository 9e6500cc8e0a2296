#pragma once

#include <ATen/core/Tensor.h>

/// Products of matrices, [m, k] by [k, n], for every layer and loss. They are LibTorch's own, but for two
/// things. A CPU without quick bfloat16 products computes 16-bit matrices in float32. LibTorch's are half
/// as quick as float32's where the machine has the vector instructions of Intel without its tiles (measured),
/// and many times slower where it has none (44 to 500 times in PyTorch's issues 146508 and 83863). Sums are
/// float32 either way and are rounded once, to the operands' type.
///
/// What a CPU computes in float32 or float64 has the same bits on any number of threads, but for products of
/// fewer than 64 rows with a transposed matrix.

namespace bitrain {

/// How the CPU under us multiplies bfloat16 matrices.
enum class NarrowProducts {
  kQuick,   ///< At least as quick as float32: AMD's AVX512-BF16, AMX, and whatever is not x86.
  kHalf,    ///< At half its rate: Intel's AVX512-BF16.
  kAbsent,  ///< No instructions for them.
};
[[nodiscard]] NarrowProducts narrow_products();
/// Instead of what the machine is, for tests; returns what was in force.
NarrowProducts set_narrow_products(NarrowProducts kind);

/// True where `a` times a matrix of `columns` columns is computed in float32 though `a` is of a 16-bit type.
[[nodiscard]] bool computes_wide(const at::Tensor& a, std::int64_t columns);

/// a b + bias, `bias` [n] or [m, n] where it is defined. One of a and b may be float32 where the other is
/// 16-bit and computes_wide: a weight that was decoded so, which saves a copy. The result has the other's
/// type.
[[nodiscard]] at::Tensor product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias = {});
/// The same in out's memory.
void product_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                  const at::Tensor& bias = {});
/// sum += scale a b.
void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double scale = 1);

}  // namespace bitrain
