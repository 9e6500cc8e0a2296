#include <bitrain/eval/hard_negatives.h>

#include <algorithm>
#include <limits>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>

namespace bitrain::eval {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::ThrowsMessage;

at::Tensor random_rows(std::int64_t count, std::int64_t width, std::uint64_t seed) {
  at::Tensor rows = at::empty({count, width}, at::TensorOptions().dtype(at::kFloat));
  RandomStream random(seed, "rows");
  for (std::int64_t i = 0; i < rows.numel(); ++i)
    rows.mutable_data_ptr<float>()[i] = static_cast<float>(random.normal());
  return rows;
}

/// `count` candidates with scores 1, 0.99, 0.98, ...
std::vector<RankedText> ladder(std::int64_t count) {
  std::vector<RankedText> ranked;
  for (std::int64_t i = 0; i < count; ++i) ranked.push_back({100 + i, 1 - 0.01 * static_cast<double>(i)});
  return ranked;
}

TEST(HardNegatives, MarginKeepsScoresUpToMinPositiveLessMargin) {
  // Binary fractions, so that the threshold is met exactly.
  const std::vector<double> positives = {0.875, 0.75, 1.0};
  const std::vector<RankedText> ranked = {{0, 0.75}, {1, 0.5625}, {2, 0.5}, {3, 0.4375}, {4, -1}};
  HardNegativeOptions options{.negatives = 9, .margin = 0.25};
  const double lowest = *std::min_element(positives.begin(), positives.end());
  EXPECT_EQ(highest_negative_score(lowest, options), 0.5);
  EXPECT_THAT(choose_negatives(ranked, highest_negative_score(lowest, options), 0, options),
              ElementsAre(2, 3, 4));
  options.margin = 0;
  EXPECT_THAT(choose_negatives(ranked, highest_negative_score(lowest, options), 0, options),
              ElementsAre(0, 1, 2, 3, 4));
}

TEST(HardNegatives, EveryLimitHolds) {
  EXPECT_EQ(highest_negative_score(0.5, {}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(highest_negative_score(0.5, {.max_score = 0.25}), 0.25);
  EXPECT_EQ(highest_negative_score(0.5, {.relative_margin = 0.25}), 0.375);
  EXPECT_EQ(highest_negative_score(-0.5, {.relative_margin = 0.25}), -0.625);  // Lower, not higher.
  EXPECT_EQ(highest_negative_score(0.5, {.max_score = 0.4, .margin = 0.25, .relative_margin = 0.25}), 0.25);
}

TEST(HardNegatives, RanksAreCutBeforeScores) {
  const HardNegativeOptions options{.negatives = 3, .rank_from = 2, .rank_to = 6};
  EXPECT_THAT(choose_negatives(ladder(20), 1, 0, options), ElementsAre(102, 103, 104));
  EXPECT_THAT(choose_negatives(ladder(20), 0.9651, 0, options), ElementsAre(104, 105));
  EXPECT_THAT(choose_negatives(ladder(2), 1, 0, options), IsEmpty());
}

TEST(HardNegatives, RandomDrawsAreEvenDistinctAndOfThePairAlone) {
  const HardNegativeOptions options{.negatives = 3, .rank_from = 1, .rank_to = 11, .sampling = "random"};
  std::vector<int> drawn(12);
  constexpr int kPairs = 10000;
  for (int pair = 0; pair < kPairs; ++pair) {
    const auto rows = choose_negatives(ladder(20), 1, pair, options);
    ASSERT_THAT(rows, SizeIs(3));
    EXPECT_TRUE(rows[0] < rows[1] && rows[1] < rows[2]);  // Best first, none twice.
    for (const std::int64_t row : rows) ++drawn.at(static_cast<std::size_t>(row - 100));
  }
  EXPECT_EQ(drawn[0] + drawn[11], 0);
  for (int rank = 1; rank <= 10; ++rank) EXPECT_NEAR(drawn[static_cast<std::size_t>(rank)], 3000, 230);
  EXPECT_EQ(choose_negatives(ladder(20), 1, 7, options), choose_negatives(ladder(20), 1, 7, options));
  HardNegativeOptions other = options;
  other.seed = 43;
  int same = 0;
  for (int pair = 0; pair < 100; ++pair)
    same += choose_negatives(ladder(20), 1, pair, options) == choose_negatives(ladder(20), 1, pair, other);
  EXPECT_LT(same, 10);  // Of 120 subsets.
}

TEST(HardNegatives, EveryTextStandsOnceAndAnswersAreGathered) {
  const MiningSet set = make_mining_set({{"q", "b"}, {"r", "a"}, {"q", "a"}, {"q", "b"}, {"a", "c"}});
  EXPECT_THAT(set.texts, ElementsAre("b", "a", "c"));
  EXPECT_EQ(set.candidates, 3);
  EXPECT_THAT(set.query_of, ElementsAre(0, 1, 0, 0, 2));
  EXPECT_THAT(set.answers, ElementsAre(ElementsAre(0, 1), ElementsAre(1), ElementsAre(2)));
  EXPECT_THAT(set.own_row, ElementsAre(-1, -1, 1));
  const std::vector<std::string> corpus = {"x", "a", "x", "y"};
  const MiningSet wide = make_mining_set({{"q", "b"}, {"q", "a"}}, corpus);
  EXPECT_THAT(wide.texts, ElementsAre("x", "a", "y", "b"));
  EXPECT_EQ(wide.candidates, 3);
  EXPECT_THAT(wide.answers, ElementsAre(ElementsAre(1, 3)));
}

TEST(HardNegatives, BadSetsAreNamed) {
  using Texts = std::vector<std::string>;
  EXPECT_THAT([] { (void)make_mining_set({}); }, ThrowsMessage<DataError>(HasSubstr("no pairs")));
  EXPECT_THAT(
      [] {
        (void)make_mining_set({{"q", "a"}, {"q", ""}});
      },
      ThrowsMessage<DataError>(HasSubstr("pair 1 has an empty side")));
  EXPECT_THAT(
      [] {
        (void)make_mining_set({{"q", "q"}});
      },
      ThrowsMessage<DataError>(HasSubstr("both sides of pair 0 are the same")));
  EXPECT_THAT(
      [] {
        (void)make_mining_set({{"q", "a"}}, Texts{});
      },
      ThrowsMessage<DataError>(HasSubstr("the corpus has no texts")));
  EXPECT_THAT(
      [] {
        (void)make_mining_set({{"q", "a"}}, Texts{"x", ""});
      },
      ThrowsMessage<DataError>(HasSubstr("text 1 of the corpus is empty")));
}

TEST(HardNegatives, BadOptionsAreNamed) {
  const auto refused = [](const HardNegativeOptions& options, const char* part) {
    EXPECT_THAT([&] { check_options(options); }, ThrowsMessage<ConfigError>(HasSubstr(part))) << part;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  refused({.negatives = 0}, "negatives must be at least 1, not 0");
  refused({.rank_from = -1}, "rank_from must be at least 0, not -1");
  refused({.negatives = 4, .rank_from = 7, .rank_to = 10}, "hold fewer than 4 candidates");
  refused({.max_score = nan}, "max_score must be a finite number");
  refused({.margin = -0.1}, "margin must be at least 0");
  refused({.margin = nan}, "margin must be a finite number");
  refused({.relative_margin = 1.5}, "relative_margin must be at least 0 and at most 1, not 1.5");
  refused({.sampling = "best"}, "sampling: 'best' is none of top, random");
  refused({.similarity = "l2"}, "similarity: 'l2' is none of cosine, dot");
}

/// 40 queries, 60 texts; query i has text i as its answer, and every fourth also text 40 + i.
class DenseMining : public ::testing::Test {
 protected:
  DenseMining() {
    std::vector<MiningPair> pairs;
    for (int i = 0; i < 40; ++i) {
      pairs.push_back({"q" + std::to_string(i), "t" + std::to_string(i)});
      if (i % 4 == 0) pairs.push_back({"q" + std::to_string(i), "t" + std::to_string(40 + i)});
    }
    set_ = make_mining_set(pairs);
    const std::int64_t texts = static_cast<std::int64_t>(set_.texts.size());
    texts_ = random_rows(texts, 8, 1);
    const at::Tensor unlike = random_rows(40, 8, 2);
    queries_ = at::zeros({static_cast<std::int64_t>(pairs.size()), 8});
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const std::int64_t query = set_.query_of[i];
      queries_.select(0, static_cast<std::int64_t>(i))
          .copy_(unlike.select(0, query) +
                 texts_.select(0, set_.answers[static_cast<std::size_t>(query)][0]));
    }
  }

  /// By the definition.
  [[nodiscard]] HardNegatives expected(const HardNegativeOptions& options) const {
    HardNegatives all;
    for (std::size_t i = 0; i < set_.pairs.size(); ++i) {
      const auto& answers = set_.answers[static_cast<std::size_t>(set_.query_of[i])];
      std::vector<RankedText> ranked;
      double lowest = 2;
      for (std::int64_t row = 0; row < texts_.size(0); ++row) {
        const at::Tensor query = queries_.select(0, static_cast<std::int64_t>(i)).to(at::kDouble);
        const at::Tensor text = texts_.select(0, row).to(at::kDouble);
        const double score =
            ((query * text).sum() / (at::linalg_vector_norm(query) * at::linalg_vector_norm(text)))
                .item<double>();
        const bool answer = std::count(answers.begin(), answers.end(), row) > 0;
        if (answer) lowest = std::min(lowest, score);
        if (!answer && row < set_.candidates) ranked.push_back({row, score});
      }
      std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
      all.push_back(choose_negatives(ranked, highest_negative_score(lowest, options),
                                     static_cast<std::int64_t>(i), options));
    }
    return all;
  }

  MiningSet set_;
  at::Tensor texts_;
  at::Tensor queries_;
};

TEST_F(DenseMining, IsItsDefinitionWhateverTheBlocks) {
  for (const HardNegativeOptions& options :
       {HardNegativeOptions{.negatives = 5},
        HardNegativeOptions{.negatives = 2, .rank_from = 3, .rank_to = 9},
        HardNegativeOptions{.negatives = 6, .margin = 0.05}, HardNegativeOptions{.relative_margin = 0.3},
        HardNegativeOptions{.max_score = 0.1},
        HardNegativeOptions{
            .negatives = 3, .rank_from = 1, .rank_to = 20, .margin = 0, .sampling = "random"}}) {
    const HardNegatives whole = mine_dense(set_, 0, queries_, texts_, options);
    EXPECT_EQ(whole, expected(options));
    HardNegatives parts;
    for (std::int64_t first = 0; first < queries_.size(0); first += 7) {
      const std::int64_t count = std::min<std::int64_t>(7, queries_.size(0) - first);
      const HardNegatives part = mine_dense(set_, first, queries_.narrow(0, first, count), texts_, options);
      parts.insert(parts.end(), part.begin(), part.end());
    }
    EXPECT_EQ(parts, whole);
  }
}

TEST_F(DenseMining, NeverAnAnswerNorTheQueryItself) {
  // Every answer is nearest, the query's own text next.
  const MiningSet set = make_mining_set({{"q", "a"}, {"q", "b"}, {"r", "q"}, {"r", "c"}});
  ASSERT_THAT(set.texts, ElementsAre("a", "b", "q", "c"));
  const at::Tensor texts = at::zeros({4, 2});
  const float rows[4][2] = {{1, 0}, {1, 0.1F}, {1, 0.2F}, {0, 1}};
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 2; ++j) texts.mutable_data_ptr<float>()[2 * i + j] = rows[i][j];
  const at::Tensor queries = texts.narrow(0, 0, 1).expand({4, 2}).contiguous();
  EXPECT_THAT(mine_dense(set, 0, queries, texts, {}),
              ElementsAre(ElementsAre(3), ElementsAre(3), ElementsAre(0, 1), ElementsAre(0, 1)));
}

TEST_F(DenseMining, FillDrawsOthersBehindWhatWasFound) {
  HardNegativeOptions options{.negatives = 6, .max_score = -0.6};
  const HardNegatives found = mine_dense(set_, 0, queries_, texts_, options);
  options.fill = true;
  const HardNegatives full = mine_dense(set_, 0, queries_, texts_, options);
  EXPECT_EQ(full, mine_dense(set_, 0, queries_, texts_, options));
  std::size_t drawn = 0;
  std::set<std::int64_t> different;
  for (std::size_t i = 0; i < full.size(); ++i) {
    ASSERT_THAT(full[i], SizeIs(6));
    ASSERT_TRUE(std::equal(found[i].begin(), found[i].end(), full[i].begin()));
    EXPECT_EQ(std::set<std::int64_t>(full[i].begin(), full[i].end()).size(), 6U);
    const auto& answers = set_.answers[static_cast<std::size_t>(set_.query_of[i])];
    for (const std::int64_t row : full[i]) EXPECT_EQ(std::count(answers.begin(), answers.end(), row), 0);
    drawn += 6 - found[i].size();
    different.insert(full[i].begin() + static_cast<std::ptrdiff_t>(found[i].size()), full[i].end());
  }
  EXPECT_GT(drawn, 30U);
  EXPECT_GT(different.size(), 20U);
}

TEST_F(DenseMining, ShapesThatDoNotFitAreRefused) {
  EXPECT_THROW((void)mine_dense(set_, 0, queries_, texts_.narrow(0, 0, 5), {}), StateError);
  EXPECT_THROW((void)mine_dense(set_, 20, queries_, texts_, {}), StateError);
  EXPECT_THROW((void)mine_dense(set_, 0, queries_, texts_, {.negatives = 0}), ConfigError);
  texts_.select(0, 3).fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT([&] { (void)mine_dense(set_, 0, queries_, texts_, {}); },
              ThrowsMessage<DataError>(HasSubstr("candidate 3 has NaN")));
}

TEST(Bm25Mining, FindsTextsThatShareWordsAndKeepsTheMargin) {
  const std::vector<MiningPair> pairs = {{"red apple", "the apple is red"},
                                         {"blue sky", "the sky is blue"},
                                         {"green tree", "la manzana"},
                                         {"word that nobody has", "apple sky tree"}};
  const std::vector<std::string> corpus = {"a red house", "red red apple pie", "the apple is red",
                                           "blue whale",  "green green tree",  "one more tree"};
  const MiningSet set = make_mining_set(pairs, corpus);
  const Bm25 index(set.texts);
  HardNegatives found = mine_bm25(set, 0, 4, index, {.negatives = 2});
  EXPECT_THAT(found, ElementsAre(ElementsAre(1, 0), ElementsAre(3), ElementsAre(4, 5), IsEmpty()));
  // Positives outside the corpus are never negatives, though they share words.
  for (const auto& rows : found) EXPECT_THAT(rows, Each(::testing::Lt(set.candidates)));
  EXPECT_EQ(mine_bm25(set, 2, 1, index, {.negatives = 2}), HardNegatives({{4, 5}}));
  // The answer "la manzana" shares no word with its query: it scores 0 and no text scores less.
  found = mine_bm25(set, 0, 4, index, {.negatives = 2, .margin = 0.01});
  EXPECT_THAT(found[2], IsEmpty());
  EXPECT_THAT(found[0], ElementsAre(0));  // "red red apple pie" scores more than the answer.
  EXPECT_THROW((void)mine_bm25(set, 2, 3, index, {}), StateError);
}

TEST(Bm25Mining, FillGivesAsManyAsThereAreCandidatesFor) {
  const std::vector<std::string> corpus = {"one", "two", "answer", "query"};
  const MiningSet set =
      make_mining_set({{"query", "answer"}, {"query", "outside"}, {"other", "one"}}, corpus);
  const Bm25 index(set.texts);
  const HardNegatives found = mine_bm25(set, 0, 3, index, {.negatives = 5, .fill = true});
  EXPECT_THAT(found, ElementsAre(::testing::UnorderedElementsAre(0, 1), ::testing::UnorderedElementsAre(0, 1),
                                 ::testing::UnorderedElementsAre(1, 2, 3)));
}

}  // namespace
}  // namespace bitrain::eval
