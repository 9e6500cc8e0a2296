#include <bitrain/losses/info_nce.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using bitrain::testing::expect_gradients;
using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;
using Numbers = std::vector<std::int64_t>;
using SameLabel = CandidateRules::SameLabel;

at::Tensor numbers(const Numbers& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong));
}

at::Tensor similarities(const at::Tensor& queries, const at::Tensor& candidates,
                        const InfoNceOptions& options) {
  const auto unit = [&](const at::Tensor& x) {
    return options.similarity == "cosine" ? x / x.norm(2, {1}, true) : x;
  };
  return options.scale * unit(queries).to(at::kDouble).matmul(unit(candidates).to(at::kDouble).t());
}

/// The definition, one query and candidate after the other. `positives(i)` and `counts(i, j)` say the rules.
template <class Positives, class Counts>
double by_hand(const at::Tensor& logits, const Positives& positives, const Counts& counts) {
  double sum = 0;
  for (std::int64_t i = 0; i < logits.size(0); ++i) {
    const Numbers wanted = positives(i);
    if (wanted.empty()) continue;
    double total = 0;
    for (std::int64_t j = 0; j < logits.size(1); ++j)
      if (counts(i, j)) total += std::exp(logits[i][j].item<double>());
    double mean = 0;
    for (const std::int64_t j : wanted)
      mean += logits[i][j].item<double>() / static_cast<double>(wanted.size());
    sum += std::log(total) - mean;
  }
  return sum;
}

const auto kDiagonal = [](std::int64_t i) { return Numbers{i}; };
const auto kAll = [](std::int64_t, std::int64_t) { return true; };

TEST(InfoNce, IsTheDefinitionForCosineAndProduct) {
  const at::Tensor queries = random_tensor({7, 12}, 1);
  const at::Tensor candidates = random_tensor({7, 12}, 2);
  for (const InfoNceOptions& options :
       {InfoNceOptions{"cosine", 20.0}, InfoNceOptions{"cosine", 1 / 0.07}, InfoNceOptions{"dot", 1.0}}) {
    const ContrastiveLoss loss = info_nce(queries, candidates, options);
    EXPECT_NEAR(loss.sum.item<double>(), by_hand(similarities(queries, candidates, options), kDiagonal, kAll),
                1e-4);
    EXPECT_EQ(loss.count, 7);
    EXPECT_NEAR(loss.per_query.sum().item<double>(), loss.sum.item<double>(), 1e-4);
  }
}

// sentence-transformers' scale of 20 is a temperature of 0.05.
TEST(InfoNce, AScaleIsTheInverseOfATemperature) {
  const at::Tensor queries = random_tensor({6, 8}, 1);
  const at::Tensor candidates = random_tensor({6, 8}, 2);
  const at::Tensor cosines = similarities(queries, candidates, {"cosine", 1.0});
  EXPECT_NEAR(info_nce(queries, candidates, {"cosine", 20.0}).sum.item<double>(),
              by_hand(cosines / 0.05, kDiagonal, kAll), 1e-4);
}

TEST(InfoNce, HardNegativesWidenTheCandidates) {
  const at::Tensor queries = random_tensor({5, 8}, 1);
  const at::Tensor candidates = random_tensor({15, 8}, 2);  // Two hard negatives a query.
  const InfoNceOptions options;
  EXPECT_NEAR(info_nce(queries, candidates, options).sum.item<double>(),
              by_hand(similarities(queries, candidates, options), kDiagonal, kAll), 1e-4);
}

TEST(InfoNce, EqualEmbeddingsCostTheLogarithmOfTheCandidatesAndNeverNaN) {
  const at::Tensor queries = at::ones({6, 4}).requires_grad_();
  const at::Tensor candidates = at::ones({18, 4}).requires_grad_();
  const ContrastiveLoss loss = info_nce(queries, candidates);
  EXPECT_NEAR(loss.sum.item<double>(), 6 * std::log(18.0), 1e-4);
  loss.sum.backward();
  EXPECT_LT(queries.grad().abs().max().item<double>(), 1e-5);
  const at::Tensor zeros = at::zeros({6, 4}).requires_grad_();
  const ContrastiveLoss of_zeros = info_nce(zeros, candidates);
  EXPECT_NEAR(of_zeros.sum.item<double>(), 6 * std::log(18.0), 1e-4);
}

