#include <bitrain/eval/rerank.h>

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <support/tiny_bert.h>
#include <support/toy_tokenizers.h>

namespace bitrain::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::shared_ptr<const text::HfTokenizer> letters() {
  std::vector<std::string> pieces;
  for (char c = 'a'; c <= 'r'; ++c) pieces.emplace_back(1, c);
  return testing::toy_wordpiece(pieces);
}

class Rerank : public ::testing::Test {
 protected:
  [[nodiscard]] double score(const std::string& query, const std::string& document) const {
    return score_text_pairs(*model_, *letters(), {{query, document}}).item<double>();
  }
  static std::vector<std::string> ids(const std::vector<Hit>& hits) {
    std::vector<std::string> names;
    for (const Hit& hit : hits) names.push_back(hit.document);
    return names;
  }

  std::unique_ptr<models::CrossEncoder> model_ = models::with_fresh_head(testing::tiny_bert(), 5);
  RetrievalSet set_ = {{{"1", "a", "b c"}, {"2", "", "d"}, {"3", "", "e f g h"}, {"4", "", "d"}},
                       {{"q", "", "k l"}, {"r", "", "m"}},
                       {}};
};

TEST_F(Rerank, BatchesChangeNoScore) {
  const std::vector<TextPair> pairs = {{"k l", "a b c"}, {"m", "d"}, {"k l", "e f g h"}, {"m", "r q p o"}};
  const at::Tensor whole = score_text_pairs(*model_, *letters(), pairs);
  RerankOptions options;
  options.tokens_per_batch = 1;
  EXPECT_LT((score_text_pairs(*model_, *letters(), pairs, options) - whole).abs().max().item<float>(), 1e-5);
  EXPECT_GT(whole.std().item<float>(), 1e-3);
  // Both texts and their order count.
  EXPECT_NE(score("k l", "d"), score("d", "k l"));
  options.max_length = 4;
  EXPECT_THAT([&] { (void)score_text_pairs(*model_, *letters(), pairs, options); },
              ThrowsMessage<ConfigError>(HasSubstr("no room for two texts")));
}

TEST_F(Rerank, OrdersTheFirstHitsByTheModelsScores) {
  const RetrievalRun run = {{"q", {{"3", 9}, {"1", 8}, {"2", 7}}}, {"r", {{"4", 3}, {"2", 2}}}};
  const RetrievalRun ordered = rerank(*model_, *letters(), set_, run);
  std::vector<Hit> expected = {
      {"1", score("k l", "a b c")}, {"2", score("k l", "d")}, {"3", score("k l", "e f g h")}};
  std::sort(expected.begin(), expected.end(), [](const Hit& a, const Hit& b) { return a.score > b.score; });
  EXPECT_EQ(ids(ordered.at("q")), ids(expected));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(ordered.at("q")[i].score, expected[i].score, 1e-5);
  EXPECT_THAT(ids(ordered.at("r")), ElementsAre("4", "2"));  // Of the same text: as they were found.
}

TEST_F(Rerank, HitsBeyondTheDepthStayBehindInTheirOrder) {
  const RetrievalRun run = {{"q", {{"3", 9}, {"1", 8}, {"2", 7}, {"4", 6}}}, {"r", {}}};
  RerankOptions options;
  options.depth = 2;
  const RetrievalRun ordered = rerank(*model_, *letters(), set_, run, options);
  const std::vector<Hit>& hits = ordered.at("q");
  EXPECT_THAT((std::vector<std::string>{hits[2].document, hits[3].document}), ElementsAre("2", "4"));
  for (std::size_t i = 1; i < 4; ++i) EXPECT_GT(hits[i - 1].score, hits[i].score);
  EXPECT_TRUE(ordered.at("r").empty());  // A query without candidates has none afterwards.
}

TEST_F(Rerank, RunsOfOtherSetsAreNamed) {
  EXPECT_THAT(
      [&] {
        (void)rerank(*model_, *letters(), set_, {{"q", {{"9", 1}}}});
      },
      ThrowsMessage<DataError>(HasSubstr("there is no document '9'")));
  EXPECT_THAT(
      [&] {
        (void)rerank(*model_, *letters(), set_, {{"x", {{"1", 1}}}});
      },
      ThrowsMessage<DataError>(HasSubstr("there is no query 'x'")));
}

}  // namespace
}  // namespace bitrain::eval
