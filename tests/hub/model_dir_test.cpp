#include <bitrain/hub/model_dir.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/base/error.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/quantize.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>

#include "support/byte_tokenizer.h"
#include "support/temporary_directory.h"
#include "support/tiny_llama.h"

namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::random_batch;
using testing::tiny_config;
using testing::tiny_llama;

/// What `call` throws as E; fails the test when it throws nothing or something else.
template <class E>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

OpenOptions weights_only() {
  OpenOptions options;
  options.tokenizer = false;
  return options;
}

OpenedModel open(const fs::path& directory) {
  return open_model(directory, weights_only());
}

void expect_same_logits(models::LanguageModel& a, models::LanguageModel& b) {
  const Batch batch = random_batch({5, 3}, a.config().vocab_size);
  EXPECT_TRUE(at::equal(adapters::logits(a, batch), adapters::logits(b, batch)));
}

/// Every dense tensor of `a` is in `b`, bit for bit, and the other way round.
void expect_same_tensors(models::LanguageModel& a, models::LanguageModel& b) {
  std::map<std::string, at::Tensor> left;
  std::size_t seen = 0;
  a.visit_tensors([&](const std::string& name, at::Tensor& tensor) { left[name] = tensor; });
  b.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    ++seen;
    ASSERT_TRUE(left.count(name)) << name;
    EXPECT_EQ(left[name].scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(left[name], tensor)) << name;
  });
  EXPECT_EQ(seen, left.size());
}

/// A saved tiny model whose files a test may damage.
class ModelDir : public ::testing::Test {
 protected:
  ModelDir() { save_model(directory_, *model_, nullptr); }

  void edit_config(const std::function<void(io::Json&)>& change) const {
    io::Json config = io::read_json(directory_ / "config.json");
    change(config);
    io::write_json(directory_ / "config.json", config);
  }

  void edit_tensors(const std::function<void(io::NamedTensors&)>& change) const {
    const fs::path path = directory_ / "model.safetensors";
    io::NamedTensors tensors;
    {
      const io::SafetensorsFile file = io::SafetensorsFile::open(path);
      for (const std::string& name : file.names()) tensors.emplace_back(name, file.tensor(name).clone());
    }
    change(tensors);
    io::write_safetensors(path, tensors);
  }

  static at::Tensor& tensor_of(io::NamedTensors& tensors, const std::string& name) {
    for (auto& [key, tensor] : tensors)
      if (key == name) return tensor;
    throw DataError("no tensor ", name);
  }

  TemporaryDirectory temporary_;
  fs::path directory_ = temporary_.path() / "model";
  std::unique_ptr<models::LanguageModel> model_ = tiny_llama();
};

std::shared_ptr<const text::Tokenizer> small_tokenizer() {
  const std::vector<std::string> lines = {"the cat sat on the mat", "the dog ran to the cat",
                                          "a mat for the dog and the cat"};
  std::size_t next = 0;
  text::TrainOptions options;
  options.vocab_size = 32;
  options.byte_fallback = false;
  options.exact_vocab_size = false;
  return text::make_sentencepiece_tokenizer(text::train_sentencepiece(
      [&](std::string& line) {
        if (next == lines.size()) return false;
        line = lines[next++];
        return true;
      },
      options));
}

TEST_F(ModelDir, RoundTripsEveryTypeAndTying) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const bool tied : {false, true}) {
      models::LlamaConfig config = tiny_config();
      config.tie_word_embeddings = tied;
      const auto model = tiny_llama(dtype, config);
      save_model(directory_, *model, nullptr);
      const OpenedModel again = open(directory_);
      EXPECT_EQ(again.model->tied(), tied);
      EXPECT_EQ(again.tokenizer, nullptr);
      EXPECT_EQ(io::SafetensorsFile::open(directory_ / "model.safetensors").contains("lm_head.weight"),
                !tied);
      expect_same_tensors(*model, *again.model);
      expect_same_logits(*model, *again.model);
    }
}

