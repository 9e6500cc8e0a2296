#include <bitrain/losses/uniformity.h>

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/symmetric_tiles.h>

namespace bitrain::losses {

double uniformity(const at::Tensor& z) {
  const at::NoGradGuard no_grad;
  if (!z.defined() || z.dim() != 2 || !z.is_floating_point())
    throw StateError("uniformity: embeddings must be a floating-point matrix");
  const std::int64_t batch = z.size(0);
  if (batch < 2) throw DataError("uniformity: ", batch, " embeddings have no pair to compare");
  const at::Tensor x = z.scalar_type() == at::kDouble ? z : z.to(at::kFloat);
  const at::Tensor squares = x.square().sum(1);
  double sum = 0;  // Over both (i, j) and (j, i).
  for_each_symmetric_tile(batch, [&](const SymmetricTile& tile) {
    const at::Tensor products =
        at::mm(x.narrow(0, tile.row, tile.rows), x.narrow(0, tile.column, tile.columns).t());
    const at::Tensor distances = products.mul_(-2)
                                     .add_(squares.narrow(0, tile.row, tile.rows).unsqueeze(1))
                                     .add_(squares.narrow(0, tile.column, tile.columns).unsqueeze(0))
                                     .clamp_min_(0);
    const at::Tensor potentials = distances.mul_(-2).exp_();
    if (tile.on_diagonal()) potentials.diagonal().zero_();
    sum += (tile.on_diagonal() ? 1 : 2) * potentials.sum(at::kDouble).item<double>();
  });
  return std::log(sum / (static_cast<double>(batch) * static_cast<double>(batch - 1)));
}

}  // namespace bitrain::losses
