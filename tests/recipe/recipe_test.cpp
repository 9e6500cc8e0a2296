#include <bitrain/recipe/recipe.h>

#include <sys/stat.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/recipe/decode.h>
#include <bitrain/recipe/explain.h>
#include <bitrain/recipe/memory_plan.h>
#include <bitrain/recipe/validate.h>

#include "support/temporary_directory.h"

namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const fs::path kQuickstart = fs::path(BITRAIN_SOURCE_DIR) / "recipes" / "quickstart" / "en_es.yaml";

constexpr const char* kHead = R"(schema: 1
name: t
source: {path: a.tsv, language: en}
target: {path: a.tsv, language: es}
)";

struct Read {
  Recipe recipe;
  std::vector<std::string> problems;
};

std::vector<std::string> texts(const Problems& problems) {
  std::vector<std::string> result;
  for (const Problem& problem : problems.list()) result.push_back(problem.text());
  return result;
}

Read read_whole(const std::string& text) {
  Problems problems;
  Read result;
  result.recipe = read_recipe(parse_yaml(text, "r.yaml"), "r.yaml", problems);
  result.problems = texts(problems);
  return result;
}

/// A recipe with these lines below "stages:".
Read read(const std::string& stages, const std::string& more = "") {
  return read_whole(kHead + more + "stages:\n" + stages);
}

std::vector<std::string> links(const Recipe& recipe) {
  std::vector<std::string> result;
  for (const Stage& stage : recipe.stages) result.push_back(stage.name + "<" + stage.from);
  return result;
}

TEST(Recipe, TheQuickstart) {
  const Recipe recipe = load_recipe(kQuickstart);
  EXPECT_THAT(links(recipe), ElementsAre("tokenizer<", "pretrain<tokenizer", "evaluate<pretrain",
                                         "extend<pretrain", "adapt<extend", "merge<adapt"));
  EXPECT_EQ(recipe.seed, 42);
  EXPECT_EQ(recipe.source.column, 2);
  const auto& adapt = std::get<CptStage>(recipe.find("adapt")->options);
  EXPECT_EQ(adapt.lora.r, 64);
  EXPECT_EQ(adapt.train.max_steps, 150);
  EXPECT_EQ(recipe.find("nothing"), nullptr);
}

TEST(Recipe, EveryRecipeInTheTreeReads) {
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kQuickstart.parent_path().parent_path())) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    EXPECT_NO_THROW((void)load_recipe(entry.path())) << entry.path();
  }
  EXPECT_GE(count, 3);
}

TEST(Recipe, OverridesReachTheStages) {
  const Recipe recipe = load_recipe(
      kQuickstart, {"stages.adapt.train.max_steps=3", "stages.adapt.train.schedule.warmup_steps=1", "seed=7",
                    "stages.adapt.lora.target_modules=all-linear"});
  EXPECT_EQ(recipe.seed, 7);
  const auto& adapt = std::get<CptStage>(recipe.find("adapt")->options);
  EXPECT_EQ(adapt.train.max_steps, 3);
  EXPECT_THAT(adapt.lora.target_modules, ElementsAre("all-linear"));
  EXPECT_THROW((void)load_recipe(kQuickstart, {"stages.adapt.train.max_stepz=3"}), ConfigError);
}

TEST(Recipe, AStageReadsFromTheOneBefore) {
  const Read got = read(
      "  t: {recipe: tokenizer}\n  p: {recipe: pretrain, train: {max_steps: 1}}\n"
      "  e: {recipe: evaluate}\n");
  EXPECT_THAT(got.problems, IsEmpty());
  EXPECT_THAT(links(got.recipe), ElementsAre("t<", "p<t", "e<p"));
}

TEST(Recipe, FromMustNameAnEarlierStage) {
  EXPECT_THAT(
      read("  tok: {recipe: tokenizer}\n  e: {recipe: evaluate, from: tokk}\n").problems,
      ElementsAre("r.yaml:7:25: stages.e.from: no earlier stage is called 'tokk' (did you mean 'tok'?)"));
  EXPECT_THAT(read("  a: {recipe: evaluate, from: b}\n  b: {recipe: tokenizer}\n").problems,
              ElementsAre(HasSubstr("no earlier stage is called 'b'")));
  EXPECT_THAT(read("  e: {recipe: evaluate}\n").problems, ElementsAre(HasSubstr("set base=DIR")));
  EXPECT_THAT(read("  t: {recipe: tokenizer}\n  e: {recipe: evaluate, from: base}\n").problems,
              ElementsAre(HasSubstr("no earlier stage is called 'base'")));
}

