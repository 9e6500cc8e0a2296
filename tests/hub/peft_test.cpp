#include <bitrain/hub/peft.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/quantize.h>

#include "support/message_of.h"
#include "support/temporary_directory.h"
#include "support/tiny_llama.h"

namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using adapters::LoraOptions;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_batch;
using testing::tiny_config;
using testing::tiny_llama;

const std::string kQuery = "base_model.model.model.layers.0.self_attn.q_proj.";

using test::message_of;

LoraOptions lora_on(std::vector<std::string> targets) {
  LoraOptions options;
  options.r = 2;
  options.lora_alpha = 4;
  options.target_modules = std::move(targets);
  return options;
}

/// Moves every trained tensor off its start, where adapters do nothing.
void stir(models::LanguageModel& model) {
  const at::NoGradGuard no_grad;
  for (const optim::Parameter& parameter : adapters::trainable_parameters(model)) {
    RandomStream stream(5, parameter.name);
    at::Tensor flat = parameter.tensor.view({-1});
    for (std::int64_t i = 0; i < flat.numel(); ++i) flat[i] += 0.2 * stream.normal();
  }
}

at::Tensor logits(models::LanguageModel& model) {
  return adapters::logits(model, random_batch({6, 4}, tiny_config().vocab_size));
}

class PeftDir : public ::testing::Test {
 protected:
  /// Saves a stirred adapter of a tiny model; returns the logits it gives.
  at::Tensor save(const LoraOptions& options, models::LanguageModel& model) const {
    adapters::attach(model, options, 1);
    stir(model);
    save_adapter(directory_, model, options, "base");
    return logits(model);
  }
  at::Tensor save(const LoraOptions& options) const { return save(options, *tiny_llama()); }

  void edit_config(const std::function<void(io::Json&)>& change) const {
    io::Json config = io::read_json(directory_ / "adapter_config.json");
    change(config);
    io::write_json(directory_ / "adapter_config.json", config);
  }

  void edit_tensors(const std::function<void(io::NamedTensors&)>& change) const {
    const fs::path path = directory_ / "adapter_model.safetensors";
    io::NamedTensors tensors;
    {
      const io::SafetensorsFile file = io::SafetensorsFile::open(path);
      for (const std::string& name : file.names()) tensors.emplace_back(name, file.tensor(name).clone());
    }
    change(tensors);
    io::write_safetensors(path, tensors);
  }

  /// Loading must fail as E and leave `model` as it was; returns the message.
  template <class E>
  std::string refusal(models::LanguageModel& model) const {
    std::map<std::string, at::Tensor> before;
    model.visit_tensors([&](const std::string& name, at::Tensor& tensor) { before[name] = tensor.clone(); });
    const std::string message = message_of<E>([&] { load_adapter(directory_, model); });
    model.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
      EXPECT_TRUE(at::equal(before[name], tensor)) << name << " was changed";
    });
    EXPECT_TRUE(adapters::trainable_parameters(model).empty());
    EXPECT_NO_THROW(adapters::attach(model, lora_on({"q_proj"}), 0)) << "adapters were left";
    return message;
  }
  template <class E>
  std::string refusal() const {
    const auto model = tiny_llama();
    adapters::freeze(*model);
    return refusal<E>(*model);
  }

  test::TemporaryDirectory temporary_;
  fs::path directory_ = temporary_.path() / "adapter";
};

std::map<std::string, LoraOptions> layouts() {
  std::map<std::string, LoraOptions> all;
  all["linears"] = lora_on({"q_proj", "down_proj"});
  all["all linears"] = lora_on({"all-linear"});
  all["embedding and head"] = lora_on({"v_proj", "embed_tokens", "lm_head"});
  all["expression"] = lora_on({".*layers\\.1\\.mlp\\..*"});
  all["rslora"] = lora_on({"o_proj"});
  all["rslora"].use_rslora = true;
  all["patterns"] = lora_on({"q_proj", "k_proj"});
  all["patterns"].rank_pattern = {{"k_proj", 3}};
  all["patterns"].alpha_pattern = {{"k_proj", 7.5}};
  all["layers"] = lora_on({"up_proj"});
  all["layers"].layers_to_transform = {1};
  all["excluded"] = lora_on({"q_proj", "k_proj"});
  all["excluded"].exclude_modules = {"model.layers.0.self_attn.q_proj"};
  all["saved"] = lora_on({"q_proj"});
  all["saved"].modules_to_save = {"lm_head"};
  all["rows"] = lora_on({"q_proj"});
  all["rows"].trainable_token_indices = {{"embed_tokens", {9, 3, 20}}};
  return all;
}

