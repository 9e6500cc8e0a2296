#include <bitrain/losses/two_pool_info_nce.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/communicator.h>
#include <bitrain/losses/grouped_info_nce.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using testing::random_tensor;

double cosine(const at::Tensor& a, const at::Tensor& b) {
  return ((a * b).sum() / (a.norm() * b.norm())).item<double>();
}

/// Of rows in turn: log of the sum over candidates, less the own one.
double one_way(const at::Tensor& queries, const at::Tensor& candidates) {
  double sum = 0;
  for (std::int64_t i = 0; i < queries.size(0); ++i) {
    double all = 0;
    for (std::int64_t j = 0; j < candidates.size(0); ++j)
      all += std::exp(20 * cosine(queries[i], candidates[j]));
    sum += std::log(all) - 20 * cosine(queries[i], candidates[i]);
  }
  return sum;
}

// HMDE: s1 = 20 cos(a1, [a2; a3]), s2 = 20 cos(a2, [a1; a4]), the SUM of both.
TEST(TwoPoolInfoNce, EqualsTheLoops) {
  const at::Tensor a1 = random_tensor({5, 6}, 1, at::kDouble);
  const at::Tensor a2 = random_tensor({5, 6}, 2, at::kDouble);
  const at::Tensor a3 = random_tensor({4, 6}, 3, at::kDouble);
  const at::Tensor a4 = random_tensor({3, 6}, 4, at::kDouble);
  const ContrastiveLoss loss = two_pool_info_nce(a1, a2, a3, a4);
  EXPECT_NEAR(loss.sum.item<double>(), one_way(a1, at::cat({a2, a3})) + one_way(a2, at::cat({a1, a4})), 1e-9);
  EXPECT_NEAR(loss.per_query.sum().item<double>(), loss.sum.item<double>(), 1e-9);
  EXPECT_EQ(loss.count, 5);
  // A pool belongs to one direction.
  EXPECT_NEAR(two_pool_info_nce(a1, a2, a3, {}).sum.item<double>(),
              one_way(a1, at::cat({a2, a3})) + one_way(a2, a1), 1e-9);
}

// Paper 25's check: without hard negatives it is symmetric InfoNCE times 2.
TEST(TwoPoolInfoNce, WithoutHardNegativesIsTwiceTheSymmetricLoss) {
  const at::Tensor a1 = random_tensor({6, 4}, 1, at::kDouble);
  const at::Tensor a2 = random_tensor({6, 4}, 2, at::kDouble);
  dist::Communicator alone;
  EXPECT_NEAR(two_pool_info_nce(a1, a2, {}, {}).sum.item<double>(),
              2 * grouped_info_nce(a1, a2, {}, /*symmetric=*/true, {}, alone).sum.item<double>(), 1e-9);
}

TEST(TwoPoolInfoNce, GradientsInFloat64) {
  const auto inputs = [](std::uint64_t seed, std::int64_t rows) {
    return random_tensor({rows, 3}, seed, at::kDouble).requires_grad_();
  };
  testing::expect_gradients(
      [](const std::vector<at::Tensor>& t) { return two_pool_info_nce(t[0], t[1], t[2], t[3]).sum; },
      {inputs(1, 3), inputs(2, 3), inputs(3, 2), inputs(4, 1)});
}

TEST(TwoPoolInfoNce, EqualEmbeddingsCostTheLogOfTheCandidates) {
  const at::Tensor ones = at::ones({4, 5});
  EXPECT_NEAR(two_pool_info_nce(ones, ones, ones, {}).sum.item<double>(), 4 * (std::log(8) + std::log(4)),
              1e-4);
}

TEST(TwoPoolInfoNce, RefusesOnePairAndSidesThatAreNoPairs) {
  const at::Tensor one = at::ones({1, 5});
  EXPECT_THROW((void)two_pool_info_nce(one, one, {}, {}), DataError);
  EXPECT_THROW((void)two_pool_info_nce(one, one, one, {}), DataError);  // The way back has none.
  EXPECT_NEAR(two_pool_info_nce(one, one, one, one).sum.item<double>(), 2 * std::log(2), 1e-5);
  EXPECT_THROW((void)two_pool_info_nce(at::ones({2, 5}), at::ones({3, 5}), {}, {}), StateError);
}

}  // namespace
}  // namespace bitrain::losses