TEST(Recipe, ABaseReplacesTokenizerAndPretrain) {
  const Recipe recipe = load_recipe(kQuickstart, {"base=some/folder"});
  EXPECT_THAT(links(recipe), ElementsAre("evaluate<base", "extend<base", "adapt<extend", "merge<adapt"));
  EXPECT_EQ(recipe.base, "some/folder");
}

TEST(Recipe, StagesMustSayWhatTheyAre) {
  EXPECT_THAT(read("  x: {from: y}\n").problems, ElementsAre(HasSubstr("stages.x.recipe: is missing")));
  EXPECT_THAT(read("  x: {recipe: murge}\n").problems, ElementsAre(HasSubstr("did you mean 'merge'")));
  EXPECT_THAT(read("  x: 3\n").problems, ElementsAre(HasSubstr("stages.x: should be a map, not '3'")));
  for (const char* name : {"base", "a/b", "../up", "a b"})
    EXPECT_THAT(read("  " + std::string(name) + ": {recipe: tokenizer}\n").problems,
                ElementsAre(HasSubstr("a stage's name is made of")))
        << name;
}

TEST(Recipe, RulesBetweenFields) {
  const std::string tok = "  t: {recipe: tokenizer}\n";
  EXPECT_THAT(read(tok + "  p: {recipe: pretrain}\n").problems,
              ElementsAre(HasSubstr("stages.p.train.max_steps: set max_steps or max_tokens")));
  EXPECT_THAT(read(tok + "  p: {recipe: pretrain, train: {max_tokens: 100}}\n").problems, IsEmpty());
  EXPECT_THAT(read(tok + "  c: {recipe: cpt, lora: {target_modules: []}, train: {max_steps: 1}}\n").problems,
              Contains(HasSubstr("nothing would be trained")));
  EXPECT_THAT(read(tok + "  c: {recipe: cpt, train: {max_steps: 1}}\n").problems,
              Contains(HasSubstr("stages.c.quantize.enabled: weights in 4 bits cannot be trained")));
  EXPECT_THAT(read(tok + "  s: {recipe: sft, train: {max_steps: 1}}\n").problems,
              Contains(HasSubstr("no conversations: set instructions or files")));
  EXPECT_THAT(read(tok + "  s: {recipe: sft, files: [x.jsonl], train: {max_steps: 1}, "
                         "objective: {max_length: 999}, loader: {sequence_length: 64}}\n")
                  .problems,
              Contains(HasSubstr("must not be above loader.sequence_length")));
}

TEST(Recipe, WhatIsNoRecipe) {
  EXPECT_THAT(read_whole("[1, 2]").problems, ElementsAre(HasSubstr("a recipe is a map of keys, not a list")));
  EXPECT_THAT(read_whole("").problems, ElementsAre(HasSubstr("not nothing")));
  EXPECT_THAT(read_whole(kHead).problems, ElementsAre(HasSubstr("stages: should be a map of stages")));
  EXPECT_THAT(read_whole(std::string(kHead) + "stages: {}\n").problems, ElementsAre(HasSubstr("stages")));
  EXPECT_THAT(read_whole("name: x\n").problems,
              testing::UnorderedElementsAre(HasSubstr("write 'schema: 1'"), HasSubstr("stages: should be")));
  EXPECT_THAT(read("  t: {recipe: tokenizer}\n", "sede: 3\n").problems,
              ElementsAre("r.yaml:5:1: sede: there is no such key (did you mean 'seed'?)"));
  EXPECT_THAT(read_whole("schema: 2\nname: t\nsource: {path: a, language: en}\n"
                         "target: {path: a, language: es}\nstages: {t: {recipe: tokenizer}}\n")
                  .problems,
              ElementsAre(HasSubstr("schema: must be at least 1 and at most 1, not 2")));
}

TEST(Recipe, PathsAreFoundFromAboveTheRecipe) {
  const test::TemporaryDirectory directory;
  fs::create_directories(directory.path() / "data");
  fs::create_directories(directory.path() / "recipes" / "x");
  std::ofstream(directory.path() / "data" / "only-here.tsv") << "a\n";
  Recipe recipe;
  recipe.file = directory.path() / "recipes" / "x" / "r.yaml";
  EXPECT_EQ(resolve(recipe, "data/only-here.tsv"), directory.path() / "data" / "only-here.tsv");
  EXPECT_EQ(resolve(recipe, "data/nowhere.tsv"), "data/nowhere.tsv");
  EXPECT_EQ(resolve(recipe, "/abs"), "/abs");
}

