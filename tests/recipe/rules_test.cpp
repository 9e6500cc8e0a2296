#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/recipe/explain.h>
#include <bitrain/recipe/recipe.h>

/// Rules that look at several values of a recipe together: each with the line of what is wrong.
namespace bitrain::recipe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::vector<std::string> problems_of(const std::string& text) {
  Problems problems;
  (void)read_recipe(parse_yaml(text, "r.yaml"), "r.yaml", problems);
  std::vector<std::string> texts;
  for (const Problem& problem : problems.list()) texts.push_back(problem.text());
  return texts;
}

/// Stages from line 7 on.
std::vector<std::string> problems_with(const std::string& stages) {
  return problems_of(
      "schema: 1\nname: t\nbase: b\nsource: {path: a.tsv, language: en}\ntarget: {path: a.tsv, language: "
      "es}\n"
      "stages:\n" +
      stages);
}

TEST(StepRules, WarmUpMustFitIntoTheRun) {
  const auto first = [](const std::string& train) {
    return problems_with("  first:\n    recipe: cpt\n    lora: {target_modules: [q_proj]}\n    train:\n" +
                         train);
  };
  EXPECT_THAT(first("      max_steps: 8\n      schedule: {warmup_steps: 8}\n"), IsEmpty());
  EXPECT_THAT(first("      max_steps: 8\n      schedule:\n        warmup_steps: 9\n"),
              ElementsAre(AllOf(StartsWith("r.yaml:13:9: stages.first.train.schedule.warmup_steps: "),
                                HasSubstr("9 steps of warm-up do not fit into 8 steps"))));
  for (const char* type : {"constant", "linear", "cosine", "wsd", "inverse_sqrt"})
    EXPECT_THAT(
        first(std::string("      max_steps: 8\n      schedule: {type: ") + type + ", warmup_steps: 9}\n"),
        ElementsAre(AllOf(StartsWith("r.yaml:12:"), HasSubstr("do not fit into 8 steps"))))
        << type;
  EXPECT_THAT(first("      max_steps: 8\n      schedule: {warmup_ratio: 1.0}\n"), IsEmpty());
  EXPECT_THAT(first("      max_steps: 8\n      schedule: {type: wsd, warmup_ratio: 0.5, decay_ratio: 0.6}\n"),
              ElementsAre(AllOf(HasSubstr("train.schedule.warmup_ratio"), HasSubstr("of decay"))));
  EXPECT_THAT(first("      max_steps: 8\n      schedule: {type: wsd, decay_ratio: 1.0}\n"), IsEmpty());
  EXPECT_THAT(first("      max_steps: 8\n      schedule: {type: wsd, decay_ratio: 1.0, warmup_steps: 1}\n"),
              ElementsAre(HasSubstr("do not fit")));
  EXPECT_THAT(first("      max_steps: 8\n      schedule: {type: inverse_sqrt}\n"),
              ElementsAre(AllOf(HasSubstr("train.schedule.type"), HasSubstr("needs warm-up"))));
  // Steps that come from tokens: 8 rows of 512 are 4096 a step.
  EXPECT_THAT(problems_with("  first: {recipe: cpt, lora: {target_modules: [q_proj]}, data: {loader: "
                            "{sequence_length: 512, rows_per_step: 8}}, train: {max_tokens: 8193, schedule: "
                            "{warmup_steps: 4}}}\n"),
              ElementsAre(HasSubstr("4 steps of warm-up do not fit into 3 steps")));
}

TEST(StepRules, AreThoseOfEveryStageThatTrains) {
  int trained = 0;
  for (StageType& type : stage_types()) {
    if (!training_of(type.defaults)) continue;
    ++trained;
    EXPECT_THAT(problems_with(std::string("  x:\n    recipe: ") + type.type +
                              "\n    train: {max_steps: 3, schedule: {warmup_steps: 4}}\n"),
                testing::Contains(HasSubstr("x.train.schedule.warmup_steps: schedule: 4 steps")))
        << type.type;
  }
  EXPECT_EQ(trained, 10);
}

