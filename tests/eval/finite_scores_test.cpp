#include <bitrain/eval/finite_scores.h>

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/models/generation.h>

#include "support/tiny_llama.h"

/// What a model computes that has diverged, or outgrown its type.
namespace bitrain::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(FiniteScores, WhatIsNoNumberIsNoScore) {
  EXPECT_NO_THROW(check_score(1e300, "the loss"));
  for (const double score : {std::nan(""), HUGE_VAL, -HUGE_VAL})
    EXPECT_THAT([&] { check_score(score, "the loss of 'es'"); },
                ThrowsMessage<DivergedError>(AllOf(HasSubstr("the loss of 'es' is "), HasSubstr("float16"))));
  at::Tensor x = at::zeros({3, 5});
  EXPECT_NO_THROW(check_finite(x, "embeddings"));
  EXPECT_NO_THROW(check_finite(at::zeros({0, 5}), "embeddings"));
  x[2][4].fill_(HUGE_VAL);
  EXPECT_THAT([&] { check_finite(x, "embeddings"); },
              ThrowsMessage<DivergedError>(HasSubstr("embeddings have NaN or infinity")));
}

TEST(FiniteScores, NothingIsGeneratedFromLogitsThatAreNoNumbers) {
  const auto model = testing::tiny_llama();
  const at::NoGradGuard no_grad;
  model->visit_tensors([](const std::string& name, at::Tensor& tensor) {
    if (name == "model.norm.weight") tensor[0].fill_(std::nan(""));
  });
  EXPECT_THAT(
      [&] {
        (void)models::generate(*model, {1, 2, 3}, {});
      },
      ThrowsMessage<DivergedError>(HasSubstr("the logits have NaN or infinity")));
}

}  // namespace
}  // namespace bitrain::eval