/// Names of every field below a struct, nested ones too.
void add_names(const FieldList& fields, std::vector<std::string>& names) {
  for (const Field& field : fields) {
    names.emplace_back(field.name);
    EXPECT_STRNE(field.doc, "") << field.name;
    if (field.value.kind() == Kind::kStruct) add_names(field.value.fields(), names);
  }
}

TEST(Explain, MentionsEveryField) {
  for (StageType& type : stage_types()) {
    const std::string text = explain(type.type, false);
    std::vector<std::string> names;
    add_names(fields_of_stage(type.defaults), names);
    EXPECT_THAT(names, Not(IsEmpty()));
    for (const std::string& name : names) EXPECT_THAT(text, HasSubstr(name)) << type.type;
  }
  const std::string everything = explain("", true);
  for (const std::string& name : field_names<Recipe>()) EXPECT_THAT(everything, HasSubstr("`" + name + "`"));
  for (const StageType& type : stage_types())
    EXPECT_THAT(everything, HasSubstr("## stage type " + std::string(type.type)));
  try {
    (void)explain("ctp", false);
    ADD_FAILURE() << "no ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'cpt'"));
  }
}

/// The part of JSON schema that ours uses; "" when the value is valid, else the place.
std::string invalid(const io::Json& schema, const Node& node, const std::string& path) {
  if (schema.contains("oneOf")) {
    int matches = 0;
    std::string last;
    for (const io::Json& one : schema["oneOf"]) {
      const std::string why = invalid(one, node, path);
      if (why.empty())
        ++matches;
      else if (why.find(".recipe") == std::string::npos)
        last = why;
    }
    return matches == 1 ? "" : path + ": " + std::to_string(matches) + " match; " + last;
  }
  if (schema.contains("anyOf")) {
    for (const io::Json& one : schema["anyOf"])
      if (invalid(one, node, path).empty()) return "";
    return path;
  }
  if (schema.contains("const")) {
    const io::Json& wanted = schema["const"];
    return node.scalar == (wanted.is_string() ? wanted.get<std::string>() : wanted.dump()) ? "" : path;
  }
  const io::Json& types = schema.at("type");  // Of text: also numbers, which YAML parts from it.
  const std::string type = types.is_array() ? types.front() : types;
  if (type == "object") {
    if (node.kind != Node::Kind::kMap) return path;
    const io::Json properties = schema.value("properties", io::Json::object());
    for (const auto& [key, value] : node.members) {
      const io::Json* below =
          properties.contains(key) ? &properties[key] : &schema.at("additionalProperties");
      if (below->is_boolean()) return path + "." + key + " is no key";
      if (std::string why = invalid(*below, value, path + "." + key); !why.empty()) return why;
    }
    if (schema.contains("required"))
      for (const io::Json& key : schema["required"])
        if (node.find(key.get<std::string>()) == nullptr) return path + "." + key.get<std::string>();
    return "";
  }
  if (type == "array") {
    if (node.kind != Node::Kind::kList) return path;
    for (const Node& item : node.items)
      if (std::string why = invalid(schema.at("items"), item, path + "[]"); !why.empty()) return why;
    return "";
  }
  if (node.kind != Node::Kind::kScalar) return path;
  if (schema.contains("enum"))
    for (const io::Json& choice : schema["enum"])
      if (choice == node.scalar) return "";
  return schema.contains("enum") ? path : "";
}

TEST(Schema, HoldsForTheQuickstartAndNotForAMisspeltOne) {
  const io::Json json = schema();
  EXPECT_EQ(json["$schema"], "https://json-schema.org/draft/2020-12/schema");
  Node document = load_yaml(kQuickstart);
  EXPECT_EQ(invalid(json, document, ""), "");
  apply_override(document, "stages.adapt.train.max_stepz=3");
  EXPECT_THAT(invalid(json, document, ""), HasSubstr("max_stepz is no key"));
  EXPECT_THAT(json.dump(), HasSubstr("\"exclusiveMinimum\""));
}

TEST(Schema, KnowsEveryField) {
  const std::string text = schema().dump();
  for (StageType& type : stage_types()) {
    std::vector<std::string> names;
    add_names(fields_of_stage(type.defaults), names);
    for (const std::string& name : names) EXPECT_THAT(text, HasSubstr("\"" + name + "\":")) << type.type;
  }
}

