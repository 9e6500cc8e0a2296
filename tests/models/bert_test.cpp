#include <bitrain/models/bert/model.h>

#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros_like.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/linear.h>

#include "support/gradcheck.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using ::testing::HasSubstr;
using testing::random_batch;
using testing::relative_difference;
using ::testing::ThrowsMessage;
using testing::tiny_bert;
using testing::tiny_bert_config;

const std::vector<std::string> kLanguages = {"es", "en_XX", "sw"};

Batch with_languages(Batch batch, std::vector<std::int32_t> ids) {
  batch.language_ids = std::move(ids);
  return batch;
}

/// One row of a batch as a batch of its own.
Batch row_of(const Batch& batch, std::int64_t row) {
  const auto* values = batch.input_ids.const_data_ptr<std::int64_t>();
  const auto at = static_cast<std::size_t>(row);
  const std::vector<std::int32_t> ids(values + batch.boundaries[at], values + batch.boundaries[at + 1]);
  Batch alone = make_batch({ids}, {ids});
  if (!batch.language_ids.empty()) alone.language_ids = {batch.language_ids[at]};
  return alone;
}

void train_all(EncoderModel& model) {
  model.visit_tensors(
      [](const std::string& /*name*/, at::Tensor& tensor) { tensor.set_requires_grad(true); });
}

std::vector<BertConfig> every_kind() {
  std::vector<BertConfig> configs = {tiny_bert_config(), tiny_bert_config("xlm-roberta"),
                                     tiny_bert_config("xmod"), tiny_bert_config("xmod"),
                                     tiny_bert_config("distilbert")};
  configs[3].pre_norm = true;
  configs[3].adapter_layer_norm = true;
  configs[3].ln_before_adapter = false;
  return configs;
}

TEST(Bert, PackedIsOneByOne) {
  for (const BertConfig& config : every_kind()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      const auto model = tiny_bert(dtype, config);
      model->set_languages(kLanguages);
      const at::NoGradGuard no_grad;
      const Batch batch = with_languages(random_batch({7, 1, 30, 4}, 23), {2, 0, 2, 1});
      const at::Tensor whole = model->forward(batch, {}).hidden;
      std::vector<at::Tensor> parts;
      for (std::int64_t row = 0; row < batch.segments(); ++row)
        parts.push_back(model->forward(row_of(batch, row), {}).hidden);
      const double tolerance = dtype == at::kBFloat16 ? 3e-2 : 1e-5;
      EXPECT_LT(relative_difference(whole, at::cat(parts)), tolerance) << config.model_type << " " << dtype;
    }
  }
}

TEST(Bert, TokensSeeWhatFollowsThem) {
  const auto model = tiny_bert();
  const at::NoGradGuard no_grad;
  const at::Tensor first = model->forward(make_batch({{3, 4, 5}}, {{0, 0, 0}}), {}).hidden;
  const at::Tensor changed = model->forward(make_batch({{3, 4, 6}}, {{0, 0, 0}}), {}).hidden;
  EXPECT_GT(relative_difference(first[0], changed[0]), 1e-3);
}

/// Gradients by name, with dropout on.
std::map<std::string, at::Tensor> gradients(EncoderModel& model, const Batch& batch, bool recompute) {
  nn::ForwardContext context;
  context.training = true;
  context.recompute = recompute;
  context.dropout = {.seed = 11, .step = 4, .first_token = 100};
  const at::Tensor hidden = model.forward(batch, context).hidden.to(at::kFloat);
  (hidden * testing::random_tensor(hidden.sizes(), 5)).sum().backward();
  std::map<std::string, at::Tensor> result;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (tensor.grad().defined()) result[name] = tensor.grad().clone();
    tensor.mutable_grad() = at::Tensor();
  });
  return result;
}

