#include <bitrain/hub/encoder_dir.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/quantize.h>

#include "support/byte_tokenizer.h"
#include "support/gradcheck.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_batch;
using ::testing::ThrowsMessage;
using testing::tiny_bert;
using testing::tiny_bert_config;

OpenOptions weights_only() {
  OpenOptions options;
  options.tokenizer = false;
  return options;
}

at::Tensor hidden_of(models::EncoderModel& model) {
  const at::NoGradGuard no_grad;
  Batch batch = random_batch({5, 1, 9}, 23);
  batch.language_ids = {0, 2, 1};
  model.set_languages({"en", "es", "sw"});
  return model.forward(batch, {}).hidden;
}

/// Rewrites model.safetensors with other names, and more tensors.
void rename_weights(const fs::path& directory, const std::function<std::string(const std::string&)>& name,
                    io::NamedTensors tensors = {}) {
  {
    const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
    for (const std::string& old : source.names()) tensors.emplace_back(name(old), source.tensor(old).clone());
  }
  io::write_safetensors(directory / "model.safetensors", tensors);
}

TEST(EncoderDir, EveryKindSurvivesWritingAndReading) {
  for (const char* kind : {"bert", "distilbert", "roberta", "xlm-roberta", "camembert", "xmod"}) {
    for (const bool pooler : {false, true}) {
      const TemporaryDirectory folder;
      models::BertConfig config = tiny_bert_config(kind);
      config.adapter_layer_norm = pooler;
      const auto model = tiny_bert(at::kFloat, config, pooler);
      save_encoder(folder.path() / "model", *model, nullptr);
      const OpenedEncoder again = open_encoder(folder.path() / "model", weights_only());
      EXPECT_EQ(again.model->has_pooler(), pooler);
      EXPECT_EQ(again.model->config().model_type, kind);
      EXPECT_TRUE(at::equal(hidden_of(*again.model), hidden_of(*model))) << kind;
    }
  }
}

TEST(EncoderDir, NamesOfTaskModelsAndOfTensorflowAreRead) {
  for (const char* kind : {"bert", "xlm-roberta"}) {
    const TemporaryDirectory folder;
    const auto model = tiny_bert(at::kFloat, tiny_bert_config(kind), /*pooler=*/true);
    save_encoder(folder.path() / "model", *model, nullptr);
    const std::string prefix = std::string(kind) == "bert" ? "bert." : "roberta.";
    rename_weights(folder.path() / "model",
                   [&](std::string name) {
                     if (ends_with(name, "LayerNorm.weight")) name.replace(name.size() - 6, 6, "gamma");
                     if (ends_with(name, "LayerNorm.bias")) name.replace(name.size() - 4, 4, "beta");
                     return prefix + name;
                   },
                   {{"cls.predictions.bias", at::ones({23})},
                    {"lm_head.dense.weight", at::ones({16, 16})},
                    {prefix + "embeddings.position_ids", at::arange(34).unsqueeze(0)}});
    const OpenedEncoder again = open_encoder(folder.path() / "model", weights_only());
    EXPECT_TRUE(again.model->has_pooler());
    EXPECT_TRUE(at::equal(hidden_of(*again.model), hidden_of(*model))) << kind;
  }
}

TEST(EncoderDir, DtypesAreWhatTheFolderOrTheCallerSays) {
  const TemporaryDirectory folder;
  const auto model = tiny_bert(at::kBFloat16);
  save_encoder(folder.path() / "model", *model, nullptr);
  const auto dtype = [&](const OpenOptions& options) {
    const OpenedEncoder opened = open_encoder(folder.path() / "model", options);
    return opened.model->input_embeddings().weight.scalar_type();
  };
  EXPECT_EQ(dtype(weights_only()), at::kBFloat16);
  OpenOptions wide = weights_only();
  wide.dtype = at::kFloat;
  EXPECT_EQ(dtype(wide), at::kFloat);
}

TEST(EncoderDir, PackedWeightsStayPacked) {
  const TemporaryDirectory folder;
  models::BertConfig config = tiny_bert_config();
  config.hidden_size = 64;
  const auto model = tiny_bert(at::kFloat, config);
  save_encoder(folder.path() / "dense", *model, nullptr);
  OpenOptions options = weights_only();
  options.quantize.emplace();
  const OpenedEncoder packed = open_encoder(folder.path() / "dense", options);
  save_encoder(folder.path() / "packed", *packed.model, nullptr);
  const OpenedEncoder again = open_encoder(folder.path() / "packed", weights_only());
  EXPECT_TRUE(at::equal(hidden_of(*again.model), hidden_of(*packed.model)));
  EXPECT_FALSE(at::equal(hidden_of(*again.model), hidden_of(*model)));
}