TEST_F(PeftDir, RoundTripsEveryLayout) {
  for (const auto& [name, options] : layouts()) {
    SCOPED_TRACE(name);
    const auto base = tiny_llama();
    const at::Tensor plain = logits(*base);
    const at::Tensor expected = save(options);
    EXPECT_FALSE(at::equal(plain, expected));  // The adapter does something.
    const LoraOptions read = load_adapter(directory_, *base);
    EXPECT_TRUE(at::equal(logits(*base), expected));
    EXPECT_EQ(read.r, options.r);
    EXPECT_EQ(read.target_modules, options.target_modules);
    EXPECT_EQ(read.rank_pattern, options.rank_pattern);
    EXPECT_EQ(read.alpha_pattern, options.alpha_pattern);
    EXPECT_EQ(read.modules_to_save, options.modules_to_save);
    EXPECT_EQ(read.use_rslora, options.use_rslora);
  }
}

TEST_F(PeftDir, NamesTheModulesWhereAListIsMoreThanPeftReads) {
  LoraOptions options = lora_on({"all-linear", "lm_head"});
  options.exclude_modules = {"k_proj", ".*mlp.*"};
  const at::Tensor expected = save(options);
  const auto base = tiny_llama();
  const LoraOptions read = load_adapter(directory_, *base);
  EXPECT_TRUE(at::equal(logits(*base), expected));
  EXPECT_EQ(read.target_modules.front(), "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(read.target_modules.back(), "lm_head");
  EXPECT_TRUE(read.exclude_modules.empty());
}

TEST_F(PeftDir, RoundTripsOnTiedAndFourBitBases) {
  models::LlamaConfig config = tiny_config();
  config.tie_word_embeddings = true;
  config.hidden_size = 64;
  LoraOptions options = lora_on({"q_proj", "up_proj"});
  options.trainable_token_indices = {{"embed_tokens", {5, 2}}};
  const auto first = tiny_llama(at::kFloat, config);
  const auto second = tiny_llama(at::kFloat, config);
  (void)models::quantize(*first);
  (void)models::quantize(*second);
  const at::Tensor expected = save(options, *first);
  load_adapter(directory_, *second);
  EXPECT_TRUE(at::equal(logits(*second), expected));
}

TEST_F(PeftDir, NamesAreThoseOfPeft) {
  save(layouts().at("embedding and head"));
  const auto file = io::SafetensorsFile::open(directory_ / "adapter_model.safetensors");
  for (const char* name :
       {"base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight",
        "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.embed_tokens.lora_embedding_B", "base_model.model.lm_head.lora_A.weight"})
    EXPECT_TRUE(file.contains(name)) << name;
  const io::Json config = io::read_json(directory_ / "adapter_config.json");
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["task_type"], "CAUSAL_LM");
  EXPECT_EQ(config["base_model_name_or_path"], "base");
  EXPECT_EQ(config["r"], 2);
  EXPECT_TRUE(config["inference_mode"].get<bool>());
}

/// PEFT keeps the rows in the order of the list, whatever that is.
TEST_F(PeftDir, ReadsRowsInTheOrderOfTheConfig) {
  const at::Tensor expected = save(layouts().at("rows"));
  const io::Json ids =
      io::read_json(directory_ / "adapter_config.json")["trainable_token_indices"]["embed_tokens"];
  EXPECT_EQ(ids, (io::Json{3, 9, 20}));
  edit_config([](io::Json& config) { config["trainable_token_indices"] = {20, 3, 9}; });
  edit_tensors([](io::NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors)
      if (name == "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta")
        tensor = at::stack({tensor[2], tensor[0], tensor[1]});
  });
  const auto model = tiny_llama();
  load_adapter(directory_, *model);
  EXPECT_TRUE(at::equal(logits(*model), expected));
}

