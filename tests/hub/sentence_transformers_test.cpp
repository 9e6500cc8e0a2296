#include <bitrain/hub/sentence_transformers.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <bitrain/io/json.h>

#include "support/gradcheck.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using models::Dense;
using models::SentenceEncoder;
using nn::Pooling;
using test::TemporaryDirectory;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_batch;
using testing::random_tensor;
using ::testing::ThrowsMessage;
using testing::tiny_bert;

at::Tensor embeddings_of(SentenceEncoder& model) {
  const at::NoGradGuard no_grad;
  return model.forward(random_batch({5, 1, 9}, 23), {});
}

/// Cls and mean, a map, normalised.
SentenceEncoder make_model(std::vector<Pooling> pooling = {Pooling::kCls, Pooling::kMean}) {
  const auto width = 16 * static_cast<std::int64_t>(pooling.size());
  auto dense = std::make_unique<Dense>(width, 6, true, nn::Activation::kTanh);
  dense->linear.weight = random_tensor({6, width}, 1);
  dense->linear.bias = random_tensor({6}, 2);
  std::vector<std::unique_ptr<Dense>> maps;
  maps.push_back(std::move(dense));
  return {tiny_bert(), {std::move(pooling), true}, std::move(maps)};
}

class SentenceTransformersTest : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path path() const { return folder_.path() / "model"; }
  [[nodiscard]] OpenedSentenceEncoder open() const {
    OpenOptions options;
    options.tokenizer = false;
    return open_sentence_encoder(path(), options);
  }
  void save(const SentenceSettings& settings = {}) {
    SentenceEncoder model = make_model();
    save_sentence_encoder(path(), model, nullptr, settings);
  }
  void write(const char* file, const io::Json& json) const {
    fs::create_directories((path() / file).parent_path());
    io::write_json(path() / file, json);
  }
  [[nodiscard]] io::Json read(const char* file) const { return io::read_json(path() / file); }
  /// Changes one key of a file.
  void edit(const char* file, const char* key, const io::Json& value) const {
    io::Json json = read(file);
    json[key] = value;
    write(file, json);
  }

  TemporaryDirectory folder_;
};

TEST_F(SentenceTransformersTest, ModelsSurviveWritingAndReading) {
  const std::vector<std::vector<Pooling>> poolings = {{Pooling::kMean},
                                                      {Pooling::kCls, Pooling::kMean},
                                                      {Pooling::kMean, Pooling::kCls},
                                                      nn::pooling_modes()};
  for (const std::vector<Pooling>& pooling : poolings) {
    SentenceEncoder model = make_model(pooling);
    SentenceSettings settings;
    settings.max_seq_length = 20;
    settings.do_lower_case = true;
    settings.include_prompt = false;
    settings.prompts = {{"query", "find: "}, {"document", ""}};
    settings.default_prompt_name = "query";
    settings.similarity_fn_name = "dot";
    save_sentence_encoder(path(), model, nullptr, settings);
    OpenedSentenceEncoder again = open();
    EXPECT_EQ(again.model->options().pooling, pooling);
    EXPECT_TRUE(at::equal(embeddings_of(*again.model), embeddings_of(model)));
    EXPECT_EQ(again.settings.max_seq_length, 20);
    EXPECT_TRUE(again.settings.do_lower_case);
    EXPECT_FALSE(again.settings.include_prompt);
    EXPECT_EQ(again.settings.prompts, settings.prompts);
    EXPECT_EQ(again.settings.default_prompt_name, "query");
    EXPECT_EQ(again.settings.similarity_fn_name, "dot");
  }
}

/// sentence-transformers does not look at the number when it pools.
TEST_F(SentenceTransformersTest, TheWidthMayBeThatOfAllPoolingModes) {
  save();
  const at::Tensor expected = embeddings_of(*open().model);
  write("1_Pooling/config.json", {{"embedding_dimension", 32}, {"pooling_mode", {"cls", "mean"}}});
  EXPECT_TRUE(at::equal(embeddings_of(*open().model), expected));
  write("1_Pooling/config.json", {{"embedding_dimension", 48}, {"pooling_mode", {"cls", "mean"}}});
  EXPECT_THAT([&] { (void)open(); },
              ThrowsMessage<FormatError>(AllOf(HasSubstr("embedding_dimension"), HasSubstr("is 48"),
                                               HasSubstr("have 16 features and 2 pooling modes make 32"))));
}

