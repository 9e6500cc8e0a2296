#include <bitrain/eval/alignment.h>

#include <algorithm>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/search.h>

namespace bitrain::eval {
namespace {

void check_rows(const at::Tensor& x, const char* what) {
  if (x.dim() != 2 || x.scalar_type() != at::kFloat)
    throw StateError("alignment: ", what, " is ", x.scalar_type(), " ", x.sizes(), ", not float32 [N, D]");
  if (!at::isfinite(x).all().item<bool>()) throw DataError("alignment: ", what, " has NaN or infinity");
}

at::Tensor nearest_orthogonal(const at::Tensor& matrix) {
  const auto [u, s, v] = at::linalg_svd(matrix.to(at::kDouble), /*full_matrices=*/false);
  return at::matmul(u, v).to(at::kFloat);
}

at::Tensor unit_rows(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {1}, true).clamp_min(1e-12);
}

/// Sorted similarities of each of the first rows to all of them: the same for every rotation of the cloud.
at::Tensor profiles(const at::Tensor& x, std::int64_t anchors) {
  const at::Tensor rows = unit_rows(x.narrow(0, 0, std::min(anchors, x.size(0))));
  const at::Tensor sorted = std::get<0>(at::matmul(rows, rows.t()).sort(1, /*descending=*/true));
  const at::Tensor centred = sorted - sorted.mean(0, true);
  return unit_rows(centred);
}

/// Pairs of rows that are each other's nearest.
struct Matches {
  at::Tensor left;
  at::Tensor right;
};
Matches mutual_nearest(const at::Tensor& x, const at::Tensor& y, std::int64_t csls) {
  const at::Tensor forward = search(x, y, {.k = 1, .csls_neighbours = csls}).rows.squeeze(1);
  const at::Tensor backward = search(y, x, {.k = 1, .csls_neighbours = csls}).rows.squeeze(1);
  const at::Tensor own = at::ones_like(forward).cumsum(0) - 1;
  const at::Tensor left = own.masked_select(backward.index_select(0, forward).eq(own));
  return {left, forward.index_select(0, left)};
}

}  // namespace

at::Tensor Calibration::apply(const at::Tensor& x) const {
  const at::Tensor& part = shift.defined() ? shift : scale.defined() ? scale : rotation;
  if (part.defined() && (x.dim() != 2 || x.size(1) != part.size(0)))
    throw StateError("calibration: ", x.sizes(), " is not [N, ", part.size(0), "]");
  at::Tensor y = x;
  if (shift.defined()) y = y - shift;
  if (scale.defined()) y = y / scale;
  return rotation.defined() ? at::matmul(y, rotation) : y;
}

Calibration fit_shift_and_scale(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  check_rows(x, "the sample");
  if (x.size(0) < 2) throw DataError("calibration: ", x.size(0), " rows have no variance; give at least two");
  const at::Tensor wide = x.to(at::kDouble);
  const at::Tensor mean = wide.mean(0);
  const at::Tensor deviation = (wide - mean).square().mean(0).sqrt();
  Calibration result;
  result.shift = mean.to(at::kFloat);
  result.scale = at::where(deviation.gt(0), deviation, at::ones_like(deviation)).to(at::kFloat);
  return result;
}

at::Tensor procrustes(const at::Tensor& x, const at::Tensor& y) {
  const at::NoGradGuard no_grad;
  check_rows(x, "the source");
  check_rows(y, "the target");
  if (x.sizes() != y.sizes())
    throw StateError("alignment: ", x.sizes(), " and ", y.sizes(), " are not pairs of rows");
  return nearest_orthogonal(at::matmul(x.to(at::kDouble).t(), y.to(at::kDouble)));
}

at::Tensor fit_rotation_unsupervised(const at::Tensor& x, const at::Tensor& y,
                                     const UnsupervisedOptions& options) {
  const at::NoGradGuard no_grad;
  check_rows(x, "the source");
  check_rows(y, "the target");
  if (x.size(1) != y.size(1))
    throw StateError("alignment: widths ", x.size(1), " and ", y.size(1), " differ");
  // As many rows on both sides, so that the profiles have one length.
  const std::int64_t anchors = std::min({options.anchors, x.size(0), y.size(0)});
  const auto rotate = [&](const Matches& matches) {
    if (matches.left.numel() == 0)
      throw StateError("alignment: no rows of the two sides match; their clouds differ in shape");
    return procrustes(x.index_select(0, matches.left), y.index_select(0, matches.right));
  };
  Matches matches = mutual_nearest(profiles(x, anchors), profiles(y, anchors), options.csls_neighbours);
  at::Tensor rotation = rotate(matches);
  for (std::int64_t round = 0; round < options.iterations; ++round) {
    const Matches next = mutual_nearest(at::matmul(x, rotation), y, options.csls_neighbours);
    const bool same = next.left.equal(matches.left) && next.right.equal(matches.right);
    matches = next;
    rotation = rotate(matches);
    if (same) break;
  }
  return rotation;
}

}  // namespace bitrain::eval