/// As PEFT writes them when it saves embedding layers.
TEST_F(PeftDir, TablesBesideTheAdapterReplaceTheBase) {
  save(layouts().at("embedding and head"));
  const at::Tensor table = at::ones({23, 16});
  edit_tensors([&](io::NamedTensors& tensors) {
    tensors.emplace_back("base_model.model.model.embed_tokens.base_layer.weight", table);
  });
  const auto model = tiny_llama();
  load_adapter(directory_, *model);
  EXPECT_TRUE(at::equal(model->input_embeddings().weight, table));
}

TEST_F(PeftDir, NamesMissingFiles) {
  EXPECT_THAT(refusal<IoError>(), AllOf(HasSubstr(directory_.string()), HasSubstr("no adapter_config.json")));
  save(lora_on({"q_proj"}));
  fs::remove(directory_ / "adapter_model.safetensors");
  EXPECT_THAT(refusal<IoError>(), HasSubstr("adapter_model.safetensors"));
  std::ofstream(directory_ / "adapter_model.bin") << "pickle";
  EXPECT_THAT(refusal<UnsupportedError>(), AllOf(HasSubstr("adapter_model.bin"), HasSubstr("pickled")));
}

TEST_F(PeftDir, RefusesWhatItWouldComputeOtherwise) {
  const std::vector<std::pair<const char*, io::Json>> cases = {
      {"peft_type", "IA3"},
      {"use_dora", true},
      {"lora_bias", true},
      {"fan_in_fan_out", true},
      {"bias", "all"},
      {"init_lora_weights", "pissa_niter_4"},
      {"layer_replication", io::Json::array({io::Json::array({0, 1})})},
      {"target_parameters", io::Json::array({"w"})},
      {"use_qalora", true},
      {"alora_invocation_tokens", io::Json::array({1, 2})},
      {"arrow_config", {{"top_k", 3}}},
      {"velora_config", {{"num_groups", 2}}},
      {"monteclora_config", {{"samples", 2}}},
      {"kasa_config", {{"beta", 0.1}}},
      {"use_bdlora", {{"nblocks", 2}}},
      {"megatron_config", {{"x", 1}}},
      {"use_something_new", true},
      {"something_new", {{"x", 1}}},
      {"something_new", io::Json::array({1})}};
  for (const auto& [key, value] : cases) {
    SCOPED_TRACE(key);
    save(lora_on({"q_proj"}));
    edit_config([&, key = key, value = value](io::Json& config) { config[key] = value; });
    EXPECT_THAT(refusal<UnsupportedError>(),
                AllOf(HasSubstr("adapter_config.json"), HasSubstr(key), HasSubstr("not supported")));
  }
}

/// What such an initialisation took out of the base is missing in the published one.
TEST_F(PeftDir, RefusesInitialisationsThatMovedTheBase) {
  for (const char* name : {"pissa", "pissa_niter_16", "PiSSA", "olora", "OLoRA", "corda", "CorDA", "loftq",
                           "LoftQ", "lora_ga", "LoRA_GA"}) {
    SCOPED_TRACE(name);
    save(lora_on({"q_proj"}));
    edit_config([&](io::Json& config) { config["init_lora_weights"] = name; });
    EXPECT_THAT(refusal<UnsupportedError>(),
                AllOf(HasSubstr("init_lora_weights \"" + std::string(name) + "\" is not supported"),
                      HasSubstr("changed the base's weights"),
                      HasSubstr("path_initial_model_for_weight_conversion")));
  }
  save(lora_on({"q_proj"}));
  edit_config([](io::Json& config) { config["init_lora_weights"] = "brand_new"; });
  EXPECT_THAT(refusal<UnsupportedError>(), AllOf(HasSubstr("\"brand_new\""), HasSubstr("is not known"),
                                                 HasSubstr("gaussian, eva, orthogonal, mica")));
  edit_config([](io::Json& config) { config["init_lora_weights"] = 3; });
  EXPECT_THAT(refusal<FormatError>(),
              HasSubstr("'init_lora_weights' should be true, false or a name, not 3"));
}