/// It drops features in training alone.
TEST_F(SentenceTransformersTest, ADropoutModuleIsPassedOver) {
  save();
  const at::Tensor expected = embeddings_of(*open().model);
  const io::Json modules = read("modules.json");
  const io::Json dropout = {
      {"idx", 9}, {"name", "9"}, {"path", "9_Dropout"}, {"type", "sentence_transformers.models.Dropout"}};
  for (std::size_t place = 2; place <= modules.size(); ++place) {
    io::Json more = modules;
    more.insert(more.begin() + static_cast<std::ptrdiff_t>(place), dropout);
    write("modules.json", more);
    EXPECT_TRUE(at::equal(embeddings_of(*open().model), expected)) << place;
  }
  io::Json before = modules;  // Before there is an embedding it could not work.
  before.insert(before.begin() + 1, dropout);
  write("modules.json", before);
  EXPECT_THAT([&] { (void)open(); },
              ThrowsMessage<UnsupportedError>(HasSubstr("not supported in this order")));
}

TEST_F(SentenceTransformersTest, FoldersOfAllVersionsAreRead) {
  save();
  OpenedSentenceEncoder expected = open();
  // Version 6: other paths of the modules, one key for the modes, the length in the tokenizer's file.
  write("modules.json",
        {{{"idx", 0}, {"path", ""}, {"type", "sentence_transformers.base.modules.transformer.Transformer"}},
         {{"idx", 1},
          {"path", "1_Pooling"},
          {"type", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}},
         {{"idx", 2}, {"path", "2_Dense"}, {"type", "sentence_transformers.base.modules.dense.Dense"}},
         {{"idx", 3}, {"path", "no_folder"}, {"type", "sentence_transformers.models.Normalize"}}});
  write("1_Pooling/config.json", {{"embedding_dimension", 16}, {"pooling_mode", {"cls", "mean"}}});
  write("sentence_bert_config.json", {{"transformer_task", "feature-extraction"}});
  write("tokenizer_config.json", {{"model_max_length", 12}});
  OpenedSentenceEncoder newest = open();
  EXPECT_TRUE(at::equal(embeddings_of(*newest.model), embeddings_of(*expected.model)));
  EXPECT_EQ(newest.settings.max_seq_length, 12);
  write("tokenizer_config.json", {{"model_max_length", 1e30}});
  EXPECT_EQ(open().settings.max_seq_length, 34) << "no limit: the model's own";

  // The first versions: four booleans, the settings under the family's name.
  write("1_Pooling/config.json", {{"word_embedding_dimension", 16},
                                  {"pooling_mode_cls_token", true},
                                  {"pooling_mode_mean_tokens", true},
                                  {"pooling_mode_max_tokens", false},
                                  {"pooling_mode_mean_sqrt_len_tokens", false}});
  fs::remove(path() / "sentence_bert_config.json");
  write("sentence_roberta_config.json", {{"max_seq_length", 1000}});
  OpenedSentenceEncoder oldest = open();
  EXPECT_TRUE(at::equal(embeddings_of(*oldest.model), embeddings_of(*expected.model)));
  EXPECT_EQ(oldest.settings.max_seq_length, 34) << "never beyond the positions of the model";
}

