#include <bitrain/eval/alignment.h>

#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/retrieval.h>
#include <eval/random_rows.h>

namespace bitrain::eval {
namespace {

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

}  // namespace
}  // namespace bitrain::eval
