#include <bitrain/losses/listwise.h>

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using ::testing::HasSubstr;
using testing::random_tensor;
using ::testing::ThrowsMessage;

/// T2Ranking: cross-entropy at index 0 over the candidates of each query.
TEST(ListwiseCrossEntropy, IsTheSoftmaxOfEachQuerysOwnCandidates) {
  const std::vector<std::int64_t> ends = {2, 66, 71};  // One negative, 63 (the paper's), 4.
  at::Tensor scores = random_tensor({71}, 5, at::kDouble) * 3;
  scores.requires_grad_();
  const ListwiseLoss loss = listwise_cross_entropy(scores, ends);
  loss.sum.backward();
  const auto* score = scores.const_data_ptr<double>();
  double expected = 0;
  std::int64_t first = 0;
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    double sum = 0;
    bool highest = true;
    for (std::int64_t i = begin; i < end; ++i) {
      sum += std::exp(score[i]);
      highest = highest && (i == begin || score[i] < score[begin]);
    }
    expected += std::log(sum) - score[begin];
    first += highest ? 1 : 0;
    for (std::int64_t i = begin; i < end; ++i)
      EXPECT_NEAR(scores.grad()[i].item<double>(), std::exp(score[i]) / sum - (i == begin ? 1 : 0), 1e-12);
    begin = end;
  }
  EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-10);
  EXPECT_EQ(loss.count, 3);
  EXPECT_EQ(loss.first, first);
}

TEST(ListwiseCrossEntropy, EqualScoresCostTheLogarithmOfTheCandidatesAndRankNobodyFirst) {
  const ListwiseLoss loss = listwise_cross_entropy(at::zeros({64}), {64});
  EXPECT_NEAR(loss.sum.item<float>(), std::log(64.0), 1e-6);
  EXPECT_EQ(loss.first, 0);
}

TEST(ListwiseCrossEntropy, RefusesQueriesWithoutNegativesAndEndsThatDoNotFit) {
  const at::Tensor scores = at::zeros({4});
  EXPECT_THAT(
      [&] {
        (void)listwise_cross_entropy(scores, {3, 4});
      },
      ThrowsMessage<DataError>(HasSubstr("query 1 has a positive and no negatives")));
  EXPECT_THAT(
      [&] {
        (void)listwise_cross_entropy(scores, {2, 2, 4});
      },
      ThrowsMessage<StateError>(HasSubstr("query 1 has no candidates")));
  EXPECT_THAT(
      [&] {
        (void)listwise_cross_entropy(scores, {2, 3});
      },
      ThrowsMessage<StateError>(HasSubstr("are not those of 2 queries")));
  EXPECT_THROW((void)listwise_cross_entropy(scores, {}), StateError);
}

}  // namespace
}  // namespace bitrain::losses
