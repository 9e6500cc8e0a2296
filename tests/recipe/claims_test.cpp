#include <bitrain/recipe/claims.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/recipe/recipe.h>

namespace bitrain::recipe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const io::Json kStages = io::Json::parse(
    R"({"before": {"search": {"help-en": {"bm25": {"mrr@10": 0.4}}}}, "after": {"accuracy": 0.5, "steps": 7, "nothing": null}})");

ClaimOptions claim(std::string that, std::string ClaimOptions::*relation, std::string bound) {
  ClaimOptions options;
  options.says = "so it is";
  options.that = std::move(that);
  options.*relation = std::move(bound);
  return options;
}

TEST(Claims, CompareFiguresWithNumbersAndWithEachOther) {
  const std::string words = "before/search/help-en/bm25/mrr@10";
  const io::Json checked = check_claims(
      {claim("after/accuracy", &ClaimOptions::above, words),
       claim("after/accuracy", &ClaimOptions::above, "0.5"),
       claim("after/accuracy", &ClaimOptions::at_least, "0.5"),
       claim("after/steps", &ClaimOptions::below, "7"), claim("after/steps", &ClaimOptions::at_most, "7e0")},
      kStages);
  ASSERT_EQ(checked.size(), 5U);
  const std::vector<bool> expected = {true, false, true, false, true};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(checked[i]["held"], expected[i]) << i;
  EXPECT_EQ(checked[0]["value"], 0.5);
  EXPECT_EQ(checked[0]["bound_value"], 0.4);
  EXPECT_EQ(checked[0]["relation"], "above");
  EXPECT_EQ(checked[0]["bound"], words);
}

TEST(Claims, WhatIsNotThereHoldsNothing) {
  for (const char* path : {"after/nothing", "after/none", "after/accuracy/more", "after", "nowhere/at"}) {
    const io::Json checked = check_claims({claim(path, &ClaimOptions::at_most, "1")}, kStages);
    EXPECT_EQ(checked[0]["held"], false) << path;
    EXPECT_TRUE(checked[0]["value"].is_null()) << path;
  }
}

TEST(Claims, ProblemsAreSaidBeforeTheRun) {
  const std::vector<std::string> stages = {"before", "after"};
  EXPECT_EQ(problem_of(claim("after/a", &ClaimOptions::above, "before/b"), stages), "");
  EXPECT_EQ(problem_of(claim("after/a", &ClaimOptions::above, "-0.5"), stages), "");
  EXPECT_THAT(problem_of(claim("aftre/a", &ClaimOptions::above, "1"), stages),
              HasSubstr("did you mean 'after'"));
  EXPECT_THAT(problem_of(claim("after/a", &ClaimOptions::above, "one"), stages),
              HasSubstr("'one' is no number"));
  EXPECT_THAT(problem_of(claim("after/a", &ClaimOptions::above, "nan"), stages), HasSubstr("is no number"));
  EXPECT_THAT(problem_of(claim("3", &ClaimOptions::above, "1"), stages), HasSubstr("not the number 3"));
  ClaimOptions none = claim("after/a", &ClaimOptions::above, "");
  EXPECT_THAT(problem_of(none, stages), HasSubstr("needs one of"));
  none.above = none.below = "1";
  EXPECT_THAT(problem_of(none, stages), HasSubstr("needs one of"));
}

TEST(Claims, StandInARecipeWithTheirPlace) {
  const std::string head = "schema: 1\nname: c\nsource: {language: en}\ntarget: {language: es}\nbase: m\n";
  const std::string stages = "stages: {search: {recipe: merge}}\n";
  const auto problems = [&](const std::string& claims) {
    Problems found;
    (void)read_recipe(parse_yaml(head + claims + stages, "r.yaml"), "r.yaml", found);
    std::vector<std::string> texts;
    for (const Problem& problem : found.list()) texts.push_back(problem.text());
    return texts;
  };
  EXPECT_THAT(problems("claims:\n  - {says: a, that: search/x, above: 0.5}\n"), IsEmpty());
  EXPECT_THAT(
      problems(
          "claims:\n  - {says: a, that: search/x, above: 0.5}\n  - {says: b, that: serch/x, above: 1}\n"),
      ElementsAre(HasSubstr("r.yaml:8:5: claims[1]: 'serch/x' is no number")));
  EXPECT_THAT(problems("claims:\n  - {that: search/x, above: 1}\n"),
              ElementsAre(HasSubstr("says: is missing")));
}

}  // namespace
}  // namespace bitrain::recipe
