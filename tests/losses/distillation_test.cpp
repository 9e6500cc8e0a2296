#include <bitrain/losses/distillation.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/unit_rows.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using bitrain::testing::expect_gradients;
using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;
using Tensors = std::vector<at::Tensor>;

at::Tensor draw(at::IntArrayRef sizes, std::uint64_t seed) {
  return random_tensor(sizes, seed, at::kDouble);
}

double value(const at::Tensor& x, std::int64_t i, std::int64_t j) {
  return x[i][j].item<double>();
}

double cosine(const at::Tensor& x, std::int64_t i, const at::Tensor& y, std::int64_t j) {
  double product = 0;
  double xx = 0;
  double yy = 0;
  for (std::int64_t k = 0; k < x.size(1); ++k) {
    product += value(x, i, k) * value(y, j, k);
    xx += value(x, i, k) * value(x, i, k);
    yy += value(y, j, k) * value(y, j, k);
  }
  return product / std::sqrt(xx * yy);
}

TEST(CosineRegression, EqualsItsDefinition) {
  const at::Tensor a = draw({4, 5}, 1);
  const at::Tensor b = draw({4, 5}, 2);
  const at::Tensor target = at::tensor(std::vector<double>{0.2, -1, 1, 0});
  const at::Tensor loss = cosine_regression(a, b, target);
  for (std::int64_t i = 0; i < 4; ++i) {
    const double difference = cosine(a, i, b, i) - target[i].item<double>();
    EXPECT_NEAR(loss[i].item<double>(), difference * difference, 1e-12);
  }
  expect_gradients([&](const Tensors& t) { return cosine_regression(t[0], t[1], target); },
                   {a.clone().requires_grad_(), b.clone().requires_grad_()});
}

TEST(CosineRegression, ScoresOfZeroVectorsAreZero) {
  const at::Tensor a = at::zeros({1, 3}).requires_grad_();
  const at::Tensor loss =
      cosine_regression(a, random_tensor({1, 3}, 1), at::tensor(std::vector<float>{0.5F}));
  EXPECT_FLOAT_EQ(loss.item<float>(), 0.25F);
}

TEST(CosineRegression, RefusesBadInput) {
  const at::Tensor a = draw({3, 4}, 1);
  const auto target = [](std::vector<double> values) { return at::tensor(values); };
  EXPECT_THROW((void)cosine_regression(a, a, target({0, 1.5, 0})), DataError);
  EXPECT_THROW((void)cosine_regression(a, a, target({0, std::nan(""), 0})), DataError);
  EXPECT_THROW((void)cosine_regression(a, a, target({0, 1})), StateError);
  EXPECT_THROW((void)cosine_regression(a, a, {}), StateError);
  EXPECT_THROW((void)cosine_regression(a, draw({3, 5}, 1), target({0, 0, 0})), StateError);
  EXPECT_THROW((void)cosine_regression(a, a[0], target({0, 0, 0})), StateError);
  EXPECT_THROW((void)cosine_regression(a, {}, target({0, 0, 0})), StateError);
}

TEST(EmbeddingMse, EqualsItsDefinition) {
  const at::Tensor student = draw({3, 4}, 1);
  const at::Tensor teacher = draw({3, 4}, 2).requires_grad_();
  const at::Tensor loss = embedding_mse(student, teacher);
  EXPECT_FALSE(loss.requires_grad());
  for (std::int64_t i = 0; i < 3; ++i) {
    double sum = 0;
    for (std::int64_t k = 0; k < 4; ++k) sum += std::pow(value(student, i, k) - value(teacher, i, k), 2);
    EXPECT_NEAR(loss[i].item<double>(), sum / 4, 1e-12);
  }
  expect_gradients([&](const Tensors& t) { return embedding_mse(t[0], teacher); },
                   {student.clone().requires_grad_()});
  EXPECT_THROW((void)embedding_mse(student, draw({3, 5}, 1)), StateError);
}

TEST(KlDistillation, EqualsItsDefinition) {
  const at::Tensor student = draw({3, 5}, 1);
  const at::Tensor teacher = draw({3, 5}, 2).requires_grad_();
  const double temperature = 2.5;
  const at::Tensor loss = kl_distillation(student, teacher, temperature);
  EXPECT_FALSE(loss.requires_grad());
  for (std::int64_t i = 0; i < 3; ++i) {
    double student_sum = 0;
    double teacher_sum = 0;
    for (std::int64_t k = 0; k < 5; ++k) {
      student_sum += std::exp(value(student, i, k) / temperature);
      teacher_sum += std::exp(value(teacher, i, k) / temperature);
    }
    double divergence = 0;
    for (std::int64_t k = 0; k < 5; ++k) {
      const double p = std::exp(value(teacher, i, k) / temperature) / teacher_sum;
      const double q = std::exp(value(student, i, k) / temperature) / student_sum;
      divergence += p * std::log(p / q);
    }
    EXPECT_NEAR(loss[i].item<double>(), divergence * temperature * temperature, 1e-12);
  }
  expect_gradients([&](const Tensors& t) { return kl_distillation(t[0], teacher, temperature); },
                   {student.clone().requires_grad_()});
}

TEST(KlDistillation, IsZeroForTheTeachersScoresUpToAShift) {
  const at::Tensor scores = draw({3, 5}, 1);
  EXPECT_LT(kl_distillation(scores + 7, scores, 0.5).abs().max().item<double>(), 1e-12);
}

