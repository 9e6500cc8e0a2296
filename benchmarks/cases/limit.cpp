#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include "case.h"

namespace bitrain::benchmarks {

/// What the machine can do now: bf16 matrix products and a large copy.
void bench_limit() {
  const std::int64_t n = 2048;
  const at::Tensor a = at::randn({n, n}).to(at::kBFloat16);
  const at::Tensor b = at::randn({n, n}).to(at::kBFloat16);
  at::Tensor c = at::empty({n, n}, a.options());
  const Timing product = time_calls(12, [&] { at::mm_out(c, a, b); });
  const at::Tensor from = at::randn({64 << 20});
  at::Tensor to = at::empty_like(from);
  const Timing copy = time_calls(5, [&] { to.copy_(from); });
  report("limit", {{"bf16_gflops", 2.0 * n * n * n / product.best / 1e9},
                   {"copy_gb_per_second", 2.0 * static_cast<double>(from.nbytes()) / copy.best / 1e9}});
}

}  // namespace bitrain::benchmarks
