#include <bitrain/losses/late_interaction.h>

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
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
using Boundaries = std::vector<std::int32_t>;

constexpr std::int64_t kDim = 8;
const Boundaries kQueries = {0, 3, 4, 9};
const Boundaries kDocuments = {0, 5, 6, 13, 15, 24, 27};  // Two for each query.

at::Tensor mask_of(const std::vector<int>& left_out, std::int64_t tokens) {
  at::Tensor mask = at::zeros({tokens}, at::TensorOptions().dtype(at::kBool));
  for (const int token : left_out) mask[token].fill_(true);
  return mask;
}

TokenVectors draw(const Boundaries& boundaries, std::uint64_t seed, at::ScalarType dtype = at::kDouble) {
  return {nn::unit_rows(random_tensor({boundaries.back(), kDim}, seed, dtype)), boundaries, {}};
}

/// One score by the definition.
double score_of(const TokenVectors& queries, std::int64_t q, const TokenVectors& documents, std::int64_t d) {
  double score = 0;
  for (std::int32_t i = queries.boundaries[q]; i < queries.boundaries[q + 1]; ++i) {
    double best = -std::numeric_limits<double>::infinity();
    for (std::int32_t j = documents.boundaries[d]; j < documents.boundaries[d + 1]; ++j) {
      if (documents.left_out.defined() && documents.left_out[j].item<bool>()) continue;
      best = std::max(
          best,
          (queries.vectors[i].to(at::kDouble) * documents.vectors[j].to(at::kDouble)).sum().item<double>());
    }
    score += best;
  }
  return score;
}

at::Tensor scores_by_hand(const TokenVectors& queries, const TokenVectors& documents, bool own) {
  const std::int64_t width = own ? documents.texts() / queries.texts() : documents.texts();
  at::Tensor scores = at::zeros({queries.texts(), width}, at::TensorOptions().dtype(at::kDouble));
  for (std::int64_t q = 0; q < queries.texts(); ++q)
    for (std::int64_t c = 0; c < width; ++c)
      scores[q][c] = score_of(queries, q, documents, own ? q * width + c : c);
  return scores;
}

class MaxSimTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(MaxSimTest, EqualsTheLoop) {
  const TokenVectors queries = draw(kQueries, 1, GetParam());
  TokenVectors documents = draw(kDocuments, 2, GetParam());
  for (const bool masked : {false, true}) {
    if (masked) documents.left_out = mask_of({0, 4, 7, 26}, 27);
    const at::Tensor all = max_sim(queries, documents);
    const at::Tensor own = max_sim_own(queries, documents);
    EXPECT_EQ(all.scalar_type(), GetParam() == at::kDouble ? at::kDouble : at::kFloat);
    EXPECT_LT(relative_difference(all, scores_by_hand(queries, documents, false)), 1e-6);
    EXPECT_LT(relative_difference(own, scores_by_hand(queries, documents, true)), 1e-6);
    EXPECT_LT(relative_difference(reference::max_sim(queries, documents), all), 1e-6);
    EXPECT_LT(relative_difference(reference::max_sim_own(queries, documents), own), 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, MaxSimTest, ::testing::Values(at::kFloat, at::kBFloat16, at::kDouble),
                         [](const auto& each) { return std::string(c10::toString(each.param)); });

TEST(MaxSim, GradientsInFloat64) {
  const at::Tensor left_out = mask_of({0, 4, 7, 26}, 27);
  for (const bool own : {false, true}) {
    expect_gradients(
        [&](const Tensors& t) {
          const TokenVectors queries{t[0], kQueries, {}};
          const TokenVectors documents{t[1], kDocuments, left_out};
          return own ? max_sim_own(queries, documents) : max_sim(queries, documents);
        },
        {random_tensor({9, kDim}, 1, at::kDouble).requires_grad_(),
         random_tensor({27, kDim}, 2, at::kDouble).requires_grad_()});
  }
}

TEST(MaxSim, GradientsOfLeftOutTokensAreZero) {
  TokenVectors queries = draw(kQueries, 1);
  TokenVectors documents = draw(kDocuments, 2);
  documents.vectors.requires_grad_();
  documents.left_out = mask_of({0, 4, 7, 26}, 27);
  const at::Tensor gradient =
      torch::autograd::grad({max_sim(queries, documents).sum()}, {documents.vectors})[0];
  for (const int token : {0, 4, 7, 26}) EXPECT_EQ(gradient[token].abs().max().item<double>(), 0);
  EXPECT_GT(gradient.abs().max().item<double>(), 0);
}

// Many tiles both ways, odd lengths, and a document longer than a tile.
TEST(MaxSim, TilesEqualPlainAten) {
  const auto lengths = [](std::int64_t texts, std::int32_t factor, std::int32_t most) {
    Boundaries ends = {0};
    for (std::int64_t i = 0; i < texts; ++i)
      ends.push_back(ends.back() + 1 + static_cast<std::int32_t>(i) * factor % most);
    return ends;
  };
  const Boundaries query_ends = lengths(20, 7, 31);
  Boundaries document_ends = lengths(59, 37, 97);
  document_ends.push_back(document_ends.back() + 2500);
  for (const bool own : {false, true}) {
    const auto score = [&](const Tensors& t, bool plain) {
      const TokenVectors queries{t[0], query_ends, {}};
      const TokenVectors documents{t[1], document_ends, {}};
      if (plain)
        return own ? reference::max_sim_own(queries, documents) : reference::max_sim(queries, documents);
      return own ? max_sim_own(queries, documents) : max_sim(queries, documents);
    };
    const Tensors inputs = {draw(query_ends, 1).vectors.requires_grad_(),
                            draw(document_ends, 2).vectors.requires_grad_()};
    const at::Tensor ours = score(inputs, false);
    const at::Tensor plain = score(inputs, true);
    EXPECT_LT(relative_difference(ours, plain), 1e-12);
    const at::Tensor slope = random_tensor(ours.sizes(), 3, at::kDouble);
    const auto gradient = torch::autograd::grad({ours}, inputs, {slope});
    const auto wanted = torch::autograd::grad({plain}, inputs, {slope});
    for (std::size_t i = 0; i < 2; ++i) EXPECT_LT(relative_difference(gradient[i], wanted[i]), 1e-12);
  }
}

TEST(MaxSim, OrderOfTokensAndPaddingChangeNothing) {
  const TokenVectors queries = draw({0, 4}, 1);
  const TokenVectors document = draw({0, 7}, 2);
  const double score = max_sim(queries, document).item<double>();
  TokenVectors turned = document;
  turned.vectors = document.vectors.flip({0});
  EXPECT_EQ(max_sim(queries, turned).item<double>(), score);
  TokenVectors padded = document;  // Padding that would win, were it not left out.
  padded.vectors = at::cat({document.vectors, at::full({3, kDim}, 9.0, document.vectors.options())});
  padded.boundaries = {0, 10};
  EXPECT_NE(max_sim(queries, padded).item<double>(), score);
  padded.left_out = mask_of({7, 8, 9}, 10);
  EXPECT_EQ(max_sim(queries, padded).item<double>(), score);
  TokenVectors reordered = queries;
  reordered.vectors = queries.vectors.flip({0});
  EXPECT_NEAR(max_sim(reordered, document).item<double>(), score, 1e-14);
}

TEST(MaxSim, OrderOfTextsOnlyMovesScores) {
  const TokenVectors queries = draw(kQueries, 1, at::kFloat);
  const TokenVectors documents = draw({0, 4, 8, 12}, 2, at::kFloat);
  TokenVectors turned = documents;
  turned.vectors = documents.vectors.view({3, 4, kDim}).flip({0}).reshape({12, kDim});
  EXPECT_LT(relative_difference(max_sim(queries, turned), max_sim(queries, documents).flip({1})), 1e-6);
}

TEST(MaxSim, ThreadsDoNotChangeIt) {
  const auto run = [](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    TokenVectors queries = draw(kQueries, 1, at::kFloat);
    TokenVectors documents = draw(kDocuments, 2, at::kFloat);
    queries.vectors.requires_grad_();
    documents.vectors.requires_grad_();
    const at::Tensor scores = max_sim(queries, documents);
    auto gradients = torch::autograd::grad({(scores * scores).sum()}, {queries.vectors, documents.vectors});
    at::set_num_threads(before);
    return Tensors{scores, gradients[0], gradients[1]};
  };
  const Tensors one = run(1);
  const Tensors two = run(2);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].equal(two[i])) << i;
}

