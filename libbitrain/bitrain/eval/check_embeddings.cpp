#include <bitrain/eval/check_embeddings.h>

#include <cstdint>

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>

#include <bitrain/base/error.h>

namespace bitrain::eval {
namespace {

/// The first row with `bad` set, or -1.
std::int64_t first_of(const at::Tensor& bad) {
  if (!bad.any().item<bool>()) return -1;
  return bad.to(at::kByte).argmax().item<std::int64_t>();
}

}  // namespace

void check_embeddings(const at::Tensor& x, const std::string& what) {
  if (x.dim() != 2 || x.scalar_type() != at::kFloat)
    throw StateError(what, ": ", x.scalar_type(), " ", x.sizes(), " is not float32 [N, D]");
  if (x.numel() == 0) throw StateError(what, ": ", x.sizes(), " has no embeddings");
  if (const std::int64_t row = first_of(at::isfinite(x).all(1).logical_not()); row >= 0)
    throw DataError(what, ": row ", row, " has NaN or infinity");
  if (const std::int64_t row = first_of(x.eq(0).all(1)); row >= 0)
    throw DataError(what, ": row ", row, " is all zero: it has no direction");
  if (x.size(0) > 1 && x.eq(x.narrow(0, 0, 1)).all().item<bool>())
    throw DataError(what, ": all ", x.size(0), " rows are equal: nothing tells them apart");
}

}  // namespace bitrain::eval