TEST(MemoryPlanTest, FiguresOfAKnownShape) {
  const Read got = read(R"(  t: {recipe: tokenizer, tokenizer: {vocab_size: 100}}
  p:
    recipe: pretrain
    model: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32}
    train: {max_steps: 1}
  x: {recipe: extend_vocab, vocab: {pieces: 20}}
  c:
    recipe: cpt
    lora: {r: 4, target_modules: [q_proj, down_proj, lm_head]}
    train: {max_steps: 1}
)");
  ASSERT_THAT(got.problems, IsEmpty());
  std::vector<MemoryPlan> plans = memory_plan(got.recipe);
  ASSERT_EQ(plans.size(), 4U);
  EXPECT_EQ(plans[0].type, "tokenizer");
  EXPECT_GT(plans[0].program, 0U);
  EXPECT_EQ(plans[0].parameters, 0);
  EXPECT_EQ(plans[0].weights, 0U);
  plans.erase(plans.begin());
  // A layer: four maps of 16x16, three of 16x32, two norms. Outside: two tables and a norm.
  const std::int64_t linear = 2 * (4 * 16 * 16 + 3 * 16 * 32);
  const std::int64_t norms = 5 * 16;
  EXPECT_EQ(plans[0].stage, "p");
  EXPECT_EQ(plans[0].parameters, linear + norms + 2 * 100 * 16);
  EXPECT_EQ(plans[0].trained, plans[0].parameters);
  EXPECT_EQ(plans[0].weights, static_cast<std::uint64_t>(plans[0].parameters) * 2);
  // bfloat16: gradient, two float32 moments, float32 master.
  EXPECT_EQ(plans[0].optimizer, static_cast<std::uint64_t>(plans[0].parameters) * (2 + 8 + 4));
  EXPECT_GT(plans[0].activations, 0U);
  EXPECT_EQ(plans[1].parameters, linear + norms + 2 * 120 * 16);
  EXPECT_EQ(plans[1].trained, 0);
  EXPECT_EQ(plans[2].parameters, plans[1].parameters);
  EXPECT_EQ(plans[2].trained, 2 * 4 * ((16 + 16) + (32 + 16)) + 4 * (120 + 16));
  // Packed: half a byte a weight, a byte for 64, a float32 for 256 of those and one for their mean.
  const std::int64_t small = 16 * 16 / 2 + 16 * 16 / 64 + 4 + 4;
  const std::int64_t large = 16 * 32 / 2 + 16 * 32 / 64 + 4 + 4;
  EXPECT_EQ(plans[2].weights,
            static_cast<std::uint64_t>(2 * (4 * small + 3 * large) + (norms + 2 * 120 * 16) * 2));
  EXPECT_EQ(plans[2].adapters, static_cast<std::uint64_t>(plans[2].trained) * 4);
  EXPECT_EQ(plans[2].optimizer, static_cast<std::uint64_t>(plans[2].trained) * (4 + 8));
  EXPECT_EQ(plans[2].total(), plans[2].program + plans[2].data + plans[2].weights + plans[2].adapters +
                                  plans[2].optimizer + std::max(plans[2].activations, plans[2].scoring));
  EXPECT_THAT(describe(plans), HasSubstr("extend_vocab"));
  EXPECT_EQ(describe({}), "");
}

TEST(MemoryPlanTest, CountsBiasesFullyTrainedModulesAndRows) {
  const std::string stages = R"(  t: {recipe: tokenizer, tokenizer: {vocab_size: 100}}
  p:
    recipe: pretrain
    model: {model_type: qwen2, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    train: {max_steps: 1}
  c:
    recipe: cpt
    lora: {r: 2, target_modules: [q_proj], modules_to_save: [lm_head], trainable_token_indices: {embed_tokens: [1, 5]}}
    train: {max_steps: 1}
)";
  const Read got = read(stages);
  ASSERT_THAT(got.problems, IsEmpty());
  std::vector<MemoryPlan> plans = memory_plan(got.recipe);
  ASSERT_EQ(plans.size(), 3U);
  plans.erase(plans.begin());
  const std::int64_t biases = 3 * 16;  // Qwen2 has them on q, k and v.
  EXPECT_EQ(plans[0].parameters, 4 * 16 * 16 + 3 * 16 * 32 + biases + 3 * 16 + 2 * 100 * 16);
  EXPECT_EQ(plans[1].trained, 2 * (16 + 16) + 100 * 16 + 2 * 16);
  EXPECT_EQ(plans[1].adapters, (2 * (16 + 16) + 2 * 16) * 4U);
  EXPECT_EQ(plans[1].optimizer, (2 * (16 + 16) + 2 * 16) * 12U + 100 * 16 * 14U);
}