TEST(EncoderDir, WhatDoesNotFitIsListed) {
  const TemporaryDirectory folder;
  const fs::path path = folder.path() / "model";
  EXPECT_THAT([&] { (void)open_encoder(path, weights_only()); },
              ThrowsMessage<IoError>(HasSubstr("is no folder")));
  const auto write = [&] { save_encoder(path, *tiny_bert(), nullptr); };
  write();
  io::Json config = io::read_json(path / "config.json");
  config["num_hidden_layers"] = 3;
  io::write_json(path / "config.json", config);
  EXPECT_THAT([&] { (void)open_encoder(path, weights_only()); },
              ThrowsMessage<FormatError>(HasSubstr("missing: encoder.layer.2.attention")));
  config["num_hidden_layers"] = 1;
  io::write_json(path / "config.json", config);
  EXPECT_THAT([&] { (void)open_encoder(path, weights_only()); },
              ThrowsMessage<FormatError>(HasSubstr("unexpected: encoder.layer.1.attention")));
  config["num_hidden_layers"] = 2;
  config["vocab_size"] = 24;
  io::write_json(path / "config.json", config);
  EXPECT_THAT([&] { (void)open_encoder(path, weights_only()); },
              ThrowsMessage<FormatError>(HasSubstr("embeddings.word_embeddings.weight is [23, 16]")));
  config["model_type"] = "llama";
  io::write_json(path / "config.json", config);
  EXPECT_THAT([&] { (void)open_encoder(path, weights_only()); },
              ThrowsMessage<UnsupportedError>(HasSubstr("'llama' is not supported as an encoder")));
  write();
  rename_weights(path, [](std::string name) {
    return name == "embeddings.LayerNorm.bias" ? "embeddings.LayerNorm.shift" : name;
  });
  EXPECT_THAT([&] { (void)open_encoder(path, weights_only()); },
              ThrowsMessage<FormatError>(AllOf(HasSubstr("missing: embeddings.LayerNorm.bias"),
                                               HasSubstr("did you mean 'embeddings.LayerNorm.shift'"))));
}

TEST(EncoderDir, ModelsWithAdaptersOrTooFewRowsAreNotSaved) {
  const TemporaryDirectory folder;
  const auto model = tiny_bert();
  const test::ByteTokenizer tokenizer;
  EXPECT_THAT([&] { save_encoder(folder.path() / "model", *model, &tokenizer); },
              ThrowsMessage<ConfigError>(HasSubstr("259 ids, but the model only 23 rows")));
  model->input_embeddings().adapters.push_back({.a = at::ones({1, 23}), .b = at::ones({16, 1})});
  EXPECT_THAT([&] { save_encoder(folder.path() / "model", *model, nullptr); },
              ThrowsMessage<StateError>(HasSubstr("embeddings.word_embeddings has an adapter")));
  EXPECT_FALSE(fs::exists(folder.path() / "model")) << "nothing half written";
}

at::Tensor predictions_of(models::MaskedLanguageModel& model) {
  const at::NoGradGuard no_grad;
  return model.output_head().forward(model.transform(hidden_of(model.encoder()), {}), {});
}

std::unique_ptr<models::MaskedLanguageModel> tiny_masked_lm(const models::BertConfig& config,
                                                            bool next_sentence) {
  auto model = std::make_unique<models::MaskedLanguageModel>(tiny_bert(at::kFloat, config, next_sentence),
                                                             next_sentence);
  models::initialise_heads(*model, 5);
  return model;
}

TEST(MaskedLmDir, EveryKindSurvivesWritingAndReading) {
  for (const char* kind : {"bert", "distilbert", "roberta", "xlm-roberta", "camembert", "xmod"}) {
    for (const bool next_sentence : {false, true}) {
      if (next_sentence && std::string(kind) != "bert") continue;
      const TemporaryDirectory folder;
      const fs::path path = folder.path() / "model";
      const auto model = tiny_masked_lm(tiny_bert_config(kind), next_sentence);
      save_masked_lm(path, *model, nullptr);
      const OpenedMaskedLm again = open_masked_lm(path, weights_only());
      EXPECT_EQ(again.model->has_next_sentence(), next_sentence);
      EXPECT_EQ(again.model->encoder().has_pooler(), next_sentence);
      EXPECT_TRUE(at::equal(predictions_of(*again.model), predictions_of(*model))) << kind;
      EXPECT_TRUE(
          at::equal(hidden_of(*open_encoder(path, weights_only()).model), hidden_of(model->encoder())));
    }
  }
}

