#include <bitrain/eval/bitext_mining.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ops/cat.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/retrieval.h>
#include <eval/hub_spaces.h>

namespace bitrain::eval {
namespace {

using ::testing::HasSubstr;

/// Scores of all pairs, by the formulas.
at::Tensor all_scores(const at::Tensor& left, const at::Tensor& right, const std::string& margin,
                      std::int64_t k) {
  const at::Tensor cosine = at::matmul(unit(left), unit(right).t());
  const at::Tensor around =
      (std::get<0>(cosine.topk(k, 1)).mean(1, true) + std::get<0>(cosine.topk(k, 0)).mean(0, true)) / 2;
  return margin == "absolute" ? cosine : margin == "distance" ? cosine - around : cosine / around;
}

GoldPairs rows_of(const std::vector<MinedPair>& pairs) {
  GoldPairs rows;
  for (const MinedPair& pair : pairs) rows.emplace(pair.left, pair.right);
  return rows;
}

/// 300 pairs, and as many sentences of each side that have no translation.
struct Sides {
  at::Tensor left;
  at::Tensor right;
};
Sides sides(const std::string& set) {
  const at::Tensor mean = draw(1, 16, "mean");
  const at::Tensor meaning = draw(300, 16, set + " meaning") + mean;
  return {
      at::cat({meaning + 0.25 * draw(300, 16, set + " left"), mean + draw(300, 16, set + " only left")}, 0),
      at::cat({meaning + 0.25 * draw(300, 16, set + " right"), mean + draw(300, 16, set + " only right")},
              0)};
}

GoldPairs first_rows(std::int64_t count) {
  GoldPairs gold;
  for (std::int64_t i = 0; i < count; ++i) gold.emplace(i, i);
  return gold;
}

TEST(BitextMining, ScoresAreTheMarginsOfAllPairs) {
  const at::Tensor left = draw(290, 12, "left") + 0.4;  // More than a block.
  const at::Tensor right = draw(350, 12, "right") + 0.4;
  for (const char* margin : {"absolute", "distance", "ratio"}) {
    const at::Tensor scores = all_scores(left, right, margin, 4);
    for (const bool forward : {true, false}) {
      const std::vector<MinedPair> mined =
          mine_bitext(left, right, {.margin = margin, .strategy = forward ? "forward" : "backward"});
      EXPECT_EQ(mined.size(), forward ? 290U : 350U);
      const at::Tensor nearest =
          std::get<1>(at::matmul(unit(left), unit(right).t()).topk(4, forward ? 1 : 0));
      for (const MinedPair& pair : mined) {
        EXPECT_NEAR(pair.score, scores[pair.left][pair.right].item<double>(), 1e-5);
        // No other of the four nearest has a higher score.
        for (std::int64_t i = 0; i < 4; ++i) {
          const double other =
              forward ? scores[pair.left][nearest[pair.left][i].item<std::int64_t>()].item<double>()
                      : scores[nearest[i][pair.right].item<std::int64_t>()][pair.right].item<double>();
          EXPECT_LE(other, pair.score + 1e-5);
        }
      }
      for (std::size_t i = 1; i < mined.size(); ++i) EXPECT_GE(mined[i - 1].score, mined[i].score);
    }
  }
}

TEST(BitextMining, StrategiesCombineBothDirections) {
  const auto [left, right] = sides("test");
  const auto mined = [&](const char* strategy) { return mine_bitext(left, right, {.strategy = strategy}); };
  const GoldPairs forward = rows_of(mined("forward"));
  const GoldPairs backward = rows_of(mined("backward"));
  GoldPairs both;
  for (const auto& pair : forward)
    if (backward.count(pair) > 0) both.insert(pair);
  EXPECT_EQ(rows_of(mined("intersection")), both);
  EXPECT_LT(both.size(), forward.size());
  // Greedy by hand.
  std::vector<MinedPair> all = mined("forward");
  for (const MinedPair& pair : mined("backward")) all.push_back(pair);
  std::stable_sort(all.begin(), all.end(),
                   [](const MinedPair& a, const MinedPair& b) { return a.score > b.score; });
  GoldPairs greedy;
  std::set<std::int64_t> lefts;
  std::set<std::int64_t> rights;
  for (const MinedPair& pair : all) {
    if (lefts.count(pair.left) > 0 || rights.count(pair.right) > 0) continue;
    lefts.insert(pair.left);
    rights.insert(pair.right);
    greedy.emplace(pair.left, pair.right);
  }
  EXPECT_EQ(rows_of(mined("max")), greedy);
}

TEST(BitextMining, FindsKnownPairsByAThresholdFromOthers) {
  const Sides dev = sides("dev");
  const Sides test = sides("test");
  const GoldPairs gold = first_rows(300);
  for (const char* strategy : {"forward", "backward", "intersection", "max"}) {
    const MiningOptions options{.strategy = strategy};
    const double threshold = choose_threshold(mine_bitext(dev.left, dev.right, options), gold);
    const std::vector<MinedPair> mined = mine_bitext(test.left, test.right, options);
    const MiningScores scores = score_mined(mined, gold, threshold);
    EXPECT_GT(scores.f1, 0.9) << strategy;
    const MiningScores all = score_mined(mined, gold, -std::numeric_limits<double>::infinity());
    EXPECT_EQ(all.mined, static_cast<std::int64_t>(mined.size()));
    EXPECT_GT(scores.precision, all.precision);
    EXPECT_GE(scores.f1, all.f1);
  }
}

TEST(BitextMining, MarginsHoldHubsDown) {
  const HubSpaces spaces = hub_spaces(0.15);
  const at::Tensor left = at::matmul(spaces.sources, spaces.rotation);
  const auto correct = [&](const char* margin) {
    return score_mined(mine_bitext(left, spaces.targets, {.margin = margin, .strategy = "forward"}),
                       first_rows(2000), -1)
        .recall;
  };
  EXPECT_GT(correct("distance"), correct("absolute"));
  EXPECT_GT(correct("ratio"), correct("absolute"));
}

TEST(BitextMining, AccuracyIsThatOfRows) {
  const at::Tensor left = draw(300, 16, "left");
  const at::Tensor right = left + 0.5 * draw(300, 16, "noise");
  const PairScores nearest = score_pairs(left, right);
  const AlignmentAccuracy absolute = score_alignment(left, right, {.margin = "absolute"});
  EXPECT_DOUBLE_EQ(absolute.forward, nearest.forward_accuracy);
  EXPECT_DOUBLE_EQ(absolute.backward, nearest.backward_accuracy);
  EXPECT_GT(absolute.forward, 0.5);
  EXPECT_LT(absolute.forward, 1);
  const AlignmentAccuracy exact = score_alignment(left, left * 2.0);
  EXPECT_DOUBLE_EQ(exact.forward, 1);
  EXPECT_DOUBLE_EQ(exact.backward, 1);
  EXPECT_DOUBLE_EQ(score_alignment(left, at::flip(left, {0})).forward, 0);
  EXPECT_THROW((void)score_alignment(left, right.narrow(0, 0, 9)), StateError);
}

TEST(BitextMining, ScoresAndThresholdByHand) {
  const std::vector<MinedPair> mined{{2, 7, 0.3}, {0, 0, 0.9}, {1, 1, 0.5}, {3, 3, 0.5}, {4, 4, 0.1}};
  const GoldPairs gold{{0, 0}, {1, 1}, {2, 2}, {4, 4}};
  const MiningScores scores = score_mined(mined, gold, 0.5);
  EXPECT_EQ(scores.mined, 3);
  EXPECT_EQ(scores.correct, 2);
  EXPECT_DOUBLE_EQ(scores.precision, 2.0 / 3);
  EXPECT_DOUBLE_EQ(scores.recall, 0.5);
  EXPECT_DOUBLE_EQ(scores.f1, 4.0 / 7);
  // F1 2/5 of one, 4/7 of three, 4/8 of four, 6/9 of all five.
  EXPECT_DOUBLE_EQ(choose_threshold(mined, gold), 0.1);
  EXPECT_DOUBLE_EQ(choose_threshold(mined, {{0, 0}, {1, 1}, {2, 2}}), 0.4);
  const MiningScores none = score_mined(mined, gold, 2);
  EXPECT_EQ(none.mined, 0);
  EXPECT_DOUBLE_EQ(none.precision, 0);
  EXPECT_DOUBLE_EQ(none.f1, 0);
  // Between neighbouring doubles there is nothing: the higher one it is.
  const double low = 0.5;
  const double high = std::nextafter(low, 1.0);
  EXPECT_EQ(choose_threshold({{0, 0, high}, {5, 5, low}}, gold), high);
}

TEST(BitextMining, ARatioNeedsCloseNeighbours) {
  // The second left row points away from both right rows: its b is (-0.8 + 0) / 2.
  const at::Tensor left = at::tensor({1.0F, 0.0F, -1.0F, 0.0F}).view({2, 2});
  const at::Tensor right = at::tensor({1.0F, 0.0F, 0.6F, 0.8F}).view({2, 2});
  const std::vector<MinedPair> mined = mine_bitext(left, right, {.strategy = "forward"});
  ASSERT_EQ(mined.size(), 1U);
  EXPECT_EQ(mined[0].left, 0);
  EXPECT_EQ(mined[0].right, 0);
  EXPECT_NEAR(mined[0].score, 1 / 0.4, 1e-5);
  EXPECT_EQ(mine_bitext(left, right, {.margin = "distance", .strategy = "forward"}).size(), 2U);
}

TEST(BitextMining, RefusesWhatCannotBeMined) {
  const at::Tensor left = draw(6, 4, "left");
  const auto refused = [&](const at::Tensor& right) {
    return message_of<DataError>([&] { (void)mine_bitext(left, right); });
  };
  at::Tensor broken = left.clone();
  broken[5][3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(refused(broken), HasSubstr("the right side: row 5 has NaN"));
  broken[5].zero_();
  EXPECT_THAT(refused(broken), HasSubstr("row 5 is all zero"));
  EXPECT_THAT(refused(left.narrow(0, 0, 1).expand({6, 4})), HasSubstr("all 6 rows are equal"));
  EXPECT_THROW((void)mine_bitext(left, left.narrow(0, 0, 0)), StateError);
  EXPECT_THROW((void)mine_bitext(left, draw(6, 5, "wide")), StateError);
  EXPECT_THROW((void)mine_bitext(left, left, {.margin = "cosine"}), ConfigError);
  EXPECT_THROW((void)mine_bitext(left, left, {.strategy = "best"}), ConfigError);
  EXPECT_THROW((void)mine_bitext(left, left, {.neighbours = 0}), ConfigError);
  EXPECT_THROW((void)score_mined({}, {}, 0), DataError);
  EXPECT_THROW((void)score_mined({{0, 0, 1}, {0, 0, 2}}, {{0, 0}}, 0), DataError);
  EXPECT_THROW((void)score_mined({{0, 0, std::nan("")}}, {{0, 0}}, 0), DataError);
  EXPECT_THROW((void)choose_threshold({}, {{0, 0}}), DataError);
  EXPECT_THROW((void)choose_threshold({{1, 0, 1}}, {{0, 0}}), DataError);
}

}  // namespace
}  // namespace bitrain::eval