TEST(Bert, RecomputationChangesNoBit) {
  for (const BertConfig& config : every_kind()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const auto model = tiny_bert(dtype, config);
      model->set_languages(kLanguages);
      train_all(*model);
      const Batch batch = with_languages(random_batch({7, 3, 12}, 23), {1, 0, 1});
      const auto plain = gradients(*model, batch, false);
      const auto recomputed = gradients(*model, batch, true);
      EXPECT_GT(plain.size(), 30U);
      ASSERT_EQ(plain.size(), recomputed.size());
      for (const auto& [name, gradient] : plain)
        EXPECT_TRUE(at::equal(gradient, recomputed.at(name))) << config.model_type << " " << name;
    }
  }
}

TEST(Bert, GradientsOfAllWeights) {
  for (const BertConfig& config : every_kind()) {
    const auto model = tiny_bert(at::kDouble, config);
    model->set_languages(kLanguages);
    train_all(*model);
    const Batch batch = with_languages(random_batch({5, 4, 6}, 23), {1, 2, 0});
    const at::Tensor weights = testing::random_tensor({15, 16}, 5, at::kDouble);
    nn::ForwardContext context;
    context.training = true;
    context.dropout = {.seed = 3, .step = 1};
    const auto loss = [&] { return (model->forward(batch, context).hidden * weights).sum(); };
    loss().backward();
    model->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
      const at::Tensor gradient = tensor.grad();
      ASSERT_TRUE(gradient.defined()) << name;
      const at::NoGradGuard no_grad;
      const at::Tensor expected = gradient.contiguous().view({-1});
      const double size = std::max(expected.abs().max().item<double>(), 1.0);
      RandomStream stream(9, name);
      for (int i = 0; i < 3; ++i) {
        const auto at = static_cast<std::int64_t>(stream.below(static_cast<std::uint64_t>(expected.numel())));
        auto* value = tensor.detach().view({-1}).mutable_data_ptr<double>() + at;
        const double centre = *value;
        const double step = 1e-5;
        *value = centre + step;
        const double above = loss().item<double>();
        *value = centre - step;
        const double below = loss().item<double>();
        *value = centre;
        EXPECT_NEAR(expected[at].item<double>(), (above - below) / (2 * step), 2e-6 * size)
            << config.model_type << " " << name << "[" << at << "]";
      }
    });
  }
}

TEST(Bert, OtherLanguagesAdaptersGetNoGradient) {
  const auto model = tiny_bert(at::kFloat, tiny_bert_config("xmod"));
  model->set_languages(kLanguages);
  train_all(*model);
  const auto found = gradients(*model, with_languages(random_batch({5, 8}, 23), {0, 0}), false);
  int own = 0;
  model->visit_tensors([&](const std::string& name, at::Tensor& /*tensor*/) {
    const bool adapter = name.find("adapter_modules") != std::string::npos;
    const bool spanish = name.find("es_XX") != std::string::npos;
    EXPECT_EQ(found.count(name), adapter && !spanish ? 0U : 1U) << name;
    if (spanish) {
      EXPECT_GT(found.at(name).abs().max().item<double>(), 0) << name;
      ++own;
    }
  });
  EXPECT_EQ(own, 8);  // Two maps with bias in each of two layers.
}

TEST(Bert, LanguagesDecideTheAdapter) {
  BertConfig config = tiny_bert_config("xmod");
  config.default_language = "sw_KE";
  const auto model = tiny_bert(at::kFloat, config);
  model->set_languages(kLanguages);
  const at::NoGradGuard no_grad;
  const Batch batch = random_batch({6}, 23);
  const auto hidden = [&](std::vector<std::int32_t> ids) {
    return model->forward(with_languages(batch, std::move(ids)), {}).hidden;
  };
  EXPECT_GT(relative_difference(hidden({0}), hidden({1})), 1e-3);
  EXPECT_TRUE(at::equal(hidden({}), hidden({2}))) << "no language: the default one";
  EXPECT_TRUE(at::equal(hidden({-1}), hidden({2})));
}

