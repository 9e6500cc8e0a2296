#include <bitrain/recipe/stage_kinds.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

/// What a stage leaves, who can read it, and what is read where nothing is said.
namespace bitrain::recipe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

struct Read {
  Recipe recipe;
  std::vector<std::string> problems;
  [[nodiscard]] std::vector<std::string> links() const {
    std::vector<std::string> result;
    for (const Stage& stage : recipe.stages) result.push_back(stage.name + "<" + stage.from);
    return result;
  }
};

/// Stages from line 6 on, or 7 with more lines above.
Read read(const std::string& stages, const std::string& more = "base: b\n") {
  Problems problems;
  Read result;
  result.recipe = read_recipe(
      parse_yaml("schema: 1\nname: t\nsource: {path: a.tsv, language: en}\ntarget: {path: a.tsv, language: "
                 "es}\n" +
                     more + "stages:\n" + stages,
                 "r.yaml"),
      "r.yaml", problems);
  for (const Problem& problem : problems.list()) result.problems.push_back(problem.text());
  return result;
}

constexpr const char* kCpt = "{recipe: cpt, lora: {target_modules: [q_proj]}, train: {max_steps: 1}}\n";

TEST(DefaultInput, IsTheLastThatLeavesWhatIsNeeded) {
  const Read got = read(std::string("  score: {recipe: evaluate}\n  extend: {recipe: extend_vocab}\n") +
                        "  score2: {recipe: evaluate}\n  adapt: " + kCpt + "  score3: {recipe: evaluate}\n" +
                        "  mexa: {recipe: evaluate_mexa}\n  merge: {recipe: merge}\n  again: " + kCpt);
  EXPECT_THAT(got.problems, IsEmpty());
  EXPECT_THAT(got.links(), ElementsAre("score<base", "extend<base", "score2<extend", "adapt<extend",
                                       "score3<adapt", "mexa<adapt", "merge<adapt", "again<merge"));
  // An adapter is no model to train on: the model it was trained on is read again.
  EXPECT_THAT(read(std::string("  one: ") + kCpt + "  two: " + kCpt).links(),
              ElementsAre("one<base", "two<base"));
}

TEST(DefaultInput, OfEncoders) {
  const Read got = read(R"(  before: {recipe: evaluate_retrieval, collections: [{path: c}]}
  words: {recipe: evaluate_retrieval, encoder: false, collections: [{path: c}]}
  mine: {recipe: mine_negatives, bm25: true, pairs: {path: p.jsonl}}
  rank: {recipe: cross_encoder, files: [{stage: mine}], train: {max_steps: 1}}
  align: {recipe: contrastive, train: {max_steps: 1}}
  after: {recipe: evaluate_retrieval, rerank: rank, collections: [{path: c}]}
  late: {recipe: late_interaction, files: [{stage: mine}], train: {max_steps: 1}}
  search: {recipe: evaluate_retrieval, collections: [{path: c}]}
  pairs: {recipe: evaluate_encoder}
)");
  EXPECT_THAT(got.problems, IsEmpty());
  EXPECT_THAT(got.links(), ElementsAre("before<base", "words<", "mine<", "rank<base", "align<base",
                                       "after<align", "late<align", "search<late", "pairs<align"));
}

TEST(DefaultInput, OrThereIsNothingToRead) {
  EXPECT_THAT(read(std::string("  tok: {recipe: tokenizer}\n  adapt: ") + kCpt, "").problems,
              ElementsAre(AllOf(StartsWith("r.yaml:7:3: stages.adapt.from: there is nothing to read from"),
                                HasSubstr("set base=DIR"), HasSubstr("that leaves a language model"))));
}