TEST_F(ModelDir, RoundTripsBiases) {
  models::LlamaConfig config = tiny_config();
  config.model_type = "qwen2";
  const auto model = tiny_llama(at::kFloat, config);
  save_model(directory_, *model, nullptr);
  EXPECT_TRUE(io::SafetensorsFile::open(directory_ / "model.safetensors")
                  .contains("model.layers.0.self_attn.q_proj.bias"));
  const OpenedModel again = open(directory_);
  EXPECT_EQ(again.model->config().model_type, "qwen2");
  expect_same_tensors(*model, *again.model);
}

TEST_F(ModelDir, RoundTripsShards) {
  SaveOptions options;
  options.max_shard_bytes = 2000;
  save_model(directory_, *model_, nullptr, options);
  EXPECT_FALSE(fs::exists(directory_ / "model.safetensors"));
  EXPECT_TRUE(fs::exists(directory_ / "model.safetensors.index.json"));
  expect_same_tensors(*model_, *open(directory_).model);
}

TEST_F(ModelDir, RoundTripsFourBits) {
  models::LlamaConfig config = tiny_config();
  config.hidden_size = 64;
  config.intermediate_size = 128;
  const auto model = tiny_llama(at::kBFloat16, config);
  ASSERT_FALSE(models::quantize(*model).empty());
  save_model(directory_, *model, nullptr);
  const OpenedModel again = open(directory_);
  std::size_t packed = 0;
  model->visit_modules([&](const std::string& path, nn::Module& module) {
    const auto* linear = dynamic_cast<nn::Linear*>(&module);
    if (linear == nullptr || !linear->is_quantized()) return;
    const auto* other = dynamic_cast<nn::Linear*>(again.model->find(path));
    ASSERT_TRUE(other != nullptr && other->is_quantized()) << path;
    EXPECT_TRUE(at::equal(linear->dense_weight(at::kFloat), other->dense_weight(at::kFloat))) << path;
    ++packed;
  });
  EXPECT_EQ(packed, 14U);
  expect_same_tensors(*model, *again.model);
  expect_same_logits(*model, *again.model);

  // The second copy is made of the same bytes.
  const fs::path second = temporary_.path() / "second";
  save_model(second, *again.model, nullptr);
  const auto a = io::SafetensorsFile::open(directory_ / "model.safetensors");
  const auto b = io::SafetensorsFile::open(second / "model.safetensors");
  ASSERT_EQ(a.names(), b.names());
  for (const std::string& name : a.names()) EXPECT_TRUE(at::equal(a.tensor(name), b.tensor(name))) << name;
}

TEST_F(ModelDir, ConvertsTypesWhenAsked) {
  SaveOptions save;
  save.dtype = at::kBFloat16;
  save_model(directory_, *model_, nullptr, save);
  EXPECT_EQ(io::read_json(directory_ / "config.json")["dtype"], "bfloat16");
  EXPECT_EQ(open(directory_).model->input_embeddings().weight.scalar_type(), at::kBFloat16);
  OpenOptions options = weights_only();
  options.dtype = at::kFloat;
  EXPECT_EQ(open_model(directory_, options).model->input_embeddings().weight.scalar_type(), at::kFloat);
}

TEST_F(ModelDir, TakesTheTypeOfTheFilesWhereConfigNamesNone) {
  save_model(directory_, *tiny_llama(at::kBFloat16), nullptr);
  edit_config([](io::Json& config) {
    config.erase("dtype");
    config.erase("torch_dtype");
  });
  EXPECT_EQ(open(directory_).model->input_embeddings().weight.scalar_type(), at::kBFloat16);
}

TEST_F(ModelDir, QuantisesWhileOpening) {
  OpenOptions options = weights_only();
  options.quantize.emplace();
  const OpenedModel opened = open_model(directory_, options);
  const auto* linear = dynamic_cast<nn::Linear*>(opened.model->find("model.layers.1.mlp.up_proj"));
  ASSERT_NE(linear, nullptr);
  EXPECT_TRUE(linear->is_quantized());
  EXPECT_FALSE(opened.model->output_head().is_quantized());
}

TEST_F(ModelDir, WeightsAreCopies) {
  const OpenedModel opened = open(directory_);
  fs::remove_all(directory_);
  expect_same_tensors(*model_, *opened.model);
}