TEST(Bert, DropoutDependsOnStepAndPlaceOnly) {
  const auto model = tiny_bert();
  nn::ForwardContext context;
  context.training = true;
  context.dropout = {.seed = 2, .step = 1};
  const at::NoGradGuard no_grad;
  const Batch batch = random_batch({6, 6}, 23);
  const at::Tensor whole = model->forward(batch, context).hidden;
  EXPECT_TRUE(at::equal(whole, model->forward(batch, context).hidden));
  EXPECT_FALSE(at::equal(whole, model->forward(batch, {}).hidden));
  // The second segment as a micro-batch of its own sees the masks it had in the whole.
  context.dropout.first_token = 6;
  EXPECT_LT(relative_difference(model->forward(row_of(batch, 1), context).hidden, whole.narrow(0, 6, 6)),
            1e-6);
  context.dropout.step = 2;
  EXPECT_GT(relative_difference(model->forward(row_of(batch, 1), context).hidden, whole.narrow(0, 6, 6)),
            1e-3);
  model->config().hidden_dropout_prob = 0;
  EXPECT_TRUE(at::equal(model->forward(batch, context).hidden, model->forward(batch, {}).hidden));
}

TEST(Bert, LowRankAdaptersActOnAnyMap) {
  const auto model = tiny_bert(at::kDouble);
  const at::NoGradGuard no_grad;
  const Batch batch = random_batch({6, 3}, 23);
  const at::Tensor before = model->forward(batch, {}).hidden;
  auto* query = dynamic_cast<nn::Linear*>(model->find("encoder.layer.1.attention.self.query"));
  ASSERT_NE(query, nullptr);
  nn::LowRank pair;
  pair.a = testing::random_tensor({2, 16}, 1, at::kDouble);
  pair.b = testing::random_tensor({16, 2}, 2, at::kDouble);
  query->adapters.push_back(pair);
  model->input_embeddings().adapters.push_back({.a = testing::random_tensor({2, 23}, 3, at::kDouble),
                                                .b = testing::random_tensor({16, 2}, 4, at::kDouble)});
  const at::Tensor adapted = model->forward(batch, {}).hidden;
  EXPECT_GT(relative_difference(adapted, before), 1e-3);
  query->weight = query->merged_weight(at::kDouble);
  query->adapters.clear();
  model->input_embeddings().weight = model->input_embeddings().merged_weight(at::kDouble);
  model->input_embeddings().adapters.clear();
  EXPECT_LT(relative_difference(model->forward(batch, {}).hidden, adapted), 1e-6);
}

TEST(Bert, BadInputsAreNamed) {
  const auto bert = tiny_bert();
  const auto roberta = tiny_bert(at::kFloat, tiny_bert_config("roberta"));
  EXPECT_EQ(bert->max_tokens(), 34);
  EXPECT_EQ(roberta->max_tokens(), 32);
  const at::NoGradGuard no_grad;
  EXPECT_THROW((void)bert->forward(make_batch({{1, 23}}, {{1, 2}}), {}), DataError);
  (void)roberta->forward(random_batch({32}, 23), {});
  EXPECT_THAT(
      [&] {
        (void)roberta->forward(random_batch({3, 33}, 23), {});
      },
      ThrowsMessage<DataError>(HasSubstr("segment 1 of 33 tokens is longer than the 32 positions")));
  const Batch batch = random_batch({3}, 23);
  EXPECT_THROW((void)bert->pooled(bert->forward(batch, {}).hidden, batch, {}), StateError);
}