TEST(InfoNce, LeavesOutFalseNegatives) {
  const at::Tensor queries = random_tensor({6, 8}, 3);
  const at::Tensor candidates = random_tensor({9, 8}, 4);
  const Numbers of_queries = {0, 1, 0, 2, 3, 1};
  const Numbers of_candidates = {0, 1, 0, 2, 3, 1, 7, 0, 3};
  CandidateRules rules;
  rules.query_labels = numbers(of_queries);
  rules.candidate_labels = numbers(of_candidates);
  const InfoNceOptions options;
  const double expected = by_hand(similarities(queries, candidates, options), kDiagonal, [&](auto i, auto j) {
    return i == j || of_queries[static_cast<std::size_t>(i)] != of_candidates[static_cast<std::size_t>(j)];
  });
  EXPECT_NEAR(info_nce(queries, candidates, options, rules).sum.item<double>(), expected, 1e-4);
}

TEST(InfoNce, IsNtXentOverBothHalves) {
  const at::Tensor left = random_tensor({5, 8}, 5);
  const at::Tensor right = random_tensor({5, 8}, 6);
  CandidateRules rules;
  rules.positives = numbers({5, 6, 7, 8, 9, 0, 1, 2, 3, 4});
  rules.exclude_self = true;
  const InfoNceOptions options{"cosine", 1 / 0.07};
  const at::Tensor both = at::cat({left, right});
  const double expected = by_hand(
      similarities(both, both, options), [](std::int64_t i) { return Numbers{(i + 5) % 10}; },
      [](std::int64_t i, std::int64_t j) { return i != j; });
  const double loss = info_nce(both, both, options, rules).sum.item<double>();
  EXPECT_NEAR(loss, expected, 1e-4);
  // The two words of a pair may change sides.
  const at::Tensor swapped = at::cat({right, left});
  EXPECT_NEAR(info_nce(swapped, swapped, options, rules).sum.item<double>(), loss, 1e-4);
}

TEST(InfoNce, IsSupConWithLabels) {
  const at::Tensor rows = random_tensor({9, 8}, 7);
  const Numbers labels = {0, 1, 0, 2, 0, 1, 3, 2, 2};  // Row 6 is alone.
  CandidateRules rules;
  rules.query_labels = rules.candidate_labels = numbers(labels);
  rules.same_label = SameLabel::kPositive;
  rules.exclude_self = true;
  const InfoNceOptions options{"cosine", 10.0};
  const double expected = by_hand(
      similarities(rows, rows, options),
      [&](std::int64_t i) {
        Numbers positives;
        for (std::int64_t j = 0; j < 9; ++j)
          if (j != i && labels[static_cast<std::size_t>(i)] == labels[static_cast<std::size_t>(j)])
            positives.push_back(j);
        return positives;
      },
      [](std::int64_t i, std::int64_t j) { return i != j; });
  const ContrastiveLoss loss = info_nce(rows, rows, options, rules);
  EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-4);
  EXPECT_EQ(loss.count, 8);
  EXPECT_EQ(loss.per_query[6].item<double>(), 0);
}

TEST(InfoNce, CslsTakesOutWhatACandidateHasInCommonWithAll) {
  const at::Tensor queries = random_tensor({8, 6}, 8, at::kDouble);
  const at::Tensor candidates = random_tensor({8, 6}, 9, at::kDouble);
  InfoNceOptions options;
  options.csls_neighbours = 3;
  const at::Tensor cosines = similarities(queries, candidates, {"cosine", 1.0});
  const at::Tensor means = std::get<0>(cosines.t().topk(3)).mean(1);
  const at::Tensor logits = options.scale * (2 * cosines - means);
  EXPECT_NEAR(info_nce(queries, candidates, options).sum.item<double>(), by_hand(logits, kDiagonal, kAll),
              1e-9);
}

TEST(InfoNce, WeightsScaleQueries) {
  const at::Tensor queries = random_tensor({4, 8}, 1);
  const at::Tensor candidates = random_tensor({4, 8}, 2);
  const at::Tensor weights = at::tensor({0.5, 2.0, 0.0, 1.0}, at::kFloat);
  const ContrastiveLoss loss = info_nce(queries, candidates, {}, {}, {}, weights);
  EXPECT_NEAR(loss.sum.item<double>(), (loss.per_query * weights).sum().item<double>(), 1e-5);
}