TEST(StepRules, EarlyStoppingNeedsEvaluationsOnTheWay) {
  const std::string stage =
      "  x:\n    recipe: pretrain\n    train: {max_steps: 3, early_stopping_patience: 2";
  EXPECT_THAT(problems_with(stage + "}\n"),
              ElementsAre(HasSubstr("x.train.early_stopping_patience: looks at")));
  EXPECT_THAT(problems_with(stage + ", eval_every: 1}\n"), testing::IsEmpty());
}

TEST(StepRules, AreNotHeldAgainstWhatCouldNotBeRead) {
  const auto first = [](const std::string& steps) {
    return problems_with(
        "  first: {recipe: cpt, lora: {target_modules: [q_proj]}, train: {max_steps: " + steps + "}}\n");
  };
  for (const char* steps : {"null", "1e4", "many", "[1]"})
    EXPECT_THAT(first(steps), ElementsAre(HasSubstr("train.max_steps: should be a whole number"))) << steps;
  EXPECT_THAT(first("0"), ElementsAre(HasSubstr("set max_steps or max_tokens")));
}

TEST(StepRules, ASeedOfItsOwnWouldNotBeUsed) {
  EXPECT_THAT(
      problems_with("  x:\n    recipe: pretrain\n    train:\n      max_steps: 1\n      seed: 7\n"),
      ElementsAre(AllOf(StartsWith("r.yaml:11:7: stages.x.train.seed: "), HasSubstr("set seed at its top"))));
}

TEST(StepRules, StagesOfAMixtureMustFollowOneAnother) {
  const auto with = [](const std::string& stages) {
    return problems_with(
        "  x:\n    recipe: cpt\n    lora: {target_modules: [q_proj]}\n    data:\n      loader:\n"
        "        mixture:\n          stages: " +
        stages + "\n    train: {max_steps: 10}\n");
  };
  EXPECT_THAT(with("[{until_step: 5, weights: {source: 1}}, {weights: {target: 1}}]"), IsEmpty());
  EXPECT_THAT(with("[{until_step: 5, weights: {source: 1}}, {until_step: 3, weights: {target: 1}}, "
                   "{weights: {target: 1}}]"),
              ElementsAre(AllOf(StartsWith("r.yaml:13:"), HasSubstr("data.loader.mixture.stages"),
                                HasSubstr("ends at step 3"))));
}

TEST(SftRules, WhatCannotBeAConversation) {
  const auto with = [](const std::string& set) {
    return problems_with(
        "  x:\n    recipe: sft\n    lora: {target_modules: [q_proj]}\n    train: {max_steps: 1}\n"
        "    instructions:\n    - name: s\n      " +
        set + "\n");
  };
  EXPECT_THAT(with("transforms: [{type: translation_instruction}]"), IsEmpty());
  EXPECT_THAT(with("transforms: [{type: clean_whitespace}, {type: verse_completion}]"), IsEmpty());
  EXPECT_THAT(with("transforms: [{type: clone_language, language: en2}, {type: verse_completion}]"),
              ElementsAre(AllOf(StartsWith("r.yaml:13:"), HasSubstr("instructions[0].transforms[0].type"),
                                HasSubstr("clone_language"))));
  EXPECT_THAT(with("transforms: [{type: clean_whitespace}]"),
              ElementsAre(HasSubstr("none makes conversations of lines")));
  EXPECT_THAT(with("rows: source\n      transforms: [{type: translation_instruction}]"), testing::SizeIs(1));
  EXPECT_THAT(with("rows: target\n      transforms: [{type: translation_instruction}]"),
              ElementsAre(HasSubstr("set rows to pairs")));
  EXPECT_THAT(with("transforms: [{type: verse_completion, templates: {en: \"{nonsense}\"}}]"),
              ElementsAre(AllOf(HasSubstr("transforms[0]"), HasSubstr("{nonsense} is not known"))));
  EXPECT_THAT(with("transforms: [{type: verse_completon}]"), testing::SizeIs(1));
  EXPECT_THAT(
      problems_with("  x: {recipe: sft, lora: {target_modules: [q_proj]}, train: {max_steps: 1}, files: "
                    "[c.jsonl], objective: {roles: {user: {prefix: u}}}}\n"),
      ElementsAre(HasSubstr("objective.roles: no role is supervised")));
}