TEST(Bert, LanguagesWithoutAdaptersAreNamed) {
  BertConfig config = tiny_bert_config("xmod");
  config.languages.push_back("en_IN");
  const auto model = tiny_bert(at::kFloat, config);
  const at::NoGradGuard no_grad;
  const Batch batch = with_languages(random_batch({3, 4}, 23), {0, 1});
  EXPECT_THAT([&] { (void)model->forward(batch, {}); },
              ThrowsMessage<StateError>(HasSubstr("set_languages")));
  EXPECT_THAT(
      [&] {
        model->set_languages({"es", "ko"});
      },
      ThrowsMessage<ConfigError>(HasSubstr("language 'ko' has no adapter; there are: en_XX, es_XX")));
  EXPECT_THAT([&] { model->set_languages({"en"}); },
              ThrowsMessage<ConfigError>(HasSubstr("fits several adapters, name one: en_XX, en_IN")));
  model->set_languages({"es"});
  EXPECT_THAT([&] { (void)model->forward(batch, {}); },
              ThrowsMessage<DataError>(HasSubstr("language id 1 of segment 1 is outside the 1 languages")));
  EXPECT_THAT([&] { (void)model->forward(random_batch({3}, 23), {}); },
              ThrowsMessage<DataError>(HasSubstr("no default_language")));
  EXPECT_THROW((void)model->forward(with_languages(batch, {0}), {}), StateError);
  tiny_bert()->set_languages({"ko"});  // Others have no adapters to choose from.
}

io::Json valid(const char* key, const io::Json& value, const char* model_type = "xmod") {
  io::Json json = config_to_json(tiny_bert_config(model_type));
  json[key] = value;
  return json;
}

TEST(BertConfig, BadKeysAreNamed) {
  for (const char* key :
       {"model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"}) {
    EXPECT_THAT([&] { (void)bert_config_from_json(valid(key, nullptr), "some/config.json"); },
                ThrowsMessage<FormatError>(::testing::AllOf(HasSubstr("some/config.json"), HasSubstr(key))));
  }
  EXPECT_THAT([] { (void)bert_config_from_json(valid("hidden_size", "wide")); },
              ThrowsMessage<FormatError>(HasSubstr("hidden_size: an integer was expected")));
  EXPECT_THAT([] { (void)bert_config_from_json(valid("languages", "en_XX")); },
              ThrowsMessage<FormatError>(HasSubstr("languages: a list was expected")));
  EXPECT_THAT([] { (void)bert_config_from_json(valid("languages", io::Json::array({1}))); },
              ThrowsMessage<FormatError>(HasSubstr("list of strings")));
  EXPECT_THAT([] { (void)bert_config_from_json(valid("model_type", "t5")); },
              ThrowsMessage<UnsupportedError>(
                  HasSubstr("'t5' is not supported as an encoder; there are: bert, distilbert, roberta")));
  EXPECT_THAT([] { (void)bert_config_from_json(valid("hidden_act", "silu")); },
              ThrowsMessage<UnsupportedError>(HasSubstr("silu")));
  EXPECT_THAT([] { (void)bert_config_from_json(valid("position_embedding_type", "relative_key")); },
              ThrowsMessage<UnsupportedError>(HasSubstr("relative_key")));
  EXPECT_THAT([] { (void)bert_config_from_json(valid("is_decoder", true)); },
              ThrowsMessage<UnsupportedError>(HasSubstr("is_decoder")));
  EXPECT_THAT([] { (void)bert_config_from_json(valid("is_causal", true)); },
              ThrowsMessage<UnsupportedError>(HasSubstr("is_causal")));
  EXPECT_NO_THROW((void)bert_config_from_json(valid("is_causal", false)));
}

TEST(BertConfig, ImpossibleShapesAreConfigErrors) {
  const std::vector<std::pair<io::Json, const char*>> cases = {
      {valid("num_attention_heads", 3), "multiple of num_attention_heads (3)"},
      {valid("vocab_size", 0), "vocab_size must be at least 1"},
      {valid("pad_token_id", 23), "pad_token_id (23) lies outside"},
      {valid("max_position_embeddings", 2), "leaves no position"},
      {valid("hidden_dropout_prob", 1.0), "hidden_dropout_prob"},
      {valid("layer_norm_eps", 0.0), "layer_norm_eps"},
      {valid("languages", io::Json::array()), "at least one of languages"},
      {valid("languages", io::Json::array({"en", "en"})), "twice"},
      {valid("adapter_reduction_factor", 17), "adapter_reduction_factor"},
      {valid("default_language", "ko_KR"), "default_language 'ko_KR' has no adapter"}};
  for (const auto& [json, message] : cases) {
    EXPECT_THAT([&json = json] { (void)bert_config_from_json(json, "c.json"); },
                ThrowsMessage<ConfigError>(::testing::AllOf(HasSubstr("c.json"), HasSubstr(message))));
  }
}