TEST_F(PeftDir, ReadsWhatOnlySaysHowTrainingBegan) {
  const at::Tensor expected = save(lora_on({"q_proj"}));
  const std::vector<std::pair<const char*, io::Json>> harmless = {{"init_lora_weights", true},
                                                                  {"init_lora_weights", false},
                                                                  {"init_lora_weights", nullptr},
                                                                  {"init_lora_weights", "gaussian"},
                                                                  {"init_lora_weights", "Gaussian"},
                                                                  {"init_lora_weights", "eva"},
                                                                  {"init_lora_weights", "orthogonal"},
                                                                  {"init_lora_weights", "MiCA"},
                                                                  {"eva_config", {{"rho", 2.0}}},
                                                                  {"loftq_config", io::Json::object()},
                                                                  {"qalora_group_size", 16},
                                                                  {"megatron_core", "megatron.core"},
                                                                  {"peft_version", "0.21.2"},
                                                                  {"kasa_config", nullptr},
                                                                  {"use_something_new", false},
                                                                  {"something_new", nullptr},
                                                                  {"something_new", ""},
                                                                  {"something_new", 16},
                                                                  {"something_new", "x"}};
  for (const auto& [key, value] : harmless) {
    SCOPED_TRACE(std::string(key) + " = " + value.dump());
    edit_config([&, key = key, value = value](io::Json& config) { config[key] = value; });
    const auto model = tiny_llama();
    load_adapter(directory_, *model);
    EXPECT_TRUE(at::equal(logits(*model), expected));
    edit_config([key = key](io::Json& config) { config.erase(key); });
  }
}

/// PEFT takes the first in the order of the file.
TEST_F(PeftDir, RefusesPatternsWhoseOrderMatters) {
  LoraOptions options = lora_on({"q_proj", "k_proj"});
  options.alpha_pattern = {{"k_proj", 7.0}};
  const at::Tensor expected = save(options);
  const auto with_patterns = [&](const io::Json& patterns) {
    edit_config([&](io::Json& config) { config["alpha_pattern"] = patterns; });
  };
  for (const io::Json& same : {io::Json{{"k_proj", 7}, {"layers.9.k_proj|self_attn.k_proj", 7}},
                               io::Json{{"k_proj", 7}, {"self_attn.k_proj", 3}},  // The first by name, too.
                               io::Json{{"self_attn.k_proj", 7}, {"q_proj", 4}}}) {  // No module has both.
    SCOPED_TRACE(same.dump());
    with_patterns(same);
    const auto model = tiny_llama();
    load_adapter(directory_, *model);
    EXPECT_TRUE(at::equal(logits(*model), expected));
  }
  with_patterns({{"self_attn.k_proj", 7}, {"k_proj", 3}});
  EXPECT_THAT(
      refusal<UnsupportedError>(),
      AllOf(HasSubstr(
                "alpha_pattern: 'self_attn.k_proj' and 'k_proj' both name model.layers.0.self_attn.k_proj"),
            HasSubstr("leave one of them")));
}

TEST_F(PeftDir, NamesTheDamagedKey) {
  const std::vector<std::pair<const char*, io::Json>> cases = {
      {"r", "two"},
      {"r", 2.5},
      {"r", 0},
      {"lora_alpha", nullptr},
      {"lora_dropout", "none"},
      {"target_modules", 3},
      {"target_modules", io::Json::array({1})},
      {"use_rslora", "yes"},
      {"rank_pattern", io::Json::array({1})},
      {"rank_pattern", {{"q_proj", 1.5}}},
      {"alpha_pattern", {{"q_proj", "x"}}},
      {"layers_to_transform", "all"},
      {"trainable_token_indices", "all"},
      {"trainable_token_indices", io::Json::array({"a"})}};
  for (const auto& [key, value] : cases) {
    SCOPED_TRACE(std::string(key) + " = " + value.dump());
    save(lora_on({"q_proj"}));
    edit_config([&, key = key, value = value](io::Json& config) { config[key] = value; });
    EXPECT_THAT(refusal<FormatError>(), AllOf(HasSubstr("adapter_config.json"), HasSubstr(key)));
  }
  for (const char* text : {"", "[]", "{\"r\": 2", "{\"r\": 2, \"r\": 3}"}) {
    SCOPED_TRACE(text);
    save(lora_on({"q_proj"}));
    std::ofstream(directory_ / "adapter_config.json") << text;
    EXPECT_THAT(refusal<FormatError>(), HasSubstr("adapter_config.json"));
  }
}