TEST_F(SentenceTransformersTest, PoolingKeysOfBothForms) {
  save();
  fs::remove_all(path() / "2_Dense");
  io::Json modules = read("modules.json");
  modules.erase(2);
  write("modules.json", modules);
  const auto modes = [&](const io::Json& config) {
    write("1_Pooling/config.json", config);
    return open().model->options().pooling;
  };
  for (const Pooling mode : nn::pooling_modes())
    EXPECT_EQ(modes({{"pooling_mode", nn::pooling_name(mode)}}), std::vector<Pooling>{mode});
  EXPECT_EQ(modes({{"pooling_mode", {"max", "cls"}}}), (std::vector<Pooling>{Pooling::kMax, Pooling::kCls}));
  EXPECT_EQ(modes({{"pooling_mode_lasttoken", true}, {"pooling_mode_weightedmean_tokens", true}}),
            (std::vector<Pooling>{Pooling::kWeightedMean, Pooling::kLastToken}));
  EXPECT_EQ(modes({{"pooling_mode_max_tokens", true}, {"pooling_mode", "cls"}}),
            std::vector<Pooling>{Pooling::kCls});
  EXPECT_EQ(modes(io::Json::object()), std::vector<Pooling>{Pooling::kMean});
}

TEST_F(SentenceTransformersTest, WrittenFoldersHaveTheOldKeys) {
  save();
  EXPECT_EQ(read("modules.json")[0]["type"], "sentence_transformers.models.Transformer");
  EXPECT_EQ(read("modules.json")[3]["path"], "3_Normalize");
  EXPECT_EQ(read("1_Pooling/config.json")["pooling_mode_cls_token"], true);
  EXPECT_EQ(read("1_Pooling/config.json")["pooling_mode_lasttoken"], false);
  EXPECT_EQ(read("2_Dense/config.json")["activation_function"], "torch.nn.modules.activation.Tanh");
  EXPECT_TRUE(fs::exists(path() / "2_Dense" / "model.safetensors"));
  EXPECT_EQ(read("sentence_bert_config.json")["max_seq_length"], 512);
}

TEST_F(SentenceTransformersTest, WhatIsNotUnderstoodIsWrittenAgain) {
  save();
  edit("config_sentence_transformers.json", "__version__", {{"sentence_transformers", "5.1.0"}});
  edit("config_sentence_transformers.json", "prompts", {{"query", "q: "}});
  const io::Json modalities = {{"text", {{"method", "forward"}, {"method_output_name", "last_hidden_state"}}},
                               {"image", "i"}};
  write("sentence_bert_config.json", {{"max_seq_length", nullptr},
                                      {"modality_config", modalities},
                                      {"processor_kwargs", {{"model_max_length", 9}, {"use_fast", true}}}});
  write("1_Pooling/config.json",
        {{"pooling_mode", {"cls", "mean"}}, {"embedding_dimension", 16}, {"odd", 1}});
  edit("config.json", "odd", "key");
  const char* files[] = {"config_sentence_transformers.json", "sentence_bert_config.json",
                         "1_Pooling/config.json", "config.json"};
  std::vector<io::Json> before;
  for (const char* file : files) before.push_back(read(file));
  OpenedSentenceEncoder opened = open();
  EXPECT_EQ(opened.settings.max_seq_length, 9);
  save_sentence_encoder(path(), *opened.model, nullptr, opened.settings);
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(read(files[i]), before[i]) << files[i];

  opened.settings.max_seq_length = 77;
  opened.settings.prompts["passage"] = "p: ";
  save_sentence_encoder(path(), *opened.model, nullptr, opened.settings);
  EXPECT_EQ(read("sentence_bert_config.json")["max_seq_length"], 77);
  EXPECT_EQ(read("sentence_bert_config.json")["processor_kwargs"], io::Json({{"use_fast", true}}))
      << "a length there would go before the new one";
  EXPECT_EQ(read("sentence_bert_config.json")["modality_config"], modalities);
  EXPECT_EQ(read("config_sentence_transformers.json")["prompts"]["passage"], "p: ");
  EXPECT_TRUE(read("config_sentence_transformers.json").contains("__version__"));
}

TEST_F(SentenceTransformersTest, AFolderOfHuggingFaceIsPooledByItsMean) {
  save();
  fs::remove(path() / "modules.json");
  const OpenedSentenceEncoder plain = open();
  EXPECT_EQ(plain.model->options().pooling, std::vector<Pooling>{Pooling::kMean});
  EXPECT_FALSE(plain.model->options().normalize);
  EXPECT_EQ(plain.model->dimension(), 16);
}

