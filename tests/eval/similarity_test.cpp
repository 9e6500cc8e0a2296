#include <bitrain/eval/similarity.h>

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>

namespace bitrain::eval {
namespace {

using ::testing::HasSubstr;

at::Tensor rows(const std::vector<float>& values) {
  return at::tensor(values).view({-1, 2});
}

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Cosines 1, 0, 0.6, 0.8; lengths do not count.
const std::vector<float> kLeft = {1, 0, 2, 0, 1, 0, 5, 0};
const std::vector<float> kRight = {3, 0, 0, 1, 3, 4, 4, 3};

TEST(Similarity, IsTheRankCorrelationOfCosinesAndScores) {
  EXPECT_NEAR(score_similarity(rows(kLeft), rows(kRight), {5, 0, 2, 3}), 1, 1e-9);
  EXPECT_NEAR(score_similarity(rows(kLeft), rows(kRight), {0, 5, 3, 2}), -1, 1e-9);
  // Ranks 4 1 2 3 and 4 2 1 3: 1 - 6 * 2 / (4 * 15).
  EXPECT_NEAR(score_similarity(rows(kLeft), rows(kRight), {5, 1, 0, 3}), 0.8, 1e-9);
  // Ties share their mean rank: 4 1 2 3 and 3.5 1.5 1.5 3.5.
  EXPECT_NEAR(score_similarity(rows(kLeft), rows(kRight), {1, 0, 0, 1}), 4 / std::sqrt(20.0), 1e-9);
}

TEST(Similarity, SaysWhereItIsNotDefined) {
  std::vector<float> broken = kRight;
  broken[4] = std::nanf("");
  const std::vector<double> scores = {5, 0, 2, 3};
  EXPECT_THAT(message_of([&] { (void)score_similarity(rows(kRight), rows(broken), scores); }),
              HasSubstr("the second texts: row 2 has NaN"));
  EXPECT_THAT(message_of([&] {
                (void)score_similarity(rows({1, 2, 1, 2}), rows({1, 2, 1, 2}), {1, 2});
              }),
              HasSubstr("all 2 rows are equal"));
  const at::Tensor axes = rows({1, 0, 0, 2, 4, 0, 0, 1});
  EXPECT_THAT(message_of([&] { (void)score_similarity(axes, axes, scores); }),
              HasSubstr("all values of one side are equal"));
  EXPECT_THAT(message_of([&] {
                (void)score_similarity(rows(kLeft), rows(kRight), {2, 2, 2, 2});
              }),
              HasSubstr("equal"));
  EXPECT_THAT(message_of([&] {
                (void)score_similarity(rows({1, 0}), rows({0, 1}), {2});
              }),
              HasSubstr("at least two"));
  EXPECT_THROW((void)score_similarity(rows(kRight), rows(kRight), {1, 2}), StateError);
  EXPECT_THROW((void)score_similarity(rows(kRight), rows({1, 2}), scores), StateError);
}

}  // namespace
}  // namespace bitrain::eval
