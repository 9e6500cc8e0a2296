#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/cluster_plan.h>
#include <bitrain/recipe/gpu_specs.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/validate.h>

#include "support/temporary_directory.h"
#include "support/tiny_recipe.h"

/// A recipe of an sft stage on files of conversations and nothing else: no source, no target.
namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class FilesAloneTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<test::TemporaryDirectory>();
    test::write_pairs(path("pairs.tsv"));
    std::ofstream(path("base.yaml"))
        << test::tiny_recipe("float32")
        << R"(  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320, exact_vocab_size: false}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {sequence_length: 64, rows_per_step: 2}}
    train: {max_steps: 2}
)";
    (void)run(load_recipe(path("base.yaml"), {"dir=" + path("base").string()}));
    std::ofstream chat(path("chat.jsonl"));
    for (int i = 0; i < 40; ++i)
      chat << R"({"prompt": "what is number )" << i << R"(", "response": "it is )" << i << "\"}\n";
    chat.close();
    std::ofstream(path("chat.yaml")) << R"(schema: 1
name: chat
threads: 1
dtype: float32
held_out: {every: 4}
stages:
  tune:
    recipe: sft
    from: base
    quantize: {enabled: false}
    lora: {r: 2, target_modules: [q_proj]}
    files: [chat.jsonl]
    loader: {sequence_length: 64, rows_per_step: 2}
    objective: {max_length: 64}
    train: {max_steps: 4, eval_every: 2, keep_best: true, save_every: 2}
    accuracy_cases: 2
  whole: {recipe: merge, prompts: [what is]}
)";
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static fs::path path(const std::string& name) { return folder_->path() / name; }
  static std::vector<std::string> with_base(std::vector<std::string> overrides = {}) {
    overrides.push_back("base=" + path("base/first").string());
    return overrides;
  }
  static std::string problem_with(const std::vector<std::string>& overrides) {
    try {
      validate(path("chat.yaml"), with_base(overrides)).problems.raise();
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "none";
  }

  static std::unique_ptr<test::TemporaryDirectory> folder_;
};
std::unique_ptr<test::TemporaryDirectory> FilesAloneTest::folder_;

TEST_F(FilesAloneTest, RunsFromEndToEnd) {
  EXPECT_EQ(problem_with({}), "none");
  EXPECT_EQ(validate(path("chat.yaml"), with_base()).plans.size(), 2U);
  const Recipe recipe = load_recipe(path("chat.yaml"), with_base({"dir=" + path("run").string()}));
  ClusterOptions cluster;
  cluster.gpu = find_gpu("h100");
  EXPECT_EQ(plan_cluster(recipe, cluster).size(), 1U);  // Merging trains nothing.
  data::InspectOptions options;
  options.color = false;
  EXPECT_THAT(inspect_stage(recipe, "tune", options), HasSubstr("unknown language"));

  const io::Json summary = run(recipe).summary;
  EXPECT_EQ(summary["languages"]["source"], "");
  const io::Json& tune = summary["stages"]["tune"];
  EXPECT_EQ(tune["steps"], 4);
  ASSERT_EQ(tune["evaluations"].size(), 2U);
  EXPECT_GT(tune["evaluations"][0]["sets"]["chat"]["loss_per_token"].get<double>(), 0);
  EXPECT_EQ(tune["evaluations"][1]["sets"]["chat"]["loss_per_token"],
            tune["after"]["chat"][""]["response_loss"]);
  EXPECT_EQ(tune["after"]["chat"][""]["cases"], 2);
  const io::Json& whole = summary["stages"]["whole"];
  EXPECT_EQ(whole["verified"], true);
  EXPECT_FALSE(whole.contains("languages"));
  EXPECT_EQ(whole["generations"].size(), 1U);
  EXPECT_TRUE(fs::exists(path("run") / "whole" / "model.safetensors"));
  EXPECT_THAT(io::read_file(path("run") / "report.html"),
              AllOf(HasSubstr("tune: held-out conversations"), Not(HasSubstr("From "))));
}

TEST_F(FilesAloneTest, HeldOutConversationsAreBounded) {
  const auto tune = [&](const std::string& folder, const std::string& bound) {
    const auto overrides = with_base(
        {"dir=" + path(folder).string(), "held_out.max_documents=" + bound, "stages.tune.train.max_steps=2"});
    return run(load_recipe(path("chat.yaml"), overrides)).summary["stages"]["tune"];
  };
  const io::Json all = tune("all", "0");
  const io::Json one = tune("one", "1");
  EXPECT_EQ(all["before"]["chat"][""]["cases"], 2);
  EXPECT_EQ(one["before"]["chat"][""]["cases"], 1);
  for (const char* when : {"before", "after"})
    EXPECT_NE(all[when]["chat"][""]["response_loss"], one[when]["chat"][""]["response_loss"]) << when;
  EXPECT_EQ(one["evaluations"][0]["sets"]["chat"]["loss_per_token"],
            one["after"]["chat"][""]["response_loss"]);
  EXPECT_EQ(tune("many", "1000")["before"], all["before"]);
}

TEST_F(FilesAloneTest, WhatIsWrongIsSaidBefore) {
  EXPECT_THAT(problem_with({"held_out={}"}), HasSubstr("held_out: nothing is kept for evaluation"));
  EXPECT_THAT(problem_with({"stages.tune.files=[chats.jsonl]"}), HasSubstr("there is no file chats.jsonl"));
  const std::vector<std::string> languages = {"source.language=en", "target.language=es"};
  EXPECT_THAT(problem_with({languages[0], languages[1], "stages.score.recipe=evaluate"}),
              HasSubstr("stages.score: reads lines of text: set source.path and target.path"));
  EXPECT_THAT(
      problem_with({languages[0], languages[1],
                    "stages.tune.instructions=[{name: t, transforms: [{type: translation_instruction}]}]"}),
      HasSubstr("stages.tune: reads lines of text"));
  EXPECT_THAT(problem_with({"stages.score.recipe=evaluate"}), HasSubstr("source: is missing"));
}

}  // namespace
}  // namespace bitrain::recipe