constexpr const char* kFilesAlone =
    "  tune: {recipe: sft, lora: {target_modules: [q_proj]}, files: [c.jsonl], train: {max_steps: 1}}\n";

TEST(LanguageRules, FilesAloneNeedNone) {
  const std::string head = "schema: 1\nname: t\nbase: b\n";
  const std::string stages = std::string("stages:\n") + kFilesAlone;
  EXPECT_THAT(problems_of(head + stages), IsEmpty());
  EXPECT_THAT(problems_of(head + stages + "  whole: {recipe: merge}\n"), IsEmpty());
  EXPECT_THAT(problems_of(head + "source: {language: en}\ntarget: {language: es}\n" + stages), IsEmpty());
  EXPECT_THAT(problems_of(head + stages + "  score: {recipe: evaluate}\n"),
              ElementsAre(HasSubstr("source: is missing: the stage score works with it"),
                          HasSubstr("target: is missing: the stage score works with it")));
  EXPECT_THAT(problems_of(head + "source: {path: a.tsv}\ntarget: {path: a.tsv, language: es}\n" + stages),
              ElementsAre("r.yaml:4:1: source.language: is missing: the text must have one"));
  EXPECT_THAT(problems_of(head + "stages: {x: {recipe: cpt, lora: {target_modules: [q_proj]}, train: "
                                 "{max_steps: 1}}, y: {recipe: merge}}\n"),
              testing::SizeIs(2));
  EXPECT_THAT(problems_of(head + "source: {language: }\ntarget: {language: es}\n" + stages),
              ElementsAre(HasSubstr("source.language: must not be empty")));
}

TEST(Paths, BeginInTheHomeFolder) {
  ::setenv("HOME", "/home/someone", 1);
  Problems problems;
  const Recipe recipe = read_recipe(
      parse_yaml("schema: 1\nname: t\nbase: ~/model\ndir: ~/runs\nsource: {path: ~/x.tsv, language: en}\n"
                 "target: {path: '~/x.tsv', language: ~es}\nstages:\n  tune: {recipe: sft, lora: "
                 "{target_modules: [q_proj]}, files: [~/c.jsonl, ./~/d.jsonl], train: {max_steps: 1}}\n",
                 "r.yaml"),
      "r.yaml", problems);
  EXPECT_TRUE(problems.empty());
  EXPECT_EQ(recipe.base, "/home/someone/model");
  EXPECT_EQ(recipe.dir, "/home/someone/runs");
  EXPECT_EQ(recipe.source.path, "/home/someone/x.tsv");
  EXPECT_EQ(recipe.target.path, "/home/someone/x.tsv");
  EXPECT_EQ(recipe.target.language, "~es");  // No path.
  const std::vector<ConversationFileOptions>& files = std::get<SftStage>(recipe.stages[0].options).files;
  ASSERT_EQ(files.size(), 2U);
  EXPECT_EQ(files[0].path, "/home/someone/c.jsonl");
  EXPECT_EQ(files[1].path, "./~/d.jsonl");
  EXPECT_THAT(
      problems_of("schema: 1\nname: t\nbase: b\ndir: ~no-such-user/x\nstages:\n" + std::string(kFilesAlone)),
      ElementsAre(AllOf(StartsWith("r.yaml:4:1: dir: "), HasSubstr("no user 'no-such-user'"))));
  // Of overrides too.
  Node document = parse_yaml("schema: 1\nname: t\nbase: b\nstages:\n" + std::string(kFilesAlone), "r.yaml");
  apply_override(document, "dir=~/over");
  EXPECT_EQ(read_recipe(document, "r.yaml", problems).dir, "/home/someone/over");
}

TEST(Marks, AreOfTheDeepestPart) {
  const Node root = parse_yaml("a:\n  b:\n  - x\n  - c: 1\n", "r.yaml");
  EXPECT_EQ(mark_of(root, "a.b[1].c").text(), "r.yaml:4:5");
  EXPECT_EQ(mark_of(root, "a.b[7].c").text(), "r.yaml:2:3");
  EXPECT_EQ(mark_of(root, "a.nothing.below").text(), "r.yaml:1:1");
}

}  // namespace
}  // namespace bitrain::recipe
