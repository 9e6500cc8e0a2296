#include <bitrain/eval/rcsls.h>

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros_like.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/alignment.h>
#include <bitrain/eval/check_embeddings.h>
#include <bitrain/eval/search.h>
#include <bitrain/fields/check.h>

namespace bitrain::eval {
namespace {

void check(const AlignmentData& data) {
  check_embeddings(data.x, "rcsls: the sources of pairs");
  check_embeddings(data.y, "rcsls: the targets of pairs");
  check_embeddings(data.sources, "rcsls: the source space");
  check_embeddings(data.targets, "rcsls: the target space");
  if (data.x.sizes() != data.y.sizes())
    throw StateError("rcsls: ", data.x.sizes(), " and ", data.y.sizes(), " are not pairs of rows");
  if (data.sources.size(1) != data.x.size(1) || data.targets.size(1) != data.x.size(1))
    throw StateError("rcsls: pairs of width ", data.x.size(1), ", spaces of ", data.sources.size(1), " and ",
                     data.targets.size(1), " differ");
}

/// Mean of the k rows of `table` with the largest products with each query: [Q, D], without [Q, k, D].
at::Tensor mean_of_nearest(const at::Tensor& queries, const at::Tensor& table, std::int64_t k) {
  const at::Tensor rows = search(queries, table, {.k = k, .similarity = "dot"}).rows;
  at::Tensor sum = at::zeros_like(queries);
  for (std::int64_t rank = 0; rank < rows.size(1); ++rank)
    sum.add_(table.index_select(0, rows.select(1, rank)));
  return sum.div_(static_cast<double>(rows.size(1)));
}

at::Tensor projected(const at::Tensor& map, const std::string& projection) {
  if (projection == "none") return map;
  const auto [u, s, v] = at::linalg_svd(map.to(at::kDouble), /*full_matrices=*/false);
  return at::matmul(projection == "spectral" ? u * s.clamp_max(1) : u, v).to(at::kFloat);
}

RcslsLoss loss_of(const AlignmentData& data, const at::Tensor& map, std::int64_t neighbours) {
  const auto& [x, y, sources, targets] = data;
  const at::Tensor near_targets = mean_of_nearest(at::matmul(x, map), targets, neighbours);
  // s M . y = s . y M^T: the nearest of `sources` M to y are those of `sources` to y M^T.
  const at::Tensor near_sources = mean_of_nearest(at::matmul(y, map.t()), sources, neighbours);
  // The loss is linear in M while the neighbours stay: its value is the product of gradient and map.
  at::Tensor gradient = at::matmul(x.t(), near_targets - 2 * y) + at::matmul(near_sources.t(), y);
  gradient.div_(static_cast<double>(x.size(0)));
  return {(gradient * map).sum(at::kDouble).item<double>(), gradient};
}

}  // namespace

RcslsLoss rcsls_loss(const AlignmentData& data, const at::Tensor& map, std::int64_t neighbours) {
  const at::NoGradGuard no_grad;
  check(data);
  if (neighbours < 1) throw ConfigError("rcsls: neighbours is ", neighbours, "; 1 is the least");
  const std::int64_t width = data.x.size(1);
  if (map.sizes() != at::IntArrayRef{width, width} || map.scalar_type() != at::kFloat)
    throw StateError("rcsls: the map is ", map.scalar_type(), " ", map.sizes(), ", not float32 [", width,
                     ", ", width, "]");
  return loss_of(data, map, neighbours);
}

at::Tensor fit_rcsls(const AlignmentData& data, const RcslsOptions& options) {
  const at::NoGradGuard no_grad;
  check(data);
  check_fields(options, "rcsls: ");
  AlignmentData near = data;
  near.sources = data.sources.narrow(0, 0, std::min(options.negatives, data.sources.size(0)));
  near.targets = data.targets.narrow(0, 0, std::min(options.negatives, data.targets.size(0)));
  at::Tensor best = procrustes(data.x, data.y);
  RcslsLoss at_best = loss_of(near, best, options.neighbours);
  double rate = options.learning_rate;
  for (std::int64_t step = 0; step < options.iterations; ++step) {
    const at::Tensor map = projected(best - rate * at_best.gradient, options.projection);
    RcslsLoss loss = loss_of(near, map, options.neighbours);
    if (loss.value < at_best.value) {
      best = map;
      at_best = loss;
    } else {
      rate /= 2;
    }
  }
  return best;
}

}  // namespace bitrain::eval
