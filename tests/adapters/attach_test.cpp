#include <bitrain/adapters/attach.h>

#include <cmath>
#include <limits>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/quantize.h>

#include "support/gradcheck.h"
#include "support/tiny_llama.h"

namespace bitrain::adapters {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::logits_of;
using testing::random_batch;
using ::testing::ThrowsMessage;
using testing::tiny_config;
using testing::tiny_llama;

LoraOptions targets(std::vector<std::string> modules) {
  LoraOptions options;
  options.r = 4;
  options.target_modules = std::move(modules);
  return options;
}

std::vector<std::string> adapted_paths(const LoraOptions& options) {
  const auto model = tiny_llama();
  std::vector<std::string> paths;
  for (const auto& adapted : attach(*model, options, 1).adapted) paths.push_back(adapted.path);
  return paths;
}

TEST(Attach, TargetsAreEndsOfPathsPatternsOrAllLinear) {
  EXPECT_THAT(adapted_paths(targets({"q_proj"})),
              ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"));
  EXPECT_THAT(adapted_paths(targets({"self_attn.v_proj", "embed_tokens"})),
              ElementsAre("model.embed_tokens", "model.layers.0.self_attn.v_proj",
                          "model.layers.1.self_attn.v_proj"));
  EXPECT_THAT(adapted_paths(targets({"model.layers.1.mlp.up_proj"})),
              ElementsAre("model.layers.1.mlp.up_proj"));
  EXPECT_THAT(adapted_paths(targets({".*layers\\.1\\.mlp\\.(up|down)_proj"})),
              ElementsAre("model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"));
  EXPECT_EQ(adapted_paths(targets({"all-linear"})).size(), 14U) << "every linear map but the head";
  EXPECT_EQ(adapted_paths(targets({"all-linear", "lm_head", "embed_tokens"})).size(), 16U);
}

TEST(Attach, ExclusionsLayersAndFullyTrainedModulesNarrowTheTargets) {
  LoraOptions options = targets({"all-linear"});
  options.exclude_modules = {"mlp.gate_proj", ".*self_attn.*"};
  options.layers_to_transform = {1};
  EXPECT_THAT(adapted_paths(options),
              ElementsAre("model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"));
  options = targets({"up_proj", "lm_head"});
  options.modules_to_save = {"lm_head", "embed_tokens"};
  const auto model = tiny_llama();
  const AttachReport report = attach(*model, options, 1);
  EXPECT_EQ(report.adapted.size(), 2U);
  EXPECT_THAT(report.trained_in_full, ElementsAre("model.embed_tokens", "lm_head"));
  EXPECT_EQ(report.trainable_parameters, 2 * 4 * (16 + 24) + 2 * 23 * 16);
  std::int64_t trainable = 0;
  for (const auto& parameter : trainable_parameters(*model)) trainable += parameter.tensor.numel();
  EXPECT_EQ(trainable, report.trainable_parameters);
}

TEST(Attach, RanksAlphasAndScales) {
  LoraOptions options = targets({"all-linear"});
  options.lora_alpha = 16;
  options.rank_pattern = {{"q_proj", 2}};
  options.alpha_pattern = {{".*layers\\.0\\.self_attn\\.q_proj", 6}};
  const auto model = tiny_llama();
  for (const auto& adapted : attach(*model, options, 1).adapted) {
    const bool query = adapted.path.find("q_proj") != std::string::npos;
    EXPECT_EQ(adapted.r, query ? 2 : 4);
    const bool special = adapted.path == "model.layers.0.self_attn.q_proj";
    EXPECT_DOUBLE_EQ(adapted.scale, special ? 3.0 : query ? 8.0 : 4.0) << adapted.path;
  }
  detach(*model);
  options.use_rslora = true;
  EXPECT_DOUBLE_EQ(attach(*model, options, 1).adapted.back().scale, 16 / std::sqrt(4.0));
}

TEST(Attach, FreshAdaptersChangeNothingAndFalseOnesDo) {
  for (const char* how : {"true", "gaussian", "false"}) {
    const auto model = tiny_llama();
    const Batch batch = random_batch({6, 4}, 23);
    const at::NoGradGuard no_grad;
    const at::Tensor before = logits_of(*model, batch);
    LoraOptions options = targets({"all-linear", "lm_head", "embed_tokens"});
    options.init_lora_weights = how;
    attach(*model, options, 1);
    const double moved = (logits_of(*model, batch) - before).abs().max().item<double>();
    if (std::string(how) == "false") {
      EXPECT_GT(moved, 1e-2);
      enable_adapters(*model, false);
      EXPECT_TRUE(at::equal(logits_of(*model, batch), before));
      enable_adapters(*model, true);
      EXPECT_GT((logits_of(*model, batch) - before).abs().max().item<double>(), 1e-2);
      detach(*model);
      EXPECT_TRUE(at::equal(logits_of(*model, batch), before));
    } else {
      EXPECT_LT(moved, 1e-6);
    }
  }
}

TEST(Attach, InitialWeightsAreThoseOfPeftInDistribution) {
  models::LlamaConfig config = tiny_config();
  config.hidden_size = 64;
  const auto model = tiny_llama(at::kFloat, config);
  LoraOptions options = targets({"down_proj", "up_proj", "embed_tokens"});
  options.r = 32;
  attach(*model, options, 1);
  auto& up = dynamic_cast<nn::Linear&>(*model->find("model.layers.0.mlp.up_proj")).adapters.at(0);
  EXPECT_LE(up.a.abs().max().item<double>(), 1 / 8.0) << "Kaiming-uniform with a = sqrt 5: 1 / sqrt(in)";
  EXPECT_NEAR(up.a.std().item<double>(), 1 / 8.0 / std::sqrt(3.0), 0.005);
  EXPECT_EQ(up.b.abs().max().item<double>(), 0);
  auto& embedding = model->input_embeddings().adapters.at(0);
  EXPECT_EQ(embedding.a.abs().max().item<double>(), 0);
  EXPECT_NEAR(embedding.b.std().item<double>(), 1, 0.05);
  EXPECT_EQ(embedding.a.sizes(), at::IntArrayRef({32, 23}));
  EXPECT_EQ(embedding.b.sizes(), at::IntArrayRef({64, 32}));
  detach(*model);
  options.init_lora_weights = "gaussian";
  attach(*model, options, 1);
  EXPECT_NEAR(up.a.std().item<double>(), 1 / 32.0, 0.002);
}

TEST(Attach, WeightsDependOnSeedAndPathOnly) {
  const auto first = tiny_llama();
  const auto second = tiny_llama();
  attach(*first, targets({"q_proj"}), 5);
  attach(*second, targets({"all-linear"}), 5);
  const auto weight = [](models::LanguageModel& model) {
    return dynamic_cast<nn::Linear&>(*model.find("model.layers.1.self_attn.q_proj")).adapters.at(0).a;
  };
  EXPECT_TRUE(at::equal(weight(*first), weight(*second)));
  detach(*second);
  attach(*second, targets({"all-linear"}), 6);
  EXPECT_FALSE(at::equal(weight(*first), weight(*second)));
}

TEST(Attach, ParametersHavePeftNamesRolesAndAFixedOrder) {
  models::LlamaConfig config = tiny_config();
  config.num_hidden_layers = 1;
  const auto model = tiny_llama(at::kBFloat16, config);
  models::quantize(*model);
  attach(*model, targets({"embed_tokens", "k_proj", "lm_head"}), 1);
  std::vector<std::string> names;
  for (const optim::Parameter& parameter : trainable_parameters(*model)) {
    names.push_back(parameter.name);
    EXPECT_TRUE(parameter.adapter);
    EXPECT_EQ(parameter.tensor.scalar_type(), at::kFloat);
    EXPECT_TRUE(parameter.tensor.is_contiguous());
    const bool head = parameter.name.find("lm_head") == 0;
    const bool embedding = parameter.name.find("embed_tokens") != std::string::npos;
    EXPECT_EQ(parameter.role, head        ? optim::Role::kHead
                              : embedding ? optim::Role::kEmbedding
                                          : optim::Role::kLinear);
  }
  EXPECT_THAT(names, ElementsAre("model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B",
                                 "model.layers.0.self_attn.k_proj.lora_A.weight",
                                 "model.layers.0.self_attn.k_proj.lora_B.weight", "lm_head.lora_A.weight",
                                 "lm_head.lora_B.weight"));
  EXPECT_EQ(count_parameters(*model), 2 * 23 * 16 + 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24 + 3 * 16);
}

TEST(Attach, FullTrainingListsEveryWeightWithItsRole) {
  models::LlamaConfig config = tiny_config();
  config.num_hidden_layers = 1;
  config.attention_bias = true;
  config.tie_word_embeddings = true;
  const auto model = tiny_llama(at::kFloat, config);
  EXPECT_TRUE(trainable_parameters(*model).empty());
  train_all(*model);
  std::map<std::string, optim::Role> roles;
  for (const auto& parameter : trainable_parameters(*model)) roles[parameter.name] = parameter.role;
  EXPECT_EQ(roles.size(), 1U + 2 + 1 + 7 + 4);
  EXPECT_EQ(roles.at("model.embed_tokens.weight"), optim::Role::kEmbedding);
  EXPECT_EQ(roles.at("model.norm.weight"), optim::Role::kNorm);
  EXPECT_EQ(roles.at("model.layers.0.self_attn.q_proj.bias"), optim::Role::kBias);
  EXPECT_EQ(roles.at("model.layers.0.mlp.up_proj.weight"), optim::Role::kLinear);
  EXPECT_EQ(roles.count("lm_head.weight"), 0U);
  freeze(*model);
  EXPECT_TRUE(trainable_parameters(*model).empty());
  const auto quantised = tiny_llama();
  models::quantize(*quantised);
  EXPECT_THAT([&] { train_all(*quantised); }, ThrowsMessage<StateError>(HasSubstr("4 bits")));
}

TEST(Freeze, TakesWeightsAndModulesByName) {
  const auto trained = [](const std::vector<std::string>& patterns) {
    const auto model = tiny_llama();
    train_all(*model);
    freeze(*model, patterns);
    std::vector<std::string> names;
    for (const auto& parameter : trainable_parameters(*model)) names.push_back(parameter.name);
    return names;
  };
  const std::size_t all = trained({}).size();
  EXPECT_EQ(trained({"embed_tokens"}).size(), all - 1);
  EXPECT_EQ(trained({"layers.0"}).size(), all - 9) << "a module with all that is in it";
  EXPECT_EQ(trained({"input_layernorm.weight"}).size(), all - 2) << "one in each layer";
  EXPECT_EQ(trained({R"(model\.layers\.\d+\.self_attn)", "embed_tokens"}).size(), all - 9);
  EXPECT_THAT([&] { (void)trained({"embed_token"}); },
              ThrowsMessage<ConfigError>(HasSubstr("'embed_token' names no weight and no module")));
}

TEST(Attach, TiedTablesShareTheirTrainedRows) {
  models::LlamaConfig config = tiny_config();
  config.tie_word_embeddings = true;
  const auto model = tiny_llama(at::kFloat, config);
  LoraOptions options;
  options.trainable_token_indices = {{"embed_tokens", {7, 3, 7}}};
  const AttachReport report = attach(*model, options, 1);
  EXPECT_EQ(report.trainable_parameters, 2 * 16);
  EXPECT_TRUE(
      model->output_head().trainable_rows->rows.is_same(model->input_embeddings().trainable_rows->rows));
  const auto parameters = trainable_parameters(*model);
  ASSERT_EQ(parameters.size(), 1U);
  EXPECT_EQ(parameters[0].name, "model.embed_tokens.token_adapter.trainable_tokens_delta");
}

void expect_refused(const LoraOptions& options, const std::vector<std::string>& parts) {
  const auto model = tiny_llama();
  try {
    attach(*model, options, 1);
    ADD_FAILURE() << "no error";
  } catch (const ConfigError& error) {
    for (const std::string& part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
  EXPECT_TRUE(model->output_head().adapters.empty());
}

TEST(Attach, PatternsThatMatchNothingListWhatThereIs) {
  const std::string all =
      "embed_tokens, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head";
  expect_refused(targets({"q_proj", "out_proj"}), {"target_modules: 'out_proj' matches no module", all});
  expect_refused(targets({"q_prj"}), {"did you mean 'q_proj'?"});
  expect_refused(targets({"proj"}), {"'proj' matches no module"});
  expect_refused(targets({"layers\\.0.*"}), {"matches no module"});
  expect_refused(targets({"(q_proj"}), {"'(q_proj' is not a regular expression"});
  LoraOptions options = targets({"q_proj"});
  options.exclude_modules = {"wte"};
  expect_refused(options, {"exclude_modules: 'wte'"});
  options = targets({"q_proj"});
  options.modules_to_save = {"score"};
  expect_refused(options, {"modules_to_save: 'score'"});
  options = targets({"q_proj"});
  options.rank_pattern = {{"c_attn", 3}};
  expect_refused(options, {"rank_pattern: 'c_attn'"});
  options = targets({"q_proj"});
  options.alpha_pattern = {{"c_attn", 3}};
  expect_refused(options, {"alpha_pattern: 'c_attn'"});
}

TEST(Attach, PatternsAreThoseOfPython) {
  EXPECT_TRUE(matches("(?P<part>q|v)_proj|.*\\.(?P=part)?[qv]_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(matches(R"(.*layers\.[0-3]\.mlp\..*)", "model.layers.3.mlp.up_proj"));
  EXPECT_FALSE(matches(R"(layers\.[0-3]\.mlp\..*)", "model.layers.3.mlp.up_proj"));  // fullmatch, not search.
  EXPECT_TRUE(matches(R"((?i:.*Q_PROJ)(?<!k_proj))", "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(matches("model.*(q_proj|k_proj)$", "model.layers.0.self_attn.k_proj"));
  EXPECT_FALSE(
      matches("(q_proj|model.layers.0)", "model.layers.0.self_attn.q_proj"));  // The longest way is tried.
  EXPECT_TRUE(matches_end("[qk]_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_FALSE(matches_end("[qk]_proj", "model.layers.0.self_attn.xq_proj"));
}

TEST(Attach, RunawayPatternsEndInAMessage) {
  // Each has taken a backtracking engine hours, or its stack.
  for (const char* entry : {"((((.*)*)*)*)*!", "(.*a.*)*(.*b.*)*(.*c.*)*!",
                            "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)!", "(?:(?:[a-z._0-9]+)+)+!", "(?:.|.)*!"}) {
    SCOPED_TRACE(entry);
    try {
      EXPECT_FALSE(matches(entry, std::string(60, 'a') + ".layers.0.self_attn.q_proj"));
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("takes too many steps"));
    }
  }
  expect_refused(targets({"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)[A-Z]"}), {"takes too many steps on"});
  LoraOptions options = targets({"q_proj"});
  options.rank_pattern = {{"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)[A-Z]", 3}};
  expect_refused(options, {"takes too many steps on"});
  expect_refused(targets({std::string(300, '(') + std::string(300, ')')}), {"is not a regular expression"});
  expect_refused(targets({std::string(5000, '*')}), {"5000 bytes; the most is 4096"});
}

TEST(Attach, HundredsOfExpressionsAreUsual) {
  // PEFT's way to name one module alone; a large model has hundreds.
  LoraOptions options = targets({"q_proj"});
  for (int i = 0; i < 1000; ++i)
    options.rank_pattern["^model.layers." + std::to_string(i % 2) + "(?:|x" + std::to_string(i) +
                         ").self_attn.q_proj$"] = 3;
  EXPECT_NO_THROW((void)attach(*tiny_llama(), options, 0));
}

TEST(Attach, ManySlowExpressionsEndInAMessage) {
  // Each is just within the limit of steps on each module, which nobody would wait for.
  const std::string path = std::string(60, 'a') + ".layers.0.self_attn.q_proj";
  const auto match_all = [&] {
    for (int i = 0; i < 1'000'000; ++i) (void)matches("(.*)(.*)(.*)!|x" + std::to_string(i % 1000), path);
  };
  begin_matching();
  EXPECT_THAT(match_all, ThrowsMessage<ConfigError>(HasSubstr("take more than 2 s: write fewer or simpler")));
  // The next adapter begins anew.
  LoraOptions options = targets({".*q_proj|v_proj"});
  EXPECT_NO_THROW((void)attach(*tiny_llama(), options, 0));
}

TEST(Attach, ALongPathIsNoStackOverflow) {
  // std::regex needed a frame a character.
  EXPECT_TRUE(matches("(?:.|x)*q_proj", std::string(20'000, 'a') + "q_proj"));
}

TEST(Attach, ListsHaveAnEnd) {
  std::vector<std::string> names(10'001, "q_proj");
  expect_refused(targets(names), {"target_modules has 10001 entries; the most is 10000"});
  LoraOptions options = targets({"q_proj"});
  for (int i = 0; i < 10'001; ++i) options.alpha_pattern["^x" + std::to_string(i)] = 2;
  expect_refused(options, {"alpha_pattern has 10001 entries; the most is 10000"});
}

TEST(Attach, RanksHaveAnEnd) {
  LoraOptions options = targets({"q_proj"});
  options.r = std::numeric_limits<std::int64_t>::max();
  expect_refused(options, {"r must be at least 1 and at most 65536, not 9223372036854775807"});
  options = targets({"q_proj"});
  options.rank_pattern = {{"q_proj", std::int64_t{1} << 40}};
  expect_refused(options, {"rank_pattern.q_proj must be at least 1 and at most 65536"});
}

TEST(Attach, ImpossibleOptionsAreRefused) {
  expect_refused(targets({}), {"nothing would be trained"});
  LoraOptions options = targets({"q_proj"});
  options.exclude_modules = {"q_proj"};
  expect_refused(options, {"nothing would be trained"});
  options = targets({"q_proj"});
  options.layers_to_transform = {2};
  expect_refused(options, {"there is no layer 2; the model has 2"});
  options = targets({"q_proj"});
  options.r = 0;
  expect_refused(options, {"r must be at least 1"});
  options = targets({"q_proj"});
  options.rank_pattern = {{"q_proj", 0}};
  expect_refused(options, {"rank_pattern.q_proj"});
  options = targets({"q_proj"});
  options.lora_dropout = 1;
  expect_refused(options, {"lora_dropout"});
  options = targets({"q_proj"});
  options.init_lora_weights = "pissa";
  expect_refused(options, {"'pissa' is none of true, gaussian, false"});
  options = targets({"q_proj"});
  options.trainable_token_indices = {{"embed_tokens", {23}}};
  expect_refused(options, {"id 23 lies outside the 23 rows"});
  options.trainable_token_indices = {{"q_proj", {1}}};
  expect_refused(options, {"neither the embedding nor the head", "model.embed_tokens, lm_head"});
  options = targets({"embed_tokens"});
  options.trainable_token_indices = {{"embed_tokens", {1}}};
  expect_refused(options, {"model.embed_tokens is also in target_modules"});
}

TEST(Attach, SecondAdapterAndFullyTrainedQuantisedModulesAreRefused) {
  const auto model = tiny_llama();
  attach(*model, targets({"q_proj"}), 1);
  EXPECT_THAT([&] { attach(*model, targets({"v_proj"}), 1); },
              ThrowsMessage<StateError>(HasSubstr("has an adapter already")));
  const auto quantised = tiny_llama();
  models::quantize(*quantised);
  LoraOptions options = targets({"q_proj"});
  options.modules_to_save = {"up_proj"};
  EXPECT_THAT([&] { attach(*quantised, options, 1); },
              ThrowsMessage<ConfigError>(HasSubstr("model.layers.0.mlp.up_proj is in 4 bits")));
  EXPECT_TRUE(dynamic_cast<nn::Linear&>(*quantised->find("model.layers.0.self_attn.q_proj")).adapters.empty())
      << "a refused call must change nothing";
  models::LlamaConfig config = tiny_config();
  config.tie_word_embeddings = true;
  const auto tied = tiny_llama(at::kFloat, config);
  options.modules_to_save = {"lm_head"};
  EXPECT_THAT([&] { attach(*tied, options, 1); },
              ThrowsMessage<ConfigError>(HasSubstr("tied to the embedding; name model.embed_tokens")));
}

}  // namespace
}  // namespace bitrain::adapters