TEST(KlDistillation, RefusesBadInput) {
  const at::Tensor scores = draw({3, 5}, 1);
  EXPECT_THROW((void)kl_distillation(scores, scores, 0), ConfigError);
  EXPECT_THROW((void)kl_distillation(scores, scores, std::nan("")), ConfigError);
  EXPECT_THROW((void)kl_distillation(draw({3, 1}, 1), draw({3, 1}, 1)), DataError);
  EXPECT_THROW((void)kl_distillation(scores, draw({3, 4}, 1)), StateError);
}

TEST(MarginMse, EqualsItsDefinition) {
  const at::Tensor student = draw({3, 4}, 1);
  const at::Tensor teacher = draw({3, 4}, 2).requires_grad_();
  const at::Tensor loss = margin_mse(student, teacher);
  EXPECT_FALSE(loss.requires_grad());
  for (std::int64_t i = 0; i < 3; ++i) {
    double sum = 0;
    for (std::int64_t k = 1; k < 4; ++k) {
      const double ours = value(student, i, 0) - value(student, i, k);
      const double theirs = value(teacher, i, 0) - value(teacher, i, k);
      sum += (ours - theirs) * (ours - theirs);
    }
    EXPECT_NEAR(loss[i].item<double>(), sum / 3, 1e-12);
  }
  expect_gradients([&](const Tensors& t) { return margin_mse(t[0], teacher); },
                   {student.clone().requires_grad_()});
  EXPECT_THROW((void)margin_mse(draw({3, 1}, 1), draw({3, 1}, 1)), DataError);
  EXPECT_THROW((void)margin_mse(student, draw({2, 4}, 1)), StateError);
}

TEST(SimilarityDistillation, EqualsTheLoop) {
  const at::Tensor student = draw({6, 4}, 1);
  const at::Tensor teacher = draw({6, 7}, 2).requires_grad_();
  const at::Tensor loss = similarity_distillation(student, teacher);
  EXPECT_FALSE(loss.requires_grad());
  for (std::int64_t i = 0; i < 6; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < 6; ++j)
      if (j != i) sum += std::pow(cosine(student, i, student, j) - cosine(teacher, i, teacher, j), 2);
    EXPECT_NEAR(loss[i].item<double>(), sum / 5, 1e-12);
  }
  expect_gradients([&](const Tensors& t) { return similarity_distillation(t[0], teacher); },
                   {student.clone().requires_grad_()});
}

// Three tiles each way, the last of them not full.
TEST(SimilarityDistillation, TilesEqualTheFullMatrix) {
  const std::int64_t batch = 1100;
  const at::Tensor student = draw({batch, 9}, 1).requires_grad_();
  const at::Tensor teacher = draw({batch, 5}, 2);
  const auto full = [](const at::Tensor& x) {
    const at::Tensor unit = nn::unit_rows(x);
    return at::matmul(unit, unit.t());
  };
  const at::Tensor plain = (full(student) - full(teacher)).square().sum(1) / static_cast<double>(batch - 1);
  const at::Tensor loss = similarity_distillation(student, teacher);
  EXPECT_LT(relative_difference(loss, plain), 1e-12);
  const at::Tensor slope = draw({batch}, 3);
  EXPECT_LT(relative_difference(torch::autograd::grad({loss}, {student}, {slope})[0],
                                torch::autograd::grad({plain}, {student}, {slope})[0]),
            1e-12);
}

TEST(SimilarityDistillation, KnowsAnglesOnly) {
  const at::Tensor teacher = draw({6, 4}, 1);
  EXPECT_LT(similarity_distillation(teacher * 3, teacher).max().item<double>(), 1e-20);
  EXPECT_LT(similarity_distillation(teacher.flip({1}), teacher).max().item<double>(), 1e-20);
  EXPECT_GT(similarity_distillation(draw({6, 4}, 2), teacher).min().item<double>(), 1e-3);
}

TEST(SimilarityDistillation, RefusesBadInput) {
  EXPECT_THROW((void)similarity_distillation(draw({1, 4}, 1), draw({1, 4}, 1)), DataError);
  EXPECT_THROW((void)similarity_distillation(draw({3, 4}, 1), draw({2, 4}, 1)), StateError);
  EXPECT_THROW((void)similarity_distillation(draw({3, 4}, 1), draw({3}, 1)), StateError);
}

// Every loss: bfloat16 in, float32 out, the numbers of float64 within what bfloat16 rounds.
TEST(Distillation, LossesOfBFloat16AreFloat32) {
  const at::Tensor a = random_tensor({4, 6}, 1, at::kBFloat16).requires_grad_();
  const at::Tensor b = random_tensor({4, 6}, 2, at::kBFloat16);
  const at::Tensor target = at::zeros({4});
  const auto losses = [&](const at::Tensor& x, const at::Tensor& y) {
    return Tensors{cosine_regression(x, y, target), embedding_mse(x, y), kl_distillation(x, y),
                   margin_mse(x, y), similarity_distillation(x, y)};
  };
  const Tensors narrow = losses(a, b);
  const Tensors wide = losses(a.detach().to(at::kDouble), b.to(at::kDouble));
  for (std::size_t i = 0; i < narrow.size(); ++i) {
    EXPECT_EQ(narrow[i].scalar_type(), at::kFloat) << i;
    EXPECT_LT(relative_difference(narrow[i], wide[i]), 1e-5) << i;
    EXPECT_EQ(torch::autograd::grad({narrow[i].sum()}, {a})[0].scalar_type(), at::kBFloat16) << i;
  }
}

}  // namespace
}  // namespace bitrain::losses