TEST(MaxSim, NanReachesTheScore) {
  const TokenVectors queries = draw(kQueries, 1, at::kFloat);
  TokenVectors documents = draw(kDocuments, 2, at::kFloat);
  documents.vectors[10].fill_(std::nan(""));
  const at::Tensor scores = max_sim(queries, documents);
  EXPECT_TRUE(std::isnan(scores[0][2].item<float>()));
  EXPECT_FALSE(std::isnan(scores[0][1].item<float>()));
}

// Both terms from full matrices of scores.
TEST(ColbertLoss, EqualsItsDefinition) {
  const TokenVectors queries = draw(kQueries, 1);
  TokenVectors documents = draw(kDocuments, 2);
  documents.left_out = mask_of({0, 4, 7, 26}, 27);
  const at::Tensor all = scores_by_hand(queries, documents, false);
  const at::Tensor own = scores_by_hand(queries, documents, true);
  const at::Tensor loss = colbert_loss(queries, documents);
  ASSERT_EQ(loss.sizes(), at::IntArrayRef({3}));
  for (std::int64_t i = 0; i < 3; ++i) {
    double among_own = 0;
    double in_batch = 0;
    for (std::int64_t k = 0; k < 2; ++k) among_own += std::exp(own[i][k].item<double>());
    for (std::int64_t k = 0; k < 3; ++k) in_batch += std::exp(all[i][2 * k].item<double>());
    const double positive = own[i][0].item<double>();
    EXPECT_NEAR(loss[i].item<double>(), std::log(among_own) + std::log(in_batch) - 2 * positive, 1e-12);
  }
}

TEST(ColbertLoss, GradientsInFloat64) {
  expect_gradients(
      [](const Tensors& t) {
        return colbert_loss({t[0], kQueries, {}}, {t[1], kDocuments, {}});
      },
      {random_tensor({9, kDim}, 1, at::kDouble).requires_grad_(),
       random_tensor({27, kDim}, 2, at::kDouble).requires_grad_()});
}

TEST(ColbertLoss, OneQueryHasNoInBatchTerm) {
  const TokenVectors query = draw({0, 4}, 1);
  const TokenVectors documents = draw({0, 3, 9, 10}, 2);
  const at::Tensor wanted = -at::log_softmax(max_sim(query, documents), 1).select(1, 0);
  EXPECT_TRUE(colbert_loss(query, documents).equal(wanted));
}

TEST(ColbertLoss, WithoutHardNegativesOnlyTheBatchCounts) {
  const TokenVectors queries = draw(kQueries, 1);
  const TokenVectors documents = draw({0, 3, 9, 10}, 2);
  const at::Tensor wanted = -at::log_softmax(max_sim(queries, documents), 1).diagonal();
  EXPECT_LT(relative_difference(colbert_loss(queries, documents), wanted), 1e-14);
}

TEST(MaxSim, RefusesBadInput) {
  const TokenVectors queries = draw(kQueries, 1);
  const TokenVectors documents = draw(kDocuments, 2);
  TokenVectors bad = documents;
  bad.left_out = mask_of({5}, 27);  // All of document 1.
  EXPECT_THROW((void)max_sim(queries, bad), DataError);
  bad.left_out = mask_of({5}, 26);
  EXPECT_THROW((void)max_sim(queries, bad), StateError);
  bad.left_out = at::zeros({27});
  EXPECT_THROW((void)max_sim(queries, bad), StateError);
  EXPECT_THROW((void)max_sim(queries, {documents.vectors, {0, 5, 5, 27}, {}}), StateError);
  EXPECT_THROW((void)max_sim(queries, {documents.vectors, {0, 5}, {}}), StateError);
  EXPECT_THROW((void)max_sim(queries, {documents.vectors, {}, {}}), StateError);
  EXPECT_THROW((void)max_sim({random_tensor({9, kDim + 1}, 1), kQueries, {}}, documents), StateError);
  EXPECT_THROW((void)max_sim({queries.vectors.to(at::kLong), kQueries, {}}, documents), StateError);
  EXPECT_THROW((void)max_sim({at::Tensor(), kQueries, {}}, documents), StateError);
  EXPECT_THROW((void)max_sim_own(queries, draw({0, 3, 4, 5, 9}, 2)), StateError);
  EXPECT_THROW((void)max_sim_own(queries, draw({0, 3}, 2)), StateError);
  EXPECT_THROW((void)colbert_loss(draw({0, 3}, 1), draw({0, 3}, 2)), DataError);
}

}  // namespace
}  // namespace bitrain::losses
