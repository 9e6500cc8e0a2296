#include <bitrain/models/llama/config.h>

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/models/llama/model.h>

#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

io::Json valid() {
  return config_to_json(testing::tiny_config());
}

template <class Value>
io::Json with(const char* key, const Value& value) {
  io::Json json = valid();
  json[key] = value;
  return json;
}

io::Json without(const char* key) {
  io::Json json = valid();
  json.erase(key);
  return json;
}

TEST(LlamaConfig, MissingAndMistypedKeysAreFormatErrorsThatNameThem) {
  for (const char* key :
       {"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"}) {
    EXPECT_THAT([&] { (void)config_from_json(without(key), "some/config.json"); },
                ThrowsMessage<FormatError>(::testing::AllOf(HasSubstr("some/config.json"), HasSubstr(key))));
  }
  EXPECT_THAT([] { (void)config_from_json(with("hidden_size", "wide")); },
              ThrowsMessage<FormatError>(HasSubstr("hidden_size: an integer was expected")));
  EXPECT_THAT([] { (void)config_from_json(with("hidden_size", 1.5)); },
              ThrowsMessage<FormatError>(HasSubstr("hidden_size")));
  EXPECT_THAT([] { (void)config_from_json(with("hidden_size", 18446744073709551615U)); },
              ThrowsMessage<FormatError>(HasSubstr("hidden_size")));
  EXPECT_THAT([] { (void)config_from_json(with("tie_word_embeddings", 1)); },
              ThrowsMessage<FormatError>(HasSubstr("true or false")));
  EXPECT_THAT(
      [] {
        (void)config_from_json(with("eos_token_id", io::Json::array({1, "x"})));
      },
      ThrowsMessage<FormatError>(HasSubstr("eos_token_id")));
  EXPECT_THROW((void)config_from_json(io::Json::array()), FormatError);
}

TEST(LlamaConfig, ImpossibleShapesAreConfigErrors) {
  EXPECT_THAT([] { (void)config_from_json(with("num_key_value_heads", 3), "c.json"); },
              ThrowsMessage<ConfigError>(
                  ::testing::AllOf(HasSubstr("c.json"), HasSubstr("multiple of num_key_value_heads (3)"))));
  EXPECT_THAT([] { (void)config_from_json(with("vocab_size", 0)); },
              ThrowsMessage<ConfigError>(HasSubstr("vocab_size must be at least 1")));
  EXPECT_THAT([] { (void)config_from_json(with("head_dim", 7)); },
              ThrowsMessage<ConfigError>(HasSubstr("even")));
  EXPECT_THAT([] { (void)config_from_json(with("bos_token_id", 23)); },
              ThrowsMessage<ConfigError>(HasSubstr("bos_token_id (23) lies outside")));
  LlamaConfig config = testing::tiny_config();
  config.hidden_size = 18;
  EXPECT_THAT([&] { (void)make_llama(config); }, ThrowsMessage<ConfigError>(HasSubstr("hidden_size (18)")));
}

TEST(LlamaConfig, WhatThisFamilyDoesNotDoIsUnsupported) {
  EXPECT_THAT([] { (void)config_from_json(with("model_type", "gemma")); },
              ThrowsMessage<UnsupportedError>(HasSubstr("gemma")));
  EXPECT_THAT([] { (void)config_from_json(with("hidden_act", "gelu")); },
              ThrowsMessage<UnsupportedError>(HasSubstr("gelu")));
  for (const char* type : {"dynamic", "longrope", "nonsense"}) {
    EXPECT_THAT(
        [&] {
          (void)config_from_json(with("rope_parameters", io::Json{{"rope_type", type}}));
        },
        ThrowsMessage<UnsupportedError>(HasSubstr(type)));
  }
  EXPECT_THAT(
      [] {
        (void)config_from_json(with("rope_parameters", io::Json{{"partial_rotary_factor", 0.5}}));
      },
      ThrowsMessage<UnsupportedError>(HasSubstr("partial_rotary_factor")));
}