TEST(MaskedLmDir, OnlyTheEncoderIsPacked) {
  const TemporaryDirectory folder;
  models::BertConfig config = tiny_bert_config();
  config.hidden_size = 64;
  const auto model = tiny_masked_lm(config, false);
  save_masked_lm(folder.path() / "dense", *model, nullptr);
  OpenOptions options = weights_only();
  options.quantize.emplace();
  const OpenedMaskedLm packed = open_masked_lm(folder.path() / "dense", options);
  save_masked_lm(folder.path() / "packed", *packed.model, nullptr);
  const OpenedMaskedLm again = open_masked_lm(folder.path() / "packed", weights_only());
  EXPECT_TRUE(at::equal(predictions_of(*again.model), predictions_of(*packed.model)));
  EXPECT_FALSE(at::equal(predictions_of(*again.model), predictions_of(*model)));
  const auto* dense = dynamic_cast<nn::Linear*>(again.model->find("cls.predictions.transform.dense"));
  ASSERT_NE(dense, nullptr);
  EXPECT_FALSE(dense->is_quantized());
}

TEST(MaskedLmDir, ADecoderOfItsOwnIsRefusedAndARepeatedOneIsNot) {
  for (const char* kind : {"bert", "distilbert", "xlm-roberta"}) {
    const models::BertConfig config = tiny_bert_config(kind);
    const std::string decoder = config.is_distilbert()        ? "vocab_projector.weight"
                                : config.model_type == "bert" ? "cls.predictions.decoder.weight"
                                                              : "lm_head.decoder.weight";
    const auto model = tiny_masked_lm(config, false);
    const auto keep = [](const std::string& name) { return name; };
    const at::Tensor embedding = model->encoder().input_embeddings().weight;
    for (const double factor : {1.0, 2.0}) {
      const TemporaryDirectory folder;
      save_masked_lm(folder.path() / "model", *model, nullptr);
      rename_weights(folder.path() / "model", keep, {{decoder, embedding * factor}});
      const auto open = [&] { return open_masked_lm(folder.path() / "model", weights_only()); };
      if (factor == 1.0)
        EXPECT_TRUE(at::equal(predictions_of(*open().model), predictions_of(*model)));
      else
        EXPECT_THAT([&] { (void)open(); },
                    ThrowsMessage<UnsupportedError>(AllOf(HasSubstr(decoder), HasSubstr("word_embeddings"))));
    }
  }
  const TemporaryDirectory folder;
  const auto model = tiny_masked_lm(tiny_bert_config(), false);
  save_masked_lm(folder.path() / "model", *model, nullptr);
  rename_weights(folder.path() / "model", [](const std::string& name) { return name; },
                 {{"cls.predictions.decoder.bias", at::ones({23})}});
  EXPECT_THAT([&] { (void)open_masked_lm(folder.path() / "model", weights_only()); },
              ThrowsMessage<UnsupportedError>(HasSubstr("cls.predictions.decoder.bias")));
}

TEST(MaskedLmDir, WhatDoesNotFitIsNamed) {
  const TemporaryDirectory folder;
  const fs::path path = folder.path() / "model";
  save_encoder(path, *tiny_bert(), nullptr);
  EXPECT_THAT([&] { (void)open_masked_lm(path, weights_only()); },
              ThrowsMessage<FormatError>(HasSubstr("missing: bert.embeddings")));
  const auto model = tiny_masked_lm(tiny_bert_config(), false);
  save_masked_lm(path, *model, nullptr);
  rename_weights(path, [](const std::string& name) {
    return name == "cls.predictions.transform.dense.bias" ? "cls.predictions.transform.bias" : name;
  });
  EXPECT_THAT([&] { (void)open_masked_lm(path, weights_only()); },
              ThrowsMessage<FormatError>(AllOf(HasSubstr("missing: cls.predictions.transform.dense.bias"),
                                               HasSubstr("unexpected: cls.predictions.transform.bias"))));
  io::Json config = io::read_json(path / "config.json");
  config["tie_word_embeddings"] = false;
  io::write_json(path / "config.json", config);
  EXPECT_THAT([&] { (void)open_masked_lm(path, weights_only()); },
              ThrowsMessage<UnsupportedError>(HasSubstr("tie_word_embeddings")));
  const test::ByteTokenizer tokenizer;
  EXPECT_THAT([&] { save_masked_lm(path, *model, &tokenizer); },
              ThrowsMessage<ConfigError>(HasSubstr("259 ids, but the model only 23 rows")));
}

}  // namespace
}  // namespace bitrain::hub
