#include <bitrain/eval/bilingual_lexicon.h>

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/alignment.h>
#include <eval/hub_spaces.h>

namespace bitrain::eval {
namespace {

using ::testing::HasSubstr;

at::Tensor ids(const std::vector<std::int64_t>& rows) {
  return at::tensor(rows);
}

/// Word i translates to word i, for i from `first` to `last`.
Lexicon identity(std::int64_t first, std::int64_t last) {
  const at::Tensor rows = at::arange(first, last, at::TensorOptions().dtype(at::kLong));
  return {rows, rows, last - first, last - first};
}

TEST(BilingualLexicon, ScoresByHand) {
  // Six directions in a plane, 0 to 50 degrees.
  std::vector<float> flat;
  for (int i = 0; i < 6; ++i) {
    flat.push_back(static_cast<float>(std::cos(i * 10 * 0.0174533)));
    flat.push_back(static_cast<float>(std::sin(i * 10 * 0.0174533)));
  }
  const at::Tensor targets = at::tensor(flat).view({6, 2});
  const at::Tensor sources = targets.narrow(0, 0, 2) * 3.0;  // Length does not matter.
  // Word 0 ranks 0, 1, 2, 3, 4, 5; 5 or 2 is right: third. Word 1 ranks 1 first.
  const Lexicon lexicon{ids({0, 1, 0}), ids({5, 1, 2}), 8, 2};
  const LexiconScores scores = score_lexicon(sources, targets, lexicon, {.csls_neighbours = 0});
  EXPECT_DOUBLE_EQ(scores.precision_at_1, 0.5);
  EXPECT_DOUBLE_EQ(scores.precision_at_5, 1);
  EXPECT_DOUBLE_EQ(scores.mrr, (1.0 / 3 + 1) / 2);
  EXPECT_DOUBLE_EQ(scores.coverage, 0.25);
  EXPECT_EQ(scores.words, 2);
  // Sixth: found, and beyond P@5.
  const LexiconScores last =
      score_lexicon(sources, targets, {ids({0}), ids({5}), 1, 1}, {.csls_neighbours = 0});
  EXPECT_DOUBLE_EQ(last.precision_at_5, 0);
  EXPECT_DOUBLE_EQ(last.mrr, 1.0 / 6);
  EXPECT_DOUBLE_EQ(
      score_lexicon(sources, targets, {ids({0}), ids({5}), 1, 1}, {.cutoff = 5, .csls_neighbours = 0}).mrr,
      0);
}

TEST(BilingualLexicon, CslsIsTheFormulaOverWholeVocabularies) {
  const at::Tensor sources = draw(700, 12, "sources") + 0.5;
  const at::Tensor targets = draw(5000, 12, "targets") + 0.5;  // More than a block.
  const at::Tensor cosine = at::matmul(unit(sources), unit(targets).t());
  const at::Tensor of_sources = std::get<0>(cosine.topk(10, 1)).mean(1, true);
  const at::Tensor of_targets = std::get<0>(cosine.topk(10, 0)).mean(0, true);
  const at::Tensor queries = ids({3, 699, 40, 3});
  const at::Tensor expected = (cosine * 2 - of_sources - of_targets).index_select(0, queries);
  const Neighbours found = translate_words(sources, targets, queries);
  EXPECT_EQ(found.rows.sizes(), (at::IntArrayRef{4, 10}));
  EXPECT_LT(distance(found.scores, std::get<0>(expected.topk(10, 1))), 1e-5);
  EXPECT_LT(distance(expected.gather(1, found.rows), found.scores), 1e-5);
}

TEST(BilingualLexicon, RecoversTheHiddenRotation) {
  const HubSpaces spaces = hub_spaces(0);
  const at::Tensor found = procrustes(spaces.sources.narrow(0, 0, 1000), spaces.targets.narrow(0, 0, 1000));
  EXPECT_LT(distance(found, spaces.rotation), 1e-4);
  for (const std::int64_t csls : {0, 10}) {
    const LexiconScores scores = score_lexicon(at::matmul(spaces.sources, found), spaces.targets,
                                               identity(1000, 2000), {.csls_neighbours = csls});
    EXPECT_GE(scores.precision_at_1, 0.99);
    EXPECT_DOUBLE_EQ(scores.coverage, 1);
  }
}

TEST(BilingualLexicon, CslsHoldsHubsDown) {
  const HubSpaces spaces = hub_spaces(0.15);
  const at::Tensor mapped = at::matmul(
      spaces.sources, procrustes(spaces.sources.narrow(0, 0, 1000), spaces.targets.narrow(0, 0, 1000)));
  const LexiconScores nearest =
      score_lexicon(mapped, spaces.targets, identity(1000, 2000), {.csls_neighbours = 0});
  const LexiconScores csls = score_lexicon(mapped, spaces.targets, identity(1000, 2000));
  EXPECT_GT(csls.precision_at_1, nearest.precision_at_1 + 0.05);
  EXPECT_GT(csls.precision_at_5, nearest.precision_at_5);
  EXPECT_GT(csls.mrr, nearest.mrr);
}

TEST(BilingualLexicon, RefusesWhatCannotBeScored) {
  const at::Tensor sources = draw(8, 4, "sources");
  const at::Tensor targets = draw(9, 4, "targets");
  const auto refused = [&](const at::Tensor& left, const at::Tensor& right, const Lexicon& lexicon) {
    return message_of<DataError>([&] { (void)score_lexicon(left, right, lexicon); });
  };
  at::Tensor broken = targets.clone();
  broken[4][1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(refused(sources, broken, identity(0, 8)), HasSubstr("the target words: row 4 has NaN"));
  EXPECT_THAT(refused(sources, targets.narrow(0, 0, 1).expand({9, 4}), identity(0, 8)),
              HasSubstr("all 9 rows are equal"));
  broken = sources.clone();
  broken[2].zero_();
  EXPECT_THAT(refused(broken, targets, identity(0, 8)), HasSubstr("row 2 is all zero"));
  EXPECT_THAT(refused(sources, targets, identity(0, 9)),
              HasSubstr("source words name rows 0 to 8; there are 8"));
  EXPECT_THAT(refused(sources, targets, {ids({0}), ids({-1}), 1, 1}), HasSubstr("target words name rows -1"));
  EXPECT_THAT(refused(sources, targets, identity(0, 0)), HasSubstr("there are no source words"));
  EXPECT_THROW((void)score_lexicon(sources, draw(9, 5, "y"), identity(0, 8)), StateError);
  EXPECT_THROW((void)score_lexicon(sources, targets, {ids({0, 1}), ids({0}), 2, 2}), StateError);
  EXPECT_THROW((void)score_lexicon(sources, targets, {}), StateError);
  EXPECT_THROW((void)score_lexicon(sources.narrow(0, 0, 0), targets, identity(0, 0)), Error);
  EXPECT_THROW((void)score_lexicon(sources.to(at::kDouble), targets, identity(0, 8)), StateError);
  EXPECT_THROW((void)score_lexicon(sources, targets, identity(0, 8), {.cutoff = 4}), ConfigError);
  EXPECT_THROW((void)score_lexicon(sources, targets, identity(0, 8), {.csls_neighbours = -1}), ConfigError);
}

}  // namespace
}  // namespace bitrain::eval
