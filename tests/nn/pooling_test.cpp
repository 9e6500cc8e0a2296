#include <bitrain/nn/pooling.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"

namespace bitrain::nn {
namespace {

using bitrain::testing::expect_gradients;
using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;
using Tensors = std::vector<at::Tensor>;

const std::vector<std::int32_t> kBoundaries = {0, 5, 6, 17, 19};

/// One segment by the words of sentence-transformers' documentation.
at::Tensor pooled_by_hand(const at::Tensor& segment, Pooling mode) {
  const std::int64_t length = segment.size(0);
  at::Tensor sum = at::zeros({segment.size(1)}, segment.options());
  double weights = 0;
  at::Tensor largest = segment[0];
  for (std::int64_t t = 0; t < length; ++t) {
    const double weight = mode == Pooling::kWeightedMean ? static_cast<double>(t + 1) : 1.0;
    sum = sum + segment[t] * weight;
    weights += weight;
    largest = largest.maximum(segment[t]);
  }
  switch (mode) {
    case Pooling::kCls: return segment[0];
    case Pooling::kMax: return largest;
    case Pooling::kMeanSqrtLenTokens: return sum / std::sqrt(weights);
    case Pooling::kLastToken: return segment[length - 1];
    default: return sum / weights;
  }
}

class PoolingTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(PoolingTest, EveryModeMatchesItsDefinition) {
  const at::Tensor hidden = random_tensor({19, 33}, 1, GetParam());
  for (const Pooling mode : pooling_modes()) {
    const at::Tensor pooled = pool_segments(hidden, kBoundaries, {mode});
    EXPECT_EQ(pooled.scalar_type(), GetParam() == at::kDouble ? at::kDouble : at::kFloat);
    Tensors rows;
    for (std::size_t s = 0; s + 1 < kBoundaries.size(); ++s) {
      rows.push_back(pooled_by_hand(
          hidden.narrow(0, kBoundaries[s], kBoundaries[s + 1] - kBoundaries[s]).to(at::kDouble), mode));
    }
    EXPECT_LT(relative_difference(pooled, at::stack(rows)), 2e-7) << pooling_name(mode);
  }
}

TEST_P(PoolingTest, GradientsMatchPlainAten) {
  const at::Tensor values = random_tensor({19, 33}, 1, GetParam());
  const at::Tensor slope = random_tensor({4, 33 * 6}, 2);
  const at::Tensor ours = values.clone().requires_grad_();
  const at::Tensor plain = values.to(at::kDouble).requires_grad_();
  const at::Tensor y = pool_segments(ours, kBoundaries, pooling_modes());
  const at::Tensor expected = reference::pool_segments(plain, kBoundaries, pooling_modes());
  EXPECT_LT(relative_difference(y, expected), 2e-7);
  const auto gradient = torch::autograd::grad({y}, {ours}, {slope.to(y.scalar_type())});
  const auto wanted = torch::autograd::grad({expected}, {plain}, {slope.to(at::kDouble)});
  EXPECT_EQ(gradient[0].scalar_type(), GetParam());
  EXPECT_LT(relative_difference(gradient[0], wanted[0]), GetParam() == at::kBFloat16 ? 2e-2 : 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, PoolingTest, ::testing::Values(at::kFloat, at::kBFloat16, at::kDouble),
                         [](const auto& each) { return std::string(c10::toString(each.param)); });

TEST(Pooling, GradientsInFloat64) {
  for (const Pooling mode : pooling_modes()) {
    expect_gradients(
        [&](const Tensors& t) {
          return pool_segments(t[0], {0, 3, 4, 9}, {mode});
        },
        {random_tensor({9, 4}, 1, at::kDouble).requires_grad_()});
  }
}

TEST(Pooling, SeveralModesAreJoinedInTheGivenOrder) {
  const at::Tensor hidden = random_tensor({19, 8}, 1);
  const at::Tensor both = pool_segments(hidden, kBoundaries, {Pooling::kMean, Pooling::kCls});
  EXPECT_TRUE(both.equal(at::cat({pool_segments(hidden, kBoundaries, {Pooling::kMean}),
                                  pool_segments(hidden, kBoundaries, {Pooling::kCls})},
                                 1)));
}

TEST(Pooling, TheFirstOfEqualValuesGetsTheGradientAndNanShows) {
  at::Tensor hidden = at::tensor({1.0F, 3.0F, 3.0F, 2.0F}).view({4, 1}).requires_grad_();
  const at::Tensor y = pool_segments(hidden, {0, 4}, {Pooling::kMax});
  const at::Tensor gradient = torch::autograd::grad({y}, {hidden}, {at::ones({1, 1})})[0];
  EXPECT_TRUE(gradient.equal(at::tensor({0.0F, 1.0F, 0.0F, 0.0F}).view({4, 1})));
  const at::Tensor broken = at::tensor({1.0F, NAN, 5.0F}).view({3, 1});
  EXPECT_TRUE(pool_segments(broken, {0, 3}, {Pooling::kMax}).isnan().item<bool>());
}

TEST(Pooling, ResultsDoNotDependOnThreads) {
  std::vector<std::int32_t> boundaries = {0};
  for (int s = 0; s < 60; ++s) boundaries.push_back(boundaries.back() + 1 + s % 23);
  const at::Tensor hidden = random_tensor({boundaries.back(), 384}, 1, at::kBFloat16);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = pool_segments(hidden, boundaries, pooling_modes());
  at::set_num_threads(3);
  const at::Tensor three = pool_segments(hidden, boundaries, pooling_modes());
  at::set_num_threads(threads);
  EXPECT_TRUE(one.equal(three));
}

TEST(Pooling, NamesAreThoseOfSentenceTransformers) {
  for (const Pooling mode : pooling_modes()) EXPECT_EQ(pooling_named(pooling_name(mode)), mode);
  EXPECT_EQ(pooling_named("mean"), Pooling::kMean);
  EXPECT_FALSE(pooling_named("median").has_value());
}

TEST(Pooling, BadInputsAreNamed) {
  const at::Tensor hidden = at::ones({4, 2});
  EXPECT_THROW((void)pool_segments(hidden, {0, 4}, {}), StateError);
  EXPECT_THROW((void)pool_segments(hidden, {0, 3}, {Pooling::kMean}), StateError);
  EXPECT_THROW((void)pool_segments(hidden, {0, 2, 2, 4}, {Pooling::kMean}), StateError);
  EXPECT_THROW((void)pool_segments(hidden, {}, {Pooling::kMean}), StateError);
  EXPECT_THROW((void)pool_segments(at::ones({4}), {0, 4}, {Pooling::kMean}), StateError);
}

}  // namespace
}  // namespace bitrain::nn