TEST_F(SentenceTransformersTest, UnknownPartsAreNamedWithThoseKnown) {
  save();
  const auto fails = [&](const char* message, const char* known = "") {
    EXPECT_THAT([&] { (void)open(); },
                ThrowsMessage<UnsupportedError>(AllOf(HasSubstr(message), HasSubstr(known))));
  };
  const io::Json modules = read("modules.json");
  io::Json changed = modules;
  changed[2]["type"] = "sentence_transformers.models.LSTM";
  write("modules.json", changed);
  fails("'sentence_transformers.models.LSTM' is not supported", "Transformer, Pooling, Dense, Normalize");
  changed = modules;
  std::swap(changed[2], changed[3]);
  write("modules.json", changed);
  fails("the modules Transformer, Pooling, Normalize, Dense are not supported in this order");
  write("modules.json", io::Json::array({modules[0]}));
  fails("the modules Transformer are not supported");
  write("modules.json", modules);

  const io::Json pooling = read("1_Pooling/config.json");
  write("1_Pooling/config.json", {{"pooling_mode", "median"}});
  fails("the pooling mode 'median' is not supported", "cls, max, mean, mean_sqrt_len_tokens, weightedmean");
  write("1_Pooling/config.json", {{"pooling_mode_median_tokens", true}});
  fails("'median_tokens'");
  write("1_Pooling/config.json", pooling);

  const io::Json dense = read("2_Dense/config.json");
  edit("2_Dense/config.json", "activation_function", "torch.nn.modules.activation.Softmax");
  fails("Softmax", "Identity, Tanh, ReLU, GELU, Sigmoid");
  write("2_Dense/config.json", dense);
  edit("2_Dense/config.json", "use_residual", true);
  fails("use_residual");
  write("2_Dense/config.json", dense);
  edit("2_Dense/config.json", "module_input_name", "token_embeddings");
  fails("token_embeddings");
  write("2_Dense/config.json", dense);
  edit("sentence_bert_config.json", "transformer_task", "fill-mask");
  fails("fill-mask", "feature-extraction");
}

TEST_F(SentenceTransformersTest, DamagedFilesAreNamed) {
  save();
  const auto fails = [&](const char* message) {
    EXPECT_THAT([&] { (void)open(); }, ThrowsMessage<FormatError>(HasSubstr(message)));
  };
  const io::Json modules = read("modules.json");
  write("modules.json", io::Json::array());
  fails("a list of modules was expected");
  io::Json changed = modules;
  changed[1].erase("type");
  write("modules.json", changed);
  fails("the key 'type' is missing");
  changed = modules;
  changed[1]["path"] = "../elsewhere";
  write("modules.json", changed);
  fails("leaves the folder");
  write("modules.json", modules);

  const io::Json pooling = read("1_Pooling/config.json");
  edit("1_Pooling/config.json", "word_embedding_dimension", 17);
  fails(
      "embedding_dimension (word_embedding_dimension) is 17, but the transformer's hidden states have 16 "
      "features");
  write("1_Pooling/config.json", {{"pooling_mode", io::Json::array()}});
  fails("pooling_mode is an empty list");
  write("1_Pooling/config.json", {{"pooling_mode", 3}});
  fails("a name was expected");
  write("1_Pooling/config.json", pooling);

  const io::Json dense = read("2_Dense/config.json");
  edit("2_Dense/config.json", "out_features", 5);
  fails("linear.weight is [6, 32], the model wants [5, 32]");
  edit("2_Dense/config.json", "out_features", 0);
  fails("at least 1");
  write("2_Dense/config.json", dense);
  edit("sentence_bert_config.json", "max_seq_length", 0);
  fails("max_seq_length must be at least 1");
  edit("sentence_bert_config.json", "max_seq_length", 20);
  write("1_Pooling/config.json", {{"pooling_mode", "cls"}});
  EXPECT_THAT([&] { (void)open(); },
              ThrowsMessage<ConfigError>(HasSubstr("dense map 0 takes 32 features, but is given 16")));
  fs::remove(path() / "1_Pooling" / "config.json");
  EXPECT_THROW((void)open(), IoError);
}

}  // namespace
}  // namespace bitrain::hub
