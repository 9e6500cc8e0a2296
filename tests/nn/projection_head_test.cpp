#include <bitrain/nn/projection_head.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/logit_scale.h>
#include <bitrain/nn/unit_rows.h>

#include "support/gradcheck.h"

namespace bitrain::nn {
namespace {

using bitrain::testing::expect_gradients;
using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;
using Tensors = std::vector<at::Tensor>;

constexpr std::int64_t kRows = 7;
constexpr std::int64_t kWidth = 5;

ForwardContext training() {
  ForwardContext context;
  context.training = true;
  return context;
}

void fill(BatchNorm& norm, std::uint64_t seed) {
  const at::ScalarType dtype = norm.weight.scalar_type();
  const std::int64_t width = norm.weight.size(0);
  norm.weight = random_tensor({width}, seed, dtype);
  norm.bias = random_tensor({width}, seed + 1, dtype);
  norm.running_mean = random_tensor({width}, seed + 2, norm.running_mean.scalar_type());
  norm.running_var = random_tensor({width}, seed + 3, norm.running_var.scalar_type()).square() + 0.1;
}

void fill(ProjectionHead& head, at::ScalarType dtype) {
  head.in_proj.weight = random_tensor(head.in_proj.weight.sizes(), 1, dtype);
  head.out_proj.weight = random_tensor(head.out_proj.weight.sizes(), 2, dtype);
  head.out_proj.bias = random_tensor(head.out_proj.bias.sizes(), 3, dtype);
  fill(head.norm, 4);
}

class BatchNormTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(BatchNormTest, EqualsPyTorchsWithItsRunningStatistics) {
  BatchNorm norm(kWidth, at::TensorOptions().dtype(GetParam()));
  fill(norm, 1);
  const at::Tensor x = random_tensor({kRows, kWidth}, 9, GetParam()) * 3 + 1;
  const auto pytorchs = [&](at::Tensor mean, at::Tensor variance, bool batch) {
    const at::ScalarType wide = mean.scalar_type();
    return at::batch_norm(x.to(wide), norm.weight.to(wide), norm.bias.to(wide), mean, variance, batch, 0.1,
                          1e-5, false);
  };
  const double tolerance = GetParam() == at::kBFloat16 ? 5e-3 : 1e-6;
  at::Tensor mean = norm.running_mean.clone();
  at::Tensor variance = norm.running_var.clone();
  const at::Tensor running = norm.forward(x, BatchStatistics::kRunning, training());
  EXPECT_EQ(running.scalar_type(), GetParam());
  EXPECT_LT(relative_difference(running, pytorchs(mean, variance, false)), tolerance);
  EXPECT_TRUE(norm.running_mean.equal(mean));
  EXPECT_TRUE(norm.running_var.equal(variance));
  const at::Tensor wanted = pytorchs(mean, variance, true);  // Moves both.
  EXPECT_LT(relative_difference(norm.forward(x, BatchStatistics::kBatch, training()), wanted), tolerance);
  EXPECT_LT(relative_difference(norm.running_mean, mean), 1e-6);
  EXPECT_LT(relative_difference(norm.running_var, variance), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, BatchNormTest, ::testing::Values(at::kFloat, at::kBFloat16, at::kDouble),
                         [](const auto& each) { return std::string(c10::toString(each.param)); });

TEST(BatchNorm, KeepsItsStatisticsOutsideTraining) {
  BatchNorm norm(kWidth);
  (void)norm.forward(random_tensor({kRows, kWidth}, 1), BatchStatistics::kBatch, {});
  EXPECT_TRUE(norm.running_mean.equal(at::zeros({kWidth})));
  EXPECT_TRUE(norm.running_var.equal(at::ones({kWidth})));
}

TEST(BatchNorm, RunningStatisticsHaveNoGradient) {
  BatchNorm norm(kWidth);
  const at::Tensor x = random_tensor({kRows, kWidth}, 1).requires_grad_();
  (void)norm.forward(x, BatchStatistics::kBatch, training());
  EXPECT_FALSE(norm.running_mean.requires_grad());
  EXPECT_FALSE(norm.running_var.requires_grad());
}

// As in a step of CCP: one side moves the statistics after the other has read them.
TEST(BatchNorm, BackwardReadsTheStatisticsOfItsForward) {
  BatchNorm norm(kWidth, at::TensorOptions().dtype(at::kDouble));
  norm.weight.requires_grad_();
  const at::Tensor x = random_tensor({kRows, kWidth}, 1, at::kDouble).requires_grad_();
  const at::Tensor alone = norm.forward(x, BatchStatistics::kRunning, training()).square().sum();
  const Tensors wanted = torch::autograd::grad({alone}, {x, norm.weight});
  const at::Tensor y = norm.forward(x, BatchStatistics::kRunning, training()).square().sum();
  (void)norm.forward(random_tensor({kRows, kWidth}, 2, at::kDouble), BatchStatistics::kBatch, training());
  const Tensors gradients = torch::autograd::grad({y}, {x, norm.weight});
  for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(gradients[i].equal(wanted[i]));
}

TEST(BatchNorm, RefusesBadInput) {
  BatchNorm norm(kWidth);
  EXPECT_THROW((void)norm.forward(at::ones({1, kWidth}), BatchStatistics::kBatch, training()), DataError);
  EXPECT_EQ(norm.forward(at::ones({1, kWidth}), BatchStatistics::kRunning, training()).size(0), 1);
  EXPECT_THROW((void)norm.forward(at::ones({4, kWidth + 1}), BatchStatistics::kBatch, training()),
               StateError);
  EXPECT_THROW((void)norm.forward(at::ones({kWidth}), BatchStatistics::kRunning, training()), StateError);
  EXPECT_THROW((void)norm.forward({}, BatchStatistics::kRunning, training()), StateError);
}

TEST(ProjectionHead, IsLinearNormLinearAndLengthOne) {
  ProjectionHead head(kWidth, 6, 4, at::TensorOptions().dtype(at::kDouble));
  fill(head, at::kDouble);
  const at::Tensor x = random_tensor({kRows, kWidth}, 9, at::kDouble);
  for (const bool batch : {true, false}) {
    const at::Tensor hidden = at::batch_norm(at::linear(x, head.in_proj.weight), head.norm.weight,
                                             head.norm.bias, head.norm.running_mean.clone(),
                                             head.norm.running_var.clone(), batch, 0.1, 1e-5, false);
    const at::Tensor wanted = unit_rows(at::linear(hidden, head.out_proj.weight, head.out_proj.bias));
    const at::Tensor z =
        head.forward(x, batch ? BatchStatistics::kBatch : BatchStatistics::kRunning, training());
    EXPECT_LT(relative_difference(z, wanted), 1e-12);
    EXPECT_LT(relative_difference(z.square().sum(1), at::ones({kRows})), 1e-12);
  }
}

// The leak: with running statistics no row sees another, with those of the batch every row does.
TEST(ProjectionHead, OnlyBatchStatisticsShowTheOtherRows) {
  ProjectionHead head(kWidth, 6, 4);
  fill(head, at::kFloat);
  const at::Tensor x = random_tensor({kRows, kWidth}, 9);
  at::Tensor changed = random_tensor({kRows, kWidth}, 10);
  changed[3].copy_(x[3]);
  const auto row = [&](const at::Tensor& input, BatchStatistics statistics) {
    return head.forward(input, statistics, {})[3];
  };
  EXPECT_TRUE(row(x, BatchStatistics::kRunning).equal(row(changed, BatchStatistics::kRunning)));
  EXPECT_GT(relative_difference(row(changed, BatchStatistics::kBatch), row(x, BatchStatistics::kBatch)),
            1e-2);
}

TEST(ProjectionHead, GradientsInFloat64) {
  for (const BatchStatistics statistics : {BatchStatistics::kBatch, BatchStatistics::kRunning}) {
    expect_gradients(
        [&](const Tensors& t) {
          ProjectionHead head(kWidth, 6, 4, at::TensorOptions().dtype(at::kDouble));
          fill(head, at::kDouble);
          head.in_proj.weight = t[1];
          head.norm.weight = t[2];
          head.norm.bias = t[3];
          return head.forward(t[0], statistics, training());
        },
        {random_tensor({kRows, kWidth}, 9, at::kDouble).requires_grad_(),
         random_tensor({6, kWidth}, 10, at::kDouble).requires_grad_(),
         random_tensor({6}, 11, at::kDouble).requires_grad_(),
         random_tensor({6}, 12, at::kDouble).requires_grad_()});
  }
}

TEST(ProjectionHead, SavesItsStatistics) {
  ProjectionHead head(kWidth, 6, 4);
  std::vector<std::string> names;
  head.visit_tensors([&](const std::string& name, at::Tensor&) { names.push_back(name); });
  EXPECT_EQ(names,
            (std::vector<std::string>{"in_proj.weight", "norm.weight", "norm.bias", "norm.running_mean",
                                      "norm.running_var", "out_proj.weight", "out_proj.bias"}));
}

TEST(ProjectionHead, RefusesBadInput) {
  ProjectionHead head(kWidth, 6, 4);
  fill(head, at::kFloat);
  EXPECT_THROW((void)head.forward(at::ones({3, kWidth + 1}), BatchStatistics::kBatch, training()),
               StateError);
  EXPECT_THROW((void)head.forward(at::ones({1, kWidth}), BatchStatistics::kBatch, training()), DataError);
}

TEST(LogitScale, StartsAtClipsValueAndIsBounded) {
  LogitScale scale;
  EXPECT_NEAR(scale.value().item<double>(), 1 / 0.07, 1e-5);
  scale.log_scale = at::full({}, 6.0);
  EXPECT_NEAR(scale.value().item<double>(), 100, 1e-4);
}

TEST(LogitScale, GradientsInFloat64) {
  LogitScale scale(at::TensorOptions().dtype(at::kDouble));
  expect_gradients(
      [&](const Tensors& t) {
        scale.log_scale = t[0];
        return scale.value();
      },
      {at::full({}, 2.0, at::TensorOptions().dtype(at::kDouble)).requires_grad_()});
}

TEST(LogitScale, ClampBringsItBackToWhereItHasAGradient) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    LogitScale scale(at::TensorOptions().dtype(dtype));
    const auto slope = [&] {
      return torch::autograd::grad({scale.value()}, {scale.log_scale})[0].item<double>();
    };
    scale.log_scale = at::full({}, 6.0, at::TensorOptions().dtype(dtype)).requires_grad_();
    EXPECT_EQ(slope(), 0) << dtype;
    scale.clamp();
    EXPECT_NEAR(slope(), 100, dtype == at::kBFloat16 ? 2 : 1e-3) << dtype;
  }
}

}  // namespace
}  // namespace bitrain::nn