TEST(InfoNce, HasTheGradientsOfItsDefinition) {
  const at::Tensor queries = random_tensor({6, 5}, 1, at::kDouble).requires_grad_();
  const at::Tensor candidates = random_tensor({9, 5}, 2, at::kDouble).requires_grad_();
  const at::Tensor scale = at::ones({}, at::kDouble).mul_(3).requires_grad_();
  const at::Tensor weights = random_tensor({6}, 3, at::kDouble).abs();
  CandidateRules masked;
  masked.query_labels = numbers({0, 1, 0, 2, 3, 1});
  masked.candidate_labels = numbers({0, 1, 0, 2, 3, 1, 7, 0, 3});
  CandidateRules supervised = masked;
  supervised.same_label = SameLabel::kPositive;
  for (const CandidateRules& rules : {CandidateRules{}, masked, supervised}) {
    for (const InfoNceOptions& options :
         {InfoNceOptions{"cosine", 5.0}, InfoNceOptions{"dot", 1.0}, InfoNceOptions{"cosine", 5.0, 2}}) {
      expect_gradients(
          [&](const auto& x) { return info_nce(x[0], x[1], options, rules, x[2], weights).sum * 0.5; },
          {queries, candidates, scale}, 1e-5);
    }
  }
  expect_gradients(
      [&](const auto& x) {
        CandidateRules rules;
        rules.positives = numbers({3, 4, 5, 0, 1, 2});
        rules.exclude_self = true;
        return info_nce(x[0], x[0], {"cosine", 5.0}, rules).sum;
      },
      {queries}, 1e-5);
}

TEST(InfoNce, TilesGiveWhatTheWholeMatrixGives) {
  // Wide enough for many tiles, and not a multiple of their height.
  const at::Tensor queries = random_tensor({1100, 16}, 1).requires_grad_();
  const at::Tensor candidates = random_tensor({3000, 16}, 2).requires_grad_();
  info_nce(queries, candidates).sum.backward();
  const at::Tensor q = queries.detach().clone().requires_grad_();
  const at::Tensor c = candidates.detach().clone().requires_grad_();
  const at::Tensor logits = similarities(q, c, {});
  (logits.logsumexp(1) - logits.diagonal()).sum().backward();
  EXPECT_LT(relative_difference(queries.grad(), q.grad()), 1e-5);
  EXPECT_LT(relative_difference(candidates.grad(), c.grad()), 1e-5);
}

TEST(InfoNce, CandidatesOfABankGetNoGradient) {
  const at::Tensor queries = random_tensor({4, 8}, 1).requires_grad_();
  const at::Tensor bank = random_tensor({12, 8}, 2);
  info_nce(queries, bank).sum.backward();
  EXPECT_TRUE(queries.grad().defined());
  EXPECT_FALSE(bank.grad().defined());
}

TEST(InfoNce, RefusesWhatCannotBeLearntFrom) {
  const at::Tensor one = random_tensor({1, 8}, 1);
  EXPECT_THROW((void)info_nce(one, one), DataError);
  EXPECT_THROW((void)info_nce(random_tensor({0, 8}, 1), one), DataError);
  // Everything but the positive is left out.
  CandidateRules same;
  same.query_labels = same.candidate_labels = numbers({3, 3, 3});
  const at::Tensor three = random_tensor({3, 8}, 1);
  EXPECT_THROW((void)info_nce(three, three, {}, same), DataError);
  CandidateRules lonely;
  lonely.query_labels = lonely.candidate_labels = numbers({0, 1, 2});
  lonely.same_label = SameLabel::kPositive;
  lonely.exclude_self = true;
  EXPECT_THROW((void)info_nce(three, three, {}, lonely), DataError);
}

TEST(InfoNce, RefusesShapesThatDoNotFit) {
  const at::Tensor three = random_tensor({3, 8}, 1);
  EXPECT_THROW((void)info_nce(three, random_tensor({3, 7}, 1)), StateError);
  EXPECT_THROW((void)info_nce(three, random_tensor({2, 8}, 1)), StateError);
  EXPECT_THROW((void)info_nce(three.to(at::kBFloat16), three.to(at::kBFloat16)), StateError);
  CandidateRules rules;
  rules.positives = numbers({0, 1, 3});
  EXPECT_THROW((void)info_nce(three, three, {}, rules), StateError);
  rules.positives = numbers({0, 1});
  EXPECT_THROW((void)info_nce(three, three, {}, rules), StateError);
  rules.positives = numbers({0, 1, 2});
  rules.exclude_self = true;
  EXPECT_THROW((void)info_nce(three, three, {}, rules), StateError);
}

TEST(InfoNce, RunsBackwardOnce) {
  const at::Tensor queries = random_tensor({3, 8}, 1).requires_grad_();
  const ContrastiveLoss loss = info_nce(queries, random_tensor({3, 8}, 2));
  loss.sum.backward({}, /*retain_graph=*/true);
  EXPECT_THROW(loss.sum.backward(), StateError);
}

TEST(InfoNce, QueriesThatAreNotAmongTheCandidatesCannotBeLeftOut) {
  CandidateRules rules;
  rules.positives = numbers({1, 0, 1, 0});
  rules.exclude_self = true;
  EXPECT_THROW((void)info_nce(random_tensor({4, 3}, 1), random_tensor({3, 3}, 2), {}, rules), StateError);
}

}  // namespace
}  // namespace bitrain::losses