TEST_F(ModelDir, IgnoresWhatOldFilesHold) {
  models::LlamaConfig config = tiny_config();
  config.tie_word_embeddings = true;
  const auto model = tiny_llama(at::kFloat, config);
  save_model(directory_, *model, nullptr);
  edit_tensors([](io::NamedTensors& tensors) {
    tensors.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", at::ones({2}));
    tensors.emplace_back("lm_head.weight", tensor_of(tensors, "model.embed_tokens.weight").clone());
  });
  expect_same_tensors(*model, *open(directory_).model);
}

TEST_F(ModelDir, SavesTheTokenizerBesideTheModel) {
  const auto tokenizer = small_tokenizer();
  models::LlamaConfig config = tiny_config();
  config.vocab_size = tokenizer->vocab_size() + 5;  // More rows are padding.
  save_model(directory_, *tiny_llama(at::kFloat, config), tokenizer.get());
  const OpenedModel opened = open_model(directory_);
  ASSERT_NE(opened.tokenizer, nullptr);
  EXPECT_EQ(opened.tokenizer->vocab_size(), tokenizer->vocab_size());
  EXPECT_EQ(opened.tokenizer->encode("the cat ran"), tokenizer->encode("the cat ran"));
}

TEST_F(ModelDir, RefusesATokenizerThatIsLargerThanTheModel) {
  const auto tokenizer = small_tokenizer();
  const std::string ids = std::to_string(tokenizer->vocab_size()) + " ids";
  ASSERT_GT(tokenizer->vocab_size(), 23);
  tokenizer->save(directory_);
  EXPECT_THAT(message_of<ConfigError>([&] { (void)open_model(directory_); }),
              AllOf(HasSubstr(directory_.string()), HasSubstr(ids), HasSubstr("23 rows")));

  const test::ByteTokenizer bytes;
  const fs::path other = temporary_.path() / "other";
  EXPECT_THAT(message_of<ConfigError>([&] { save_model(other, *model_, &bytes); }),
              AllOf(HasSubstr("259 ids"), HasSubstr("23 rows")));
  EXPECT_FALSE(fs::exists(other));
}

TEST_F(ModelDir, LeavesNothingBehindWhenTheTokenizerCannotBeSaved) {
  models::LlamaConfig config = tiny_config();
  config.vocab_size = 259;
  const test::ByteTokenizer bytes;
  const fs::path parent = temporary_.path() / "parent";
  fs::create_directory(parent);
  EXPECT_THROW(save_model(parent / "model", *tiny_llama(at::kFloat, config), &bytes), UnsupportedError);
  EXPECT_TRUE(fs::is_empty(parent));
}

TEST_F(ModelDir, RefusesToSaveAdapters) {
  adapters::LoraOptions lora;
  lora.r = 2;
  const fs::path other = temporary_.path() / "other";
  for (const char* target : {"q_proj", "embed_tokens", "lm_head"}) {
    lora.target_modules = {target};
    adapters::attach(*model_, lora, 0);
    EXPECT_THAT(message_of<StateError>([&] { save_model(other, *model_, nullptr); }),
                AllOf(HasSubstr(target), HasSubstr("merge it first")));
    adapters::detach(*model_);
  }
  lora.target_modules.clear();
  lora.trainable_token_indices["embed_tokens"] = {3};
  adapters::attach(*model_, lora, 0);
  EXPECT_THAT(message_of<StateError>([&] { save_model(other, *model_, nullptr); }),
              HasSubstr("embed_tokens"));
  EXPECT_FALSE(fs::exists(other));
}

TEST_F(ModelDir, NamesAFolderThatIsNone) {
  const fs::path nowhere = temporary_.path() / "nowhere";
  EXPECT_THAT(message_of<IoError>([&] { open(nowhere); }),
              AllOf(HasSubstr(nowhere.string()), HasSubstr("is no folder")));
  EXPECT_THAT(message_of<IoError>([&] { open(directory_ / "config.json"); }), HasSubstr("is no folder"));
}

