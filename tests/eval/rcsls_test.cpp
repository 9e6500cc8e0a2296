#include <bitrain/eval/rcsls.h>

#include <algorithm>
#include <limits>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_svd.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/alignment.h>
#include <bitrain/eval/bilingual_lexicon.h>
#include <eval/hub_spaces.h>

namespace bitrain::eval {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kTrain = 1000;

AlignmentData training_data(const HubSpaces& spaces) {
  return {spaces.sources.narrow(0, 0, kTrain), spaces.targets.narrow(0, 0, kTrain), spaces.sources,
          spaces.targets};
}

/// Of the words that were not trained on.
double precision(const HubSpaces& spaces, const at::Tensor& map, std::int64_t csls) {
  const at::Tensor rows = at::arange(kTrain, 2000, at::TensorOptions().dtype(at::kLong));
  return score_lexicon(at::matmul(spaces.sources, map), spaces.targets, {rows, rows, kTrain, kTrain},
                       {.csls_neighbours = csls})
      .precision_at_1;
}

double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// Mean of the k largest products of `query` with rows of `table`.
double mean_of_largest(const float* query, const at::Tensor& table, std::size_t k) {
  std::vector<double> products;
  for (std::int64_t i = 0; i < table.size(0); ++i)
    products.push_back(dot(query, table.const_data_ptr<float>() + i * table.size(1), table.size(1)));
  std::sort(products.rbegin(), products.rend());
  double sum = 0;
  for (std::size_t i = 0; i < k; ++i) sum += products[i];
  return sum / static_cast<double>(k);
}

double loss_by_loops(const AlignmentData& data, const at::Tensor& map, std::size_t k) {
  const at::Tensor mapped = at::matmul(data.x, map).contiguous();
  const at::Tensor mapped_sources = at::matmul(data.sources, map).contiguous();
  const std::int64_t dim = map.size(0);
  double sum = 0;
  for (std::int64_t i = 0; i < data.x.size(0); ++i) {
    const float* x = mapped.const_data_ptr<float>() + i * dim;
    const float* y = data.y.const_data_ptr<float>() + i * dim;
    sum += 2 * dot(x, y, dim) - mean_of_largest(x, data.targets, k) - mean_of_largest(y, mapped_sources, k);
  }
  return -sum / static_cast<double>(data.x.size(0));
}

TEST(Rcsls, LossAndGradientAreThoseOfItsFormula) {
  const AlignmentData data{unit(draw(40, 6, "x")), unit(draw(40, 6, "y")), unit(draw(300, 6, "sources")),
                           unit(draw(320, 6, "targets"))};
  const at::Tensor map = draw(6, 6, "map") * 0.4;
  const RcslsLoss loss = rcsls_loss(data, map, 10);
  EXPECT_NEAR(loss.value, loss_by_loops(data, map, 10), 1e-5);
  // Piecewise linear: a step too small to change a neighbour changes it by the gradient.
  for (std::int64_t i = 0; i < 36; ++i) {
    at::Tensor up = map.clone();
    at::Tensor down = map.clone();
    up.view({-1})[i] += 1e-3;
    down.view({-1})[i] -= 1e-3;
    const double slope = (loss_by_loops(data, up, 10) - loss_by_loops(data, down, 10)) / 2e-3;
    EXPECT_NEAR(loss.gradient.view({-1})[i].item<double>(), slope, 1e-3);
  }
}

TEST(Rcsls, IsNoWorseThanProcrustesUnderNoiseAndHubs) {
  const HubSpaces spaces = hub_spaces(0.15);
  const AlignmentData data = training_data(spaces);
  const at::Tensor rotation = procrustes(data.x, data.y);
  const double start = rcsls_loss(data, rotation, 10).value;
  for (const char* projection : {"none", "spectral"}) {
    const at::Tensor map = fit_rcsls(data, {.projection = projection});
    EXPECT_LT(rcsls_loss(data, map, 10).value, start);
    EXPECT_GT(precision(spaces, map, 0), precision(spaces, rotation, 0) + 0.05);
    EXPECT_GE(precision(spaces, map, 10), precision(spaces, rotation, 10));
  }
  const at::Tensor kept = fit_rcsls(data, {.projection = "orthogonal"});
  EXPECT_LE(rcsls_loss(data, kept, 10).value, start);
  EXPECT_GE(precision(spaces, kept, 0), precision(spaces, rotation, 0) - 0.01);
}

TEST(Rcsls, RecoversTheHiddenRotation) {
  const HubSpaces spaces = hub_spaces(0);
  const at::Tensor map = fit_rcsls(training_data(spaces));
  EXPECT_GE(precision(spaces, map, 0), 0.99);
  EXPECT_GE(precision(spaces, map, 10), 0.99);
}

TEST(Rcsls, HalvesItsRateUntilAStepHelps) {
  const HubSpaces spaces = hub_spaces(0.15);
  const AlignmentData data = training_data(spaces);
  const at::Tensor rotation = procrustes(data.x, data.y);
  const RcslsLoss start = rcsls_loss(data, rotation, 10);
  // Such a step overshoots: one is taken back, with twenty the halved rate helps.
  const double rate = 1000;
  const RcslsOptions once{.iterations = 1, .learning_rate = rate, .projection = "orthogonal"};
  const RcslsOptions often{.iterations = 20, .learning_rate = rate, .projection = "orthogonal"};
  EXPECT_TRUE(fit_rcsls(data, once).equal(rotation));
  EXPECT_LT(rcsls_loss(data, fit_rcsls(data, often), 10).value, start.value);
  // No step at all is Procrustes; one that helps is the gradient's.
  EXPECT_TRUE(fit_rcsls(data, {.iterations = 0}).equal(rotation));
  EXPECT_LT(
      distance(fit_rcsls(data, {.iterations = 1, .learning_rate = 0.5}), rotation - 0.5 * start.gradient),
      1e-7);
}

TEST(Rcsls, ProjectsAndLimitsItsNegatives) {
  const HubSpaces spaces = hub_spaces(0.15);
  AlignmentData data = training_data(spaces);
  const auto singular_values = [&](const char* projection) {
    const at::Tensor map = fit_rcsls(data, {.learning_rate = 5, .projection = projection});
    return std::get<1>(at::linalg_svd(map, false));
  };
  EXPECT_GT(singular_values("none").max().item<double>(), 1.01);
  EXPECT_LT(singular_values("spectral").max().item<double>(), 1 + 1e-5);
  EXPECT_LT(singular_values("spectral").min().item<double>(), 0.99);
  EXPECT_LT((singular_values("orthogonal") - 1).abs().max().item<double>(), 1e-5);
  const at::Tensor few = fit_rcsls(data, {.negatives = 500});
  EXPECT_GT(distance(few, fit_rcsls(data)), 1e-4);
  data.sources = data.sources.narrow(0, 0, 500);
  data.targets = data.targets.narrow(0, 0, 500);
  EXPECT_TRUE(few.equal(fit_rcsls(data)));
}

TEST(Rcsls, RefusesWhatHasNoNeighbours) {
  const at::Tensor x = unit(draw(20, 4, "x"));
  const AlignmentData good{x, x, x, x};
  const auto refused = [&](AlignmentData data, at::Tensor AlignmentData::*part, const at::Tensor& bad) {
    data.*part = bad;
    return message_of<DataError>([&] { (void)fit_rcsls(data); });
  };
  at::Tensor broken = x.clone();
  broken[7][0] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(refused(good, &AlignmentData::sources, broken), HasSubstr("the source space: row 7 has NaN"));
  EXPECT_THAT(refused(good, &AlignmentData::y, x.narrow(0, 0, 1).expand({20, 4})),
              HasSubstr("the targets of pairs: all 20 rows are equal"));
  EXPECT_THROW((void)fit_rcsls({x, x.narrow(0, 0, 19), x, x}), StateError);
  EXPECT_THROW((void)fit_rcsls({x, x, x, draw(20, 5, "wide")}), StateError);
  EXPECT_THROW((void)fit_rcsls({x.narrow(0, 0, 0), x.narrow(0, 0, 0), x, x}), StateError);
  EXPECT_THROW((void)rcsls_loss(good, at::eye(5), 10), StateError);
  EXPECT_THROW((void)rcsls_loss(good, at::eye(4), 0), ConfigError);
  EXPECT_THROW((void)fit_rcsls(good, {.iterations = -1}), ConfigError);
  EXPECT_THROW((void)fit_rcsls(good, {.neighbours = 0}), ConfigError);
  EXPECT_THROW((void)fit_rcsls(good, {.negatives = 0}), ConfigError);
  EXPECT_THROW((void)fit_rcsls(good, {.learning_rate = 0}), ConfigError);
  EXPECT_THROW((void)fit_rcsls(good, {.projection = "sphere"}), ConfigError);
}

}  // namespace
}  // namespace bitrain::eval
