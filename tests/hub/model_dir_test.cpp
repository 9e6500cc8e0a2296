#include <bitrain/hub/model_dir.h>

#include <algorithm>
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
#include <bitrain/base/log.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/quantize.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>

#include "support/byte_tokenizer.h"
#include "support/message_of.h"
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

using test::message_of;

/// The warnings that `call` logs.
std::vector<std::string> warnings_of(const std::function<void()>& call) {
  std::vector<std::string> warnings;
  const LogSink previous = set_log_sink([&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarn) warnings.push_back(message);
  });
  call();
  set_log_sink(previous);
  return warnings;
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

TEST_F(ModelDir, CarriesOverWhatItDoesNotKnow) {
  edit_config([](io::Json& config) {
    config["pretraining_tp"] = 1;
    config["transformers_version"] = "4.44.0";
    config["someone"] = "else's key";
    config["eos_token_id"] = 2;
  });
  const io::Json generation = {{"bos_token_id", 1},
                               {"eos_token_id", {2, 5, 7}},
                               {"pad_token_id", 0},
                               {"do_sample", true},
                               {"temperature", 0.6},
                               {"top_p", 0.9},
                               {"transformers_version", "4.44.0"},
                               {"unheard_of", {1, 2}}};
  io::write_json(directory_ / "generation_config.json", generation);
  const io::Json config = io::read_json(directory_ / "config.json");
  const OpenedModel opened = open(directory_);
  const fs::path again = temporary_.path() / "again";
  save_model(again, *opened.model, nullptr);
  EXPECT_EQ(io::read_json(again / "config.json"), config);
  EXPECT_EQ(io::read_json(again / "generation_config.json"), generation);
  EXPECT_EQ(opened.model->config().stop_token_ids(), (std::vector<std::int64_t>{2, 5, 7}));

  io::write_json(directory_ / "generation_config.json", io::Json::array());
  EXPECT_THAT(message_of<FormatError>([&] { open(directory_); }),
              HasSubstr("generation_config.json: not an object"));
}

TEST_F(ModelDir, ForgetsHowTheBaseWasPackedWhereItIsNoLonger) {
  models::LlamaConfig config = tiny_config();
  config.hidden_size = 64;
  config.intermediate_size = 128;
  const auto packed = tiny_llama(at::kFloat, config);
  (void)models::quantize(*packed);
  save_model(directory_, *packed, nullptr);
  const io::Json json = io::read_json(directory_ / "config.json");
  ASSERT_TRUE(json.contains("quantization_config"));
  models::LlamaConfig read = models::config_from_json(json);
  const auto dense = tiny_llama(at::kFloat, read);
  const fs::path again = temporary_.path() / "again";
  save_model(again, *dense, nullptr);
  EXPECT_FALSE(io::read_json(again / "config.json").contains("quantization_config"));
}

/// A tied model's folder whose file has a head as well.
class TiedModelDir : public ModelDir {
 protected:
  TiedModelDir() {
    models::LlamaConfig config = tiny_config();
    config.tie_word_embeddings = true;
    model_ = tiny_llama(at::kFloat, config);
    save_model(directory_, *model_, nullptr);
  }
};

TEST_F(TiedModelDir, AHeadThatDiffersIsUsed) {
  edit_tensors([](io::NamedTensors& tensors) {
    tensors.emplace_back("lm_head.weight", tensor_of(tensors, "model.embed_tokens.weight").neg());
  });
  OpenedModel opened;
  const std::vector<std::string> warnings = warnings_of([&] { opened = open(directory_); });
  EXPECT_FALSE(opened.model->tied());
  EXPECT_TRUE(at::equal(opened.model->output_head().weight, model_->output_head().weight.neg()));
  EXPECT_THAT(warnings, ::testing::ElementsAre(
                            AllOf(HasSubstr("tie_word_embeddings: true"), HasSubstr("lm_head.weight"))));
  const fs::path again = temporary_.path() / "again";
  save_model(again, *opened.model, nullptr);
  EXPECT_EQ(io::read_json(again / "config.json")["tie_word_embeddings"], false);
  expect_same_logits(*open(again).model, *opened.model);
}

TEST_F(TiedModelDir, TheHeadAloneIsTheEmbeddingToo) {
  edit_tensors([](io::NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors)
      if (name == "model.embed_tokens.weight") name = "lm_head.weight";
  });
  expect_same_tensors(*model_, *open(directory_).model);
}

TEST_F(TiedModelDir, WithoutEitherBothAreNamed) {
  edit_tensors([](io::NamedTensors& tensors) {
    for (auto& [name, tensor] : tensors)
      if (name == "model.embed_tokens.weight") name = "wte.weight";
  });
  EXPECT_THAT(message_of<FormatError>([&] { open(directory_); }),
              AllOf(HasSubstr("missing: model.embed_tokens.weight"), HasSubstr("unexpected: wte.weight")));
}

TEST_F(ModelDir, AHeadThatIsMissingNamesTheKeyThatTiesIt) {
  edit_tensors([](io::NamedTensors& tensors) {
    tensors.erase(std::find_if(tensors.begin(), tensors.end(),
                               [](const auto& entry) { return entry.first == "lm_head.weight"; }));
  });
  EXPECT_THAT(message_of<FormatError>([&] { open(directory_); }),
              AllOf(HasSubstr("missing: lm_head.weight"), HasSubstr("tie_word_embeddings: true")));
}

TEST_F(ModelDir, NamesWeightsThatLieThereUnderAnotherName) {
  fs::rename(directory_ / "model.safetensors", directory_ / "consolidated.safetensors");
  EXPECT_THAT(message_of<IoError>([&] { open(directory_); }), HasSubstr("there is consolidated.safetensors"));
}

TEST_F(ModelDir, WarnsWhenGenerationWillNotStopAtTheTokenizersEos) {
  const auto tokenizer = small_tokenizer();
  models::LlamaConfig config = tiny_config();
  config.vocab_size = tokenizer->vocab_size();
  ASSERT_EQ(tokenizer->special_tokens().eos, 2);
  const auto warnings_with = [&](std::vector<std::int64_t> stops) {
    config.eos_token_id = std::move(stops);
    save_model(directory_, *tiny_llama(at::kFloat, config), tokenizer.get());
    return warnings_of([&] { (void)open_model(directory_); });
  };
  EXPECT_TRUE(warnings_with({2}).empty());
  EXPECT_TRUE(warnings_with({1, 2}).empty());
  EXPECT_TRUE(warnings_with({}).empty()) << "nothing is said of where to stop";
  EXPECT_THAT(warnings_with({1}),
              ::testing::ElementsAre(AllOf(HasSubstr("'</s>' (id 2)"), HasSubstr("[1]"))));
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
  EXPECT_THAT(
      message_of<ConfigError>([&] { (void)open_model(directory_); }),
      AllOf(HasSubstr(directory_.string()), HasSubstr(ids), HasSubstr("23 rows"),
            HasSubstr("'" + tokenizer->id_to_piece(23) + "' (23)"), HasSubstr("resize_token_embeddings")));

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