TEST(LlamaConfig, OfTwoRotaryScalingsTheOldKeyCountsAsInTransformers) {
  const io::Json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  io::Json json = with("rope_parameters", io::Json{{"rope_type", "default"}, {"rope_theta", 500.0}});
  json["rope_scaling"] = linear;
  json.erase("rope_theta");
  EXPECT_EQ(config_from_json(json).rope_parameters.rope_type, "linear");
  EXPECT_EQ(config_from_json(json).rope_parameters.rope_theta, 10000.0);
  EXPECT_EQ(config_to_json(config_from_json(json)), json);
  for (const io::Json& none : {io::Json(nullptr), io::Json::object()}) {
    json["rope_scaling"] = none;
    EXPECT_EQ(config_from_json(json).rope_parameters.rope_theta, 500.0);
  }
  LlamaConfig changed = config_from_json(json);
  changed.rope_parameters.rope_type = "linear";
  changed.rope_parameters.factor = 4.0;
  const LlamaConfig again = config_from_json(config_to_json(changed));
  EXPECT_EQ(again.rope_parameters.factor, 4.0);
  EXPECT_EQ(again.rope_parameters.rope_theta, 500.0);
}

TEST(LlamaConfig, TheOriginalLengthMayStandOutsideAndTheFactorFollowsFromIt) {
  io::Json json =
      with("rope_parameters",
           io::Json{{"rope_type", "yarn"}, {"factor", nullptr}, {"original_max_position_embeddings", 64}});
  json["max_position_embeddings"] = 128;
  EXPECT_EQ(config_from_json(json).rope_parameters.factor, 2.0);
  json["original_max_position_embeddings"] = 32;  // Goes before the one inside.
  EXPECT_EQ(config_from_json(json).rope_parameters.original_max_position_embeddings, 32);
  EXPECT_EQ(config_from_json(json).rope_parameters.factor, 4.0);
}

TEST(LlamaConfig, RotaryScalingNeedsTheKeysThatTransformersNeeds) {
  const auto scaled = [](const char* type) { return io::Json{{"rope_type", type}, {"factor", 2.0}}; };
  EXPECT_THAT(
      [] {
        (void)config_from_json(with("rope_parameters", io::Json{{"rope_type", "linear"}}));
      },
      ThrowsMessage<FormatError>(HasSubstr("the key 'factor' is missing")));
  EXPECT_THAT([&] { (void)config_from_json(with("rope_parameters", scaled("llama3"))); },
              ThrowsMessage<FormatError>(HasSubstr("the key 'low_freq_factor' is missing")));
  EXPECT_NO_THROW((void)config_from_json(with("rope_parameters", scaled("yarn"))));
}

/// gte-Qwen2, LLM2Vec; null is false to transformers.
TEST(LlamaConfig, ModelsThatSeeBothWaysAreUnsupported) {
  EXPECT_NO_THROW((void)config_from_json(with("is_causal", true)));
  for (const io::Json& value : {io::Json(false), io::Json(nullptr)}) {
    io::Json json = valid();
    json["is_causal"] = value;
    EXPECT_THAT([&] { (void)config_from_json(json, "c.json"); },
                ThrowsMessage<UnsupportedError>(HasSubstr("c.json: is_causal: " + value.dump())));
  }
}

TEST(LlamaConfig, ListsOfEndTokensAndNullsAreRead) {
  const LlamaConfig config = config_from_json(with("eos_token_id", io::Json::array({3, 5})));
  EXPECT_EQ(config.eos_token_id, (std::vector<std::int64_t>{3, 5}));
  EXPECT_EQ(config_to_json(config).at("eos_token_id"), io::Json::array({3, 5}));
  EXPECT_TRUE(config_from_json(with("eos_token_id", nullptr)).eos_token_id.empty());
  EXPECT_FALSE(config_from_json(with("bos_token_id", nullptr)).bos_token_id.has_value());
}