TEST(Kinds, AStageThatLeavesNoModelIsNamedWithThoseThatDo) {
  const Read got = read(std::string("  extend: {recipe: extend_vocab}\n  score: {recipe: evaluate}\n") +
                        "  adapt:\n    recipe: cpt\n    from: score\n    lora: {target_modules: [q_proj]}\n"
                        "    train: {max_steps: 1}\n");
  EXPECT_THAT(got.problems,
              ElementsAre("r.yaml:11:5: stages.adapt.from: 'score' is a stage of type evaluate, which leaves "
                          "nothing to read from; wanted is a language model: there is 'extend'"));
  EXPECT_THAT(read(std::string("  one: ") + kCpt +
                   "  two: {recipe: sft, from: one, lora: {target_modules: [q_proj]}, files: [c.jsonl], "
                   "train: {max_steps: 1}}\n")
                  .problems,
              ElementsAre(HasSubstr("type cpt, which leaves an adapter; wanted is a language model: no stage "
                                    "before it leaves one")));
  EXPECT_THAT(read("  score: {recipe: evaluate_encoder}\n  t: {recipe: contrastive, teacher: score, "
                   "objective: {distill_text: 1}, train: {max_steps: 1}}\n")
                  .problems,
              ElementsAre(AllOf(StartsWith("r.yaml:8:"), HasSubstr("stages.t.teacher: 'score'"),
                                HasSubstr("wanted is a sentence encoder"))));
}

/// Every kind of stage behind every other: what is accepted is what the default rule would take.
TEST(Kinds, RuleAndDefaultAgree) {
  for (const StageType& writer : stage_types()) {
    for (const StageType& reader : stage_types()) {
      const std::vector<Leaves> kinds = reads(reader.defaults);
      if (kinds.empty()) continue;
      const std::vector<Stage> before = {{"w", writer.type, "", writer.defaults}};
      const Stage stage{"r", reader.type, "w", reader.defaults};
      Problems problems;
      check_kinds(stage, before, Node{}, problems);
      EXPECT_EQ(problems.empty(), default_input(reader.defaults, before, false) == "w")
          << reader.type << " from " << writer.type;
      EXPECT_EQ(default_input(reader.defaults, {}, true), "base") << reader.type;
    }
  }
}

TEST(Kinds, FromWhereNothingIsRead) {
  EXPECT_THAT(read("  a: {recipe: tokenizer}\n  b: {recipe: tokenizer, from: a}\n", "").problems,
              ElementsAre(HasSubstr("stages.b.from: a stage of type tokenizer reads from no other")));
}

TEST(Evaluations, WhatLooksAtThemNeedsSome) {
  const auto with = [](const std::string& stage, const std::string& train) {
    return read("  x: {recipe: " + stage + ", train: {max_steps: 4, " + train + "}}\n").problems;
  };
  const std::string similarity = "similarity, files: [{path: s.jsonl}]";
  const std::string pairs = ", files: [{path: p.jsonl}]";
  EXPECT_THAT(with(similarity, "eval_every: 2, keep_best: true"),
              ElementsAre(AllOf(HasSubstr("stages.x.train.eval_every: nothing is evaluated on the way"),
                                HasSubstr("put a stage evaluate_similarity behind it")),
                          HasSubstr("stages.x.train.keep_best: nothing is evaluated")));
  EXPECT_THAT(with("late_interaction" + pairs, "eval_at_start: true"),
              ElementsAre(HasSubstr("stages.x.train.eval_at_start: nothing is evaluated")));
  EXPECT_THAT(with("cross_encoder" + pairs, "eval_every: 2"),
              ElementsAre(HasSubstr("put a stage evaluate_retrieval behind it")));
  EXPECT_THAT(with("contrastive", "eval_every: 2, keep_best: true"), IsEmpty());
  EXPECT_THAT(with("contrastive", "keep_best: true"),
              ElementsAre(HasSubstr("there are none: set train.eval_every")));
  const std::string train = ", train: {max_steps: 4, eval_every: 2}}\n";
  const std::string two_files =
      "schema: 1\nname: t\nbase: b\nsource: {path: a.txt, language: en}\n"
      "target: {path: b.txt, language: es}\nstages:\n  x: {recipe: context_prediction" +
      train;
  const std::string no_lines =
      "schema: 1\nname: t\nbase: b\nsource: {language: en}\ntarget: {language: es}\nstages:\n"
      "  x: {recipe: contrastive, pairs: false" +
      pairs + train;
  for (const std::string& text : {two_files, no_lines}) {
    Problems problems;
    (void)read_recipe(parse_yaml(text, "r.yaml"), "r.yaml", problems);
    ASSERT_EQ(problems.list().size(), 1U) << text;
    EXPECT_THAT(problems.list()[0].text(),
                AllOf(HasSubstr("x.train.eval_every: nothing is evaluated"), HasSubstr("that takes")));
  }
}

}  // namespace
}  // namespace bitrain::recipe
