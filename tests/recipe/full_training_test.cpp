#include <fstream>
#include <map>

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/recipe/memory_plan.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/validate.h>

#include "recipe/several_ranks.h"
#include "support/temporary_directory.h"
#include "support/tiny_recipe.h"

/// cpt and sft without adapters: all weights are trained, and a plain model folder is written.
namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kStages =
    R"(  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320, exact_vocab_size: false}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {sequence_length: 64, rows_per_step: 3}}
    train: {max_steps: 2}
  full:
    recipe: cpt
    quantize: {enabled: false}
    freeze: [embed_tokens, layers.0]
    data: {loader: {sequence_length: 64, rows_per_step: 6, micro_batch_rows: 2}}
    train: {max_steps: 4, learning_rate: 1e-3, eval_at_start: true}
  chat:
    recipe: sft
    quantize: {enabled: false}
    instructions: [{name: translation, transforms: [{type: translation_instruction}]}]
    objective: {max_length: 128, roles: {user: {prefix: "U: ", suffix: "\n"}, assistant: {prefix: "A: ", supervised: true}}}
    loader: {sequence_length: 128, rows_per_step: 3}
    train: {max_steps: 3, learning_rate: 1e-3}
    accuracy_cases: 2
  adapters:
    recipe: cpt
    from: first
    quantize: {enabled: false}
    lora: {r: 2, target_modules: [all-linear]}
    data: {loader: {sequence_length: 64, rows_per_step: 6}}
    train: {max_steps: 4}
  judge: {recipe: evaluate, from: full}
)";

class FullTraining : public ::testing::Test {
 protected:
  FullTraining() {
    test::write_pairs(directory_.path() / "pairs.tsv");
    std::ofstream(recipe()) << test::tiny_recipe("float32") << kStages;
  }
  [[nodiscard]] fs::path recipe() const { return directory_.path() / "recipe.yaml"; }
  [[nodiscard]] fs::path dir() const { return directory_.path() / "run"; }
  [[nodiscard]] Recipe load(std::vector<std::string> overrides = {}) const {
    overrides.push_back("dir=" + dir().string());
    return load_recipe(recipe(), overrides);
  }
  [[nodiscard]] std::map<std::string, at::Tensor> weights(const std::string& stage) const {
    const io::SafetensorsFile file = io::SafetensorsFile::open(dir() / stage / "model.safetensors");
    std::map<std::string, at::Tensor> weights;
    for (const std::string& name : file.names()) weights[name] = file.tensor(name);
    return weights;
  }
  [[nodiscard]] std::string problems(const std::vector<std::string>& overrides) const {
    try {
      (void)load(overrides);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  }

  test::TemporaryDirectory directory_;
};

TEST_F(FullTraining, TrainsAllWeightsButFrozenOnes) {
  const io::Json stages = run(load()).summary["stages"];
  const auto first = weights("first");
  const auto full = weights("full");
  ASSERT_EQ(first.size(), full.size());
  for (const auto& [name, weight] : full) {
    const bool frozen =
        name.find("embed_tokens") != std::string::npos || name.find("layers.0.") != std::string::npos;
    EXPECT_EQ(at::equal(weight, first.at(name)), frozen) << name;
  }
  const io::Json& cpt = stages["full"];
  EXPECT_FALSE(cpt.contains("adapted_modules"));
  EXPECT_LT(cpt["trainable_parameters"], cpt["parameters"]);
  EXPECT_EQ(stages["chat"]["trainable_parameters"], stages["chat"]["parameters"]);
  EXPECT_LT(cpt["evaluations"].back()["languages"]["es"]["loss_per_token"],
            cpt["evaluations"].front()["languages"]["es"]["loss_per_token"]);
  // What was scored last is what was written.
  EXPECT_EQ(stages["judge"]["languages"]["es"]["bits_per_byte"],
            cpt["evaluations"].back()["languages"]["es"]["bits_per_byte"]);
  EXPECT_TRUE(fs::exists(dir() / "adapters" / "adapter_config.json"));
  EXPECT_FALSE(fs::exists(dir() / "chat" / "adapter_config.json"));
  EXPECT_NO_THROW((void)hub::open_model(dir() / "chat"));
}

TEST_F(FullTraining, LearnsTheSameOnThreeRanks) {
  expect_same_on_three_ranks(recipe(), {}, directory_.path(), {"full", "chat"});
}

TEST_F(FullTraining, IsPlannedWithTheStateOfAllItsWeights) {
  std::map<std::string, MemoryPlan> plans;
  for (const MemoryPlan& plan : memory_plan(load())) plans[plan.stage] = plan;
  EXPECT_EQ(plans["chat"].trained, plans["chat"].parameters);
  EXPECT_LT(plans["full"].trained, plans["full"].parameters);
  EXPECT_GT(plans["full"].trained, plans["adapters"].trained);
  EXPECT_EQ(plans["chat"].adapters, 0U);
}

TEST_F(FullTraining, RefusesWhatDoesNotGoTogether) {
  EXPECT_EQ(problems({}), "");
  EXPECT_THAT(problems({"stages.full.quantize.enabled=true"}),
              HasSubstr("stages.full.quantize.enabled: weights in 4 bits cannot be trained"));
  EXPECT_THAT(problems({"stages.full.lora.r=8"}),
              HasSubstr("stages.full.lora.target_modules: nothing would be trained"));
  EXPECT_THAT(problems({"stages.adapters.freeze=embed_tokens"}),
              HasSubstr("stages.adapters.freeze: is for training all weights"));
  // Before any stage runs.
  for (const auto& [freeze, message] :
       {std::pair{"embed_tokenz", "embed_tokenz"}, std::pair{".*", "freeze names all"}})
    try {
      (void)run(load({std::string("stages.full.freeze=[\"") + freeze + "\"]"}));
      ADD_FAILURE() << "no ConfigError";
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr(message));
      EXPECT_FALSE(fs::exists(dir() / "tok"));
    }
}

TEST_F(FullTraining, WeightsInFourBitsAreRefusedBeforehand) {
  (void)run(load());
  std::ofstream(recipe()) << test::tiny_recipe("float32") << R"(  packed:
    recipe: merge
    from: base
    merge: {requantize: true}
    tolerance: 100
  full:
    recipe: cpt
    quantize: {enabled: false}
    train: {max_steps: 1}
)";
  const auto refused = [&](const std::vector<std::string>& overrides) {
    const Validation looked = validate(recipe(), overrides);
    return looked.problems.text();
  };
  const std::string base = "base=" + (dir() / "first").string();
  const std::string elsewhere = "dir=" + (directory_.path() / "elsewhere").string();
  EXPECT_THAT(refused({base, elsewhere}),
              HasSubstr("'packed' has weights in 4 bits, which cannot be trained"));
}

TEST_F(FullTraining, StagesOfVersionsWithoutFreezeAreTheSame) {
  (void)run(load());
  const io::Json file = io::read_json(dir() / "adapters" / "stage.json");
  EXPECT_FALSE(file["made_from"]["options"].contains("freeze"));
  EXPECT_TRUE(io::read_json(dir() / "full" / "stage.json")["made_from"]["options"].contains("freeze"));
}

}  // namespace
}  // namespace bitrain::recipe
