#include <bitrain/eval/alignment.h>

#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/eval/retrieval.h>

namespace bitrain::eval {
namespace {

at::Tensor draw(std::int64_t rows, std::int64_t dim, const std::string& purpose) {
  at::Tensor values = at::empty({rows, dim}, at::TensorOptions().dtype(at::kFloat));
  RandomStream stream(7, purpose);
  auto* to = values.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) to[i] = static_cast<float>(stream.normal());
  return values;
}

at::Tensor unit(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {1}, true);
}

at::Tensor random_rotation(std::int64_t dim) {
  return std::get<0>(at::linalg_qr(draw(dim, dim, "rotation")));
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(Calibration, LeavesMeanZeroAndVarianceOne) {
  const at::Tensor x = draw(500, 6, "x") * 3.0 + 2.0;
  const Calibration fitted = fit_shift_and_scale(x);
  const at::Tensor y = fitted.apply(x);
  EXPECT_LT(y.mean(0).abs().max().item<double>(), 1e-4);
  EXPECT_LT(distance(y.square().mean(0), at::empty({6}).fill_(1.0)), 1e-4);
  at::Tensor flat = x.clone();
  flat.select(1, 3).fill_(5.0);
  EXPECT_EQ(fit_shift_and_scale(flat).apply(flat).select(1, 3).abs().max().item<float>(), 0.0F);
  EXPECT_TRUE(Calibration{}.apply(x).equal(x));
  EXPECT_THROW((void)fitted.apply(draw(2, 5, "x")), StateError);
  EXPECT_THROW((void)fit_shift_and_scale(x.narrow(0, 0, 1)), DataError);
  flat[0][0] = std::numeric_limits<float>::infinity();
  EXPECT_THROW((void)fit_shift_and_scale(flat), DataError);
}

TEST(Procrustes, RecoversAHiddenRotation) {
  const at::Tensor x = draw(400, 20, "x");
  const at::Tensor hidden = random_rotation(20);
  const at::Tensor found = procrustes(x, at::matmul(x, hidden));
  EXPECT_LT(distance(found, hidden), 1e-5);
  const at::Tensor noisy = procrustes(x, at::matmul(x, hidden) + 0.1 * draw(400, 20, "noise"));
  EXPECT_LT(distance(at::matmul(noisy, noisy.t()), at::eye(20)), 1e-5);
  EXPECT_THROW((void)procrustes(x, x.narrow(0, 0, 3)), StateError);
}

TEST(UnsupervisedRotation, MatchesCloudsOfOneShape) {
  const at::Tensor x = draw(600, 12, "cloud").square();  // No symmetry that a rotation could be mistaken for.
  const at::Tensor hidden = random_rotation(12);
  const at::Tensor y = at::matmul(x, hidden);
  const at::Tensor found = fit_rotation_unsupervised(x, y);
  EXPECT_LT(distance(found, hidden), 1e-4);
  const PairScores scores = score_pairs(at::matmul(x, found), y);
  EXPECT_DOUBLE_EQ(scores.forward_accuracy, 1);
  EXPECT_DOUBLE_EQ(scores.backward_accuracy, 1);
  EXPECT_THROW((void)fit_rotation_unsupervised(x, draw(600, 11, "y")), StateError);
}

TEST(Rcsls, IsNoWorseThanProcrustesOnNoiseWithHubs) {
  const std::int64_t rows = 2000;
  const std::int64_t dim = 30;
  const at::Tensor x = unit(draw(rows, dim, "x"));
  const at::Tensor hidden = random_rotation(dim);
  at::Tensor y = unit(at::matmul(x, hidden) + 0.12 * draw(rows, dim, "noise"));
  // A tenth of the targets crowd around their mean direction.
  const at::Tensor hubs = unit(draw(1, dim, "hub") + 0.6 * draw(rows / 10, dim, "hubs"));
  const at::Tensor targets = at::cat({y, hubs}, 0);
  const auto precision = [&](const at::Tensor& map, std::int64_t csls) {
    const at::Tensor found =
        search(at::matmul(x, map).narrow(0, 1000, 1000), targets, {.k = 1, .csls_neighbours = csls}).rows;
    std::int64_t correct = 0;
    for (std::int64_t i = 0; i < 1000; ++i) correct += found[i][0].item<std::int64_t>() == 1000 + i ? 1 : 0;
    return static_cast<double>(correct) / 1000;
  };
  const at::Tensor rotation = procrustes(x.narrow(0, 0, 1000), y.narrow(0, 0, 1000));
  const at::Tensor relaxed = fit_rcsls(x.narrow(0, 0, 1000), y.narrow(0, 0, 1000), x, targets);
  EXPECT_GE(precision(rotation, 10), precision(rotation, 0));
  EXPECT_GE(precision(relaxed, 0), precision(rotation, 0));
  EXPECT_GE(precision(procrustes(x, at::matmul(x, hidden)), 0), 0.5);
  const at::Tensor kept =
      fit_rcsls(x.narrow(0, 0, 1000), y.narrow(0, 0, 1000), x, targets, {.orthogonal = true});
  EXPECT_LT(distance(at::matmul(kept, kept.t()), at::eye(dim)), 1e-4);
  // No step at all is Procrustes.
  EXPECT_LT(distance(fit_rcsls(x, y, x, targets, {.iterations = 0}), procrustes(x, y)), 1e-7);
}

}  // namespace
}  // namespace bitrain::eval