TEST(LlamaConfig, WhatIsNotUnderstoodIsWrittenAgainAndWhatChangesIsChanged) {
  io::Json old = valid();
  for (const char* key : {"rope_parameters", "rope_theta", "head_dim", "use_cache", "pad_token_id"})
    old.erase(key);
  old["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};  // The spelling of transformers 4.30.
  old["attention_dropout"] = 0.1;
  old["pretraining_tp"] = 1;
  old["transformers_version"] = "4.30.0";
  old["someone"] = {{"else's", "key"}};
  LlamaConfig config = config_from_json(old);
  EXPECT_EQ(config.rope_parameters.rope_type, "linear");
  EXPECT_EQ(config_to_json(config), old);
  config.vocab_size += 9;
  config.tie_word_embeddings = true;
  config.rope_parameters.factor = 4.0;
  const io::Json now = config_to_json(config);
  EXPECT_EQ(now["vocab_size"], old["vocab_size"].get<int>() + 9);
  EXPECT_EQ(now["tie_word_embeddings"], true);
  EXPECT_EQ(now["rope_parameters"]["factor"], 4.0);
  EXPECT_EQ(now["rope_scaling"]["factor"], 4.0);
  EXPECT_EQ(now["someone"], old["someone"]);
  EXPECT_EQ(now["attention_dropout"], 0.1);
  EXPECT_EQ(config_from_json(now).rope_parameters.factor, 4.0);
}

TEST(LlamaConfig, GenerationStopsWhereItsOwnFileSays) {
  LlamaConfig config = testing::tiny_config();
  config.eos_token_id = {2};
  EXPECT_EQ(config.stop_token_ids(), (std::vector<std::int64_t>{2}));
  config.generation_config = {{"temperature", 0.6}};
  EXPECT_EQ(config.stop_token_ids(), (std::vector<std::int64_t>{2}));
  config.generation_config["eos_token_id"] = {2, 5, 7};
  EXPECT_EQ(config.stop_token_ids(), (std::vector<std::int64_t>{2, 5, 7}));
  config.generation_config["eos_token_id"] = 5;
  EXPECT_EQ(config.stop_token_ids(), (std::vector<std::int64_t>{5}));
  config.generation_config["eos_token_id"] = nullptr;  // As transformers: nothing stops it.
  EXPECT_TRUE(config.stop_token_ids().empty());
  config.generation_config["eos_token_id"] = "</s>";
  EXPECT_THAT([&] { (void)config.stop_token_ids(); },
              ThrowsMessage<FormatError>(HasSubstr("generation_config.json: eos_token_id")));
}

TEST(LlamaConfig, DefaultsOfTheFamiliesAreThoseOfTransformers) {
  io::Json mistral = valid();
  mistral["model_type"] = "mistral";
  mistral.erase("num_key_value_heads");
  mistral["num_attention_heads"] = 8;
  EXPECT_EQ(config_from_json(mistral).key_value_heads(), 8);
  EXPECT_EQ(config_from_json(mistral).sliding_window, 4096);
  mistral["sliding_window"] = nullptr;
  EXPECT_FALSE(config_from_json(mistral).sliding_window.has_value());
  mistral["sliding_window"] = 6;
  mistral["use_sliding_window"] = false;  // A key of Qwen 2 alone.
  EXPECT_EQ(config_from_json(mistral).sliding_window, 6);
  mistral["model_type"] = "qwen2";
  mistral["use_sliding_window"] = false;
  EXPECT_FALSE(config_from_json(mistral).sliding_window.has_value());
  EXPECT_TRUE(config_from_json(mistral).qkv_bias());
}

TEST(LlamaConfig, SizesThatNobodyHasAreRefusedBeforeTheyAreMultiplied) {
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "head_dim"})
    EXPECT_THAT([&] { (void)config_from_json(with(key, kMost), "some/config.json"); },
                ThrowsMessage<ConfigError>(
                    ::testing::AllOf(HasSubstr("some/config.json"), HasSubstr(key), HasSubstr("at most"))))
        << key;
  for (const char* number :
       {"1e308", "9223372036854775808", "123456789012345678901234567890", "1e400", "-1e999", "2.5"})
    EXPECT_THROW(
        (void)config_from_json(
            with("hidden_size", io::parse_json("[" + std::string(number) + "]", "number")[0]), "config.json"),
        FormatError)
        << number;
}

}  // namespace
}  // namespace bitrain::models
