#include <bitrain/models/initialise.h>

#include <gtest/gtest.h>

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <bitrain/nn/logit_scale.h>
#include <bitrain/nn/projection_head.h>

namespace bitrain::models {
namespace {

TEST(Initialise, ProjectionHeadsStartWithoutStatistics) {
  nn::ProjectionHead head(5, 6, 4);
  head.norm.running_mean.fill_(7);
  head.norm.running_var.fill_(7);
  initialise(head, 0.02, 1);
  EXPECT_TRUE(head.norm.running_mean.equal(at::zeros({6})));
  EXPECT_TRUE(head.norm.running_var.equal(at::ones({6})));
  EXPECT_TRUE(head.norm.weight.equal(at::ones({6})));
  EXPECT_TRUE(head.norm.bias.equal(at::zeros({6})));
  EXPECT_TRUE(head.out_proj.bias.equal(at::zeros({4})));
  EXPECT_GT(head.in_proj.weight.abs().max().item<double>(), 0);
}

TEST(Initialise, ScalesKeepTheirStart) {
  nn::LogitScale scale;
  const double start = scale.log_scale.item<double>();
  initialise(scale, 0.02, 1);
  EXPECT_EQ(scale.log_scale.item<double>(), start);
}

}  // namespace
}  // namespace bitrain::models