TEST(MemoryPlanTest, AdaptersThatMatchNothingAreNamedWithTheirStage) {
  const Read got = read(R"(  t: {recipe: tokenizer, tokenizer: {vocab_size: 100}}
  p:
    recipe: pretrain
    model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
    train: {max_steps: 1}
  c: {recipe: cpt, lora: {target_modules: [q_prj]}, train: {max_steps: 1}}
)");
  ASSERT_THAT(got.problems, IsEmpty());
  try {
    (void)memory_plan(got.recipe);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("stages.c"), HasSubstr("q_prj"), HasSubstr("q_proj")));
  }
}

/// The quickstart on a small file, with overrides.
class ValidateTest : public ::testing::Test {
 protected:
  void SetUp() override { std::ofstream(file_) << "1\tone\tuno\n"; }

  std::vector<std::string> problems(std::vector<std::string> overrides) {
    overrides.insert(overrides.begin(), {"source.path=" + file_.string(), "target.path=" + file_.string(),
                                         "source.format=tsv", "target.format=tsv"});
    const Validation result = validate(kQuickstart, overrides);
    EXPECT_EQ(result.plans.empty(), !result.problems.empty());
    return texts(result.problems);
  }

  test::TemporaryDirectory directory_;
  fs::path file_ = directory_.path() / "pairs.tsv";
};

TEST_F(ValidateTest, NothingWrong) {
  EXPECT_THAT(problems({}), IsEmpty());
}

TEST_F(ValidateTest, FilesThatAreMissingOrEmpty) {
  EXPECT_THAT(problems({"target.path=nowhere.tsv"}),
              ElementsAre("on the command line: target.path: there is no file nowhere.tsv"));
  const fs::path empty = directory_.path() / "empty.tsv";
  std::ofstream{empty};
  EXPECT_THAT(problems({"source.path=" + empty.string()}), ElementsAre(HasSubstr("empty.tsv is empty")));
  EXPECT_THAT(problems({"source.path=" + directory_.path().string()}), ElementsAre(HasSubstr("is no file")));
  const fs::path pipe = directory_.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(problems({"source.path=" + pipe.string()}),
              ElementsAre(HasSubstr("is a pipe, which can be read only once")));
}

TEST_F(ValidateTest, WhatDoesNotFitTogether) {
  EXPECT_THAT(problems({"target.language=en"}), ElementsAre(HasSubstr("is the source's language too: 'en'")));
  EXPECT_THAT(problems({"stages.adapt.data.loader.mixture.weights={sauce: 1}"}),
              ElementsAre(HasSubstr("there is no source 'sauce'")));
  EXPECT_THAT(problems({"held_out.every=0"}), ElementsAre(HasSubstr("nothing is kept for evaluation")));
  EXPECT_THAT(problems({"held_out.every=1"}), ElementsAre(HasSubstr("leaves none to train on")));
  EXPECT_THAT(problems({"dir=/proc/run"}), ElementsAre(HasSubstr("dir: cannot write the folder /proc/run")));
  EXPECT_THAT(problems({"dir=/dev/null"}), ElementsAre(HasSubstr("a file of that name is there")));
}

TEST_F(ValidateTest, ABaseThatIsNone) {
  EXPECT_THAT(problems({"base=nowhere"}), ElementsAre(HasSubstr("no Hugging Face model folder")));
  std::ofstream(directory_.path() / "config.json") << "{ not json";
  EXPECT_THAT(problems({"base=" + directory_.path().string()}), ElementsAre(HasSubstr("base: ")));
}

TEST_F(ValidateTest, AGpuThatIsNotThere) {
  const std::vector<std::string> reasons = missing_for_cuda();
  const std::vector<std::string> found = problems({"device=cuda"});
  ASSERT_EQ(found.size(), reasons.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_EQ(found[i], "on the command line: device: " + reasons[i]);
}

TEST_F(ValidateTest, AllAtOnce) {
  EXPECT_THAT(
      problems({"target.language=en", "source.path=nowhere.tsv", "sede=1", "stages.adapt.lora.r=0"}),
      testing::UnorderedElementsAre(HasSubstr("target.language"), HasSubstr("nowhere.tsv"),
                                    HasSubstr("did you mean 'seed'"), HasSubstr("stages.adapt.lora.r")));
}

TEST_F(ValidateTest, CheckInputsRaises) {
  Recipe recipe = load_recipe(kQuickstart, {"source.path=" + file_.string(), "target.path=nowhere.tsv"});
  EXPECT_THROW(check_inputs(recipe), ConfigError);
  recipe.target.path = file_.string();
  EXPECT_NO_THROW(check_inputs(recipe));
}

}  // namespace
}  // namespace bitrain::recipe