TEST_F(PeftDir, RefusesABaseOfAnotherVocabulary) {
  LoraOptions options = layouts().at("embedding and head");
  options.modules_to_save = {};
  models::LlamaConfig larger = tiny_config();
  larger.vocab_size = 30;
  const auto model = tiny_llama(at::kFloat, larger);
  save(options, *model);
  EXPECT_THAT(refusal<ConfigError>(),
              AllOf(HasSubstr("adapter_model.safetensors"), HasSubstr("embed_tokens.lora_embedding_A"),
                    HasSubstr("[2, 30]"), HasSubstr("[2, 23]"), HasSubstr("23 rows")));
}

TEST_F(PeftDir, RefusesABaseOfAnotherShape) {
  models::LlamaConfig wider = tiny_config();
  wider.hidden_size = 32;
  wider.num_attention_heads = 8;
  const auto model = tiny_llama(at::kFloat, wider);
  save(lora_on({"q_proj"}), *model);
  EXPECT_THAT(refusal<ConfigError>(), AllOf(HasSubstr("q_proj"), HasSubstr("[2, 32]"), HasSubstr("[2, 16]"),
                                            HasSubstr("another shape")));
  edit_config([](io::Json& config) { config["target_modules"] = {"query_key_value"}; });
  EXPECT_THAT(refusal<ConfigError>(),
              AllOf(HasSubstr("adapter_config.json"), HasSubstr("query_key_value"), HasSubstr("q_proj")));
}

TEST_F(PeftDir, ListsTensorsThatAreMissingOrUnexpected) {
  save(lora_on({"q_proj"}));
  edit_tensors([](io::NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors)
      if (name == kQuery + "lora_B.weight") name = kQuery + "lora_C.weight";
  });
  EXPECT_THAT(refusal<FormatError>(), AllOf(HasSubstr("adapter_model.safetensors: 1 tensors are missing"),
                                            HasSubstr(kQuery + "lora_B.weight")));
  save(lora_on({"q_proj"}));
  edit_tensors([](io::NamedTensors& tensors) { tensors.emplace_back("extra", at::ones({2})); });
  EXPECT_THAT(refusal<FormatError>(), AllOf(HasSubstr("1 tensors fit no module"), HasSubstr("extra")));
}

/// modules_to_save and whole tables overwrite the base: not before all is known to fit.
TEST_F(PeftDir, AFailedLoadDoesNotTouchTheBase) {
  save(layouts().at("saved"));
  edit_tensors([](io::NamedTensors& tensors) { tensors.emplace_back("extra", at::ones({2})); });
  EXPECT_THAT(refusal<FormatError>(), HasSubstr("extra"));
  save(layouts().at("embedding and head"));
  edit_tensors([](io::NamedTensors& tensors) {
    tensors.emplace_back("base_model.model.model.embed_tokens.base_layer.weight", at::ones({23, 16}));
    tensors.emplace_back("base_model.model.lm_head.base_layer.weight", at::ones({24, 16}));
  });
  EXPECT_THAT(refusal<ConfigError>(), AllOf(HasSubstr("[24, 16]"), HasSubstr("[23, 16]")));
}

TEST_F(PeftDir, RefusesASecondAdapter) {
  save(lora_on({"q_proj"}));
  const auto model = tiny_llama();
  load_adapter(directory_, *model);
  const at::Tensor before = logits(*model);
  EXPECT_THAT(message_of<StateError>([&] { load_adapter(directory_, *model); }), HasSubstr("has an adapter"));
  EXPECT_TRUE(at::equal(logits(*model), before));
}

TEST_F(PeftDir, RefusesToSaveNothing) {
  const auto model = tiny_llama();
  adapters::freeze(*model);
  EXPECT_THAT(message_of<StateError>([&] { save_adapter(directory_, *model, {}, "base"); }),
              HasSubstr("no adapter to save"));
  EXPECT_FALSE(fs::exists(directory_));
}

}  // namespace
}  // namespace bitrain::hub