TEST_F(ModelDir, NamesAMissingConfig) {
  fs::remove(directory_ / "config.json");
  EXPECT_THAT(message_of<IoError>([&] { open(directory_); }), HasSubstr("has no config.json"));
  std::ofstream(directory_ / "adapter_config.json") << "{}";
  EXPECT_THAT(message_of<IoError>([&] { open(directory_); }),
              AllOf(HasSubstr("an adapter"), HasSubstr("open its base model")));
}

TEST_F(ModelDir, RefusesOtherFamiliesAndTypes) {
  edit_config([](io::Json& config) { config["model_type"] = "gpt_neox"; });
  EXPECT_THAT(message_of<UnsupportedError>([&] { open(directory_); }),
              AllOf(HasSubstr("config.json"), HasSubstr("gpt_neox"), HasSubstr("llama")));
  edit_config([](io::Json& config) {
    config["model_type"] = "llama";
    config["dtype"] = "float8_e4m3fn";
  });
  EXPECT_THAT(message_of<UnsupportedError>([&] { open(directory_); }),
              AllOf(HasSubstr("float8_e4m3fn"), HasSubstr("bfloat16")));
}

TEST_F(ModelDir, RefusesPickledWeights) {
  fs::rename(directory_ / "model.safetensors", directory_ / "pytorch_model.bin");
  EXPECT_THAT(message_of<UnsupportedError>([&] { open(directory_); }),
              AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("safetensors")));
}

TEST_F(ModelDir, NamesMissingWeights) {
  fs::remove(directory_ / "model.safetensors");
  EXPECT_THAT(message_of<IoError>([&] { open(directory_); }), HasSubstr("safetensors"));
}

TEST_F(ModelDir, ListsTensorsThatAreMissingOrUnexpected) {
  edit_tensors([](io::NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors)
      if (name == "model.norm.weight") name = "model.norms.weight";
  });
  EXPECT_THAT(message_of<FormatError>([&] { open(directory_); }),
              AllOf(HasSubstr(directory_.string()), HasSubstr("missing: model.norm.weight"),
                    HasSubstr("unexpected: model.norms.weight")));
  edit_config([](io::Json& config) { config["num_hidden_layers"] = 4; });
  EXPECT_THAT(message_of<FormatError>([&] { open(directory_); }),
              AllOf(HasSubstr("missing: model.layers.2."), HasSubstr("more")));
}

TEST_F(ModelDir, NamesBothShapes) {
  edit_tensors([](io::NamedTensors& tensors) { tensor_of(tensors, "model.norm.weight") = at::ones({7}); });
  EXPECT_THAT(message_of<FormatError>([&] { open(directory_); }),
              HasSubstr("model.norm.weight is [7], the model wants [16]"));
}

TEST_F(ModelDir, RefusesWholeNumbersAsWeights) {
  edit_tensors([](io::NamedTensors& tensors) {
    tensor_of(tensors, "model.norm.weight") = at::ones({16}, at::TensorOptions().dtype(at::kLong));
  });
  EXPECT_THAT(message_of<FormatError>([&] { open(directory_); }),
              AllOf(HasSubstr("model.norm.weight holds Long"), HasSubstr("floating-point")));
}

TEST_F(ModelDir, NamesAPackedWeightOfAnotherShapeOnce) {
  models::LlamaConfig config = tiny_config();
  config.hidden_size = 64;
  config.intermediate_size = 128;
  const auto model = tiny_llama(at::kFloat, config);
  (void)models::quantize(*model);
  save_model(directory_, *model, nullptr);
  edit_config([](io::Json& json) { json["intermediate_size"] = 192; });
  const std::string message = message_of<FormatError>([&] { open(directory_); });
  EXPECT_THAT(message,
              HasSubstr("model.layers.0.mlp.up_proj.weight is [128, 64], the model wants [192, 64]"));
  EXPECT_THAT(message, ::testing::Not(HasSubstr("unexpected")));
  EXPECT_THAT(message, ::testing::Not(HasSubstr("Byte")));
}

}  // namespace
}  // namespace bitrain::hub