TEST(BertConfig, DistilBertHasKeysOfItsOwn) {
  io::Json json = {{"model_type", "distilbert"},
                   {"vocab_size", 50},
                   {"dim", 16},
                   {"n_layers", 3},
                   {"n_heads", 2},
                   {"hidden_dim", 40},
                   {"activation", "relu"},
                   {"dropout", 0.2},
                   {"layer_norm_eps", 1e-5}};
  const BertConfig config = bert_config_from_json(json);
  EXPECT_EQ(config.hidden_size, 16);
  EXPECT_EQ(config.num_hidden_layers, 3);
  EXPECT_EQ(config.num_attention_heads, 2);
  EXPECT_EQ(config.intermediate_size, 40);
  EXPECT_EQ(config.hidden_act, "relu");
  EXPECT_EQ(config.hidden_dropout_prob, 0.2);
  EXPECT_EQ(config.layer_norm_eps, 1e-12) << "not a key of DistilBERT";
  EXPECT_EQ(config.first_position(), 0);
  const io::Json written = config_to_json(config);
  EXPECT_EQ(written.at("dim"), 16);
  EXPECT_FALSE(written.contains("hidden_size"));
  json["hidden_size"] = 16;
  EXPECT_NO_THROW((void)bert_config_from_json(json));
  json["hidden_size"] = 32;
  EXPECT_THAT([&] { (void)bert_config_from_json(json, "c.json"); },
              ThrowsMessage<FormatError>(HasSubstr("c.json: dim is 16, but hidden_size is 32")));
  json.erase("dim");
  EXPECT_THAT([&] { (void)bert_config_from_json(json); }, ThrowsMessage<FormatError>(HasSubstr("'dim'")));
}

TEST(BertConfig, WhatIsNotUnderstoodIsWrittenAgainAndWhatChangesIsChanged) {
  io::Json old = config_to_json(tiny_bert_config("bert"));
  old.erase("bos_token_id");
  old.erase("position_embedding_type");
  old["architectures"] = {"BertForMaskedLM"};
  old["gradient_checkpointing"] = false;
  old["id2label"] = {{"0", "no"}, {"1", "yes"}};
  BertConfig config = bert_config_from_json(old);
  io::Json now = config_to_json(config);
  EXPECT_EQ(now["architectures"], io::Json::array({"BertModel"})) << "what is written is the bare model";
  now["architectures"] = old["architectures"];
  EXPECT_EQ(now, old);
  config.vocab_size += 3;
  EXPECT_EQ(config_to_json(config)["vocab_size"], old["vocab_size"].get<int>() + 3);
  EXPECT_EQ(config_to_json(config)["gradient_checkpointing"], false);
}

TEST(BertConfig, DefaultsOfTheFamiliesAreThoseOfTransformers) {
  io::Json json = {{"model_type", "roberta"},
                   {"vocab_size", 50},
                   {"hidden_size", 16},
                   {"num_hidden_layers", 1},
                   {"num_attention_heads", 2}};
  EXPECT_EQ(bert_config_from_json(json).first_position(), 2);
  json["model_type"] = "bert";
  EXPECT_EQ(bert_config_from_json(json).first_position(), 0);
  EXPECT_FALSE(bert_config_from_json(json).bos_token_id.has_value());
}

}  // namespace
}  // namespace bitrain::models
