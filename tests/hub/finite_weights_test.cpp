#include <cmath>
#include <functional>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/base/error.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/finite_weights.h>
#include <bitrain/hub/peft.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/quantize.h>

#include "support/message_of.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

/// Weights that are NaN or infinite: a model with them is refused when it is read.
namespace bitrain::hub {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

OpenOptions weights_only() {
  OpenOptions options;
  options.tokenizer = false;
  return options;
}

using test::message_of;

/// Sets one element of the tensor `name` in a file.
void damage(const fs::path& path, const std::string& name, double value, std::int64_t element = 0) {
  io::NamedTensors tensors;
  {
    const io::SafetensorsFile file = io::SafetensorsFile::open(path);
    ASSERT_TRUE(file.contains(name)) << name;
    for (const std::string& each : file.names()) tensors.emplace_back(each, file.tensor(each).clone());
  }
  for (auto& [each, tensor] : tensors)
    if (each == name) tensor.view(-1)[element].fill_(value);
  io::write_safetensors(path, tensors);
}

TEST(FiniteTensor, TheFirstElementThatIsNoNumberIsNamed) {
  constexpr std::int64_t kSize = 600'001;  // For several threads.
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16})
    for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL})
      for (const std::int64_t place : {std::int64_t{0}, std::int64_t{4096}, kSize - 1}) {
        at::Tensor x = at::full({kSize}, 65504, type);
        EXPECT_NO_THROW(check_finite(x, "a file", "w"));
        x[place].fill_(value);
        x[kSize - 1].fill_(value);
        EXPECT_THAT(message_of<DivergedError>([&] { check_finite(x, "a file", "w"); }),
                    AllOf(HasSubstr("a file: w holds " + to_text(value)),
                          HasSubstr(to_text("at element ", place, " of ", kSize))))
            << type << value;
      }
}

TEST(FiniteTensor, TypesWithoutThemAndNoElementsPass) {
  for (const at::ScalarType type : {at::kByte, at::kChar, at::kLong, at::kBool})
    EXPECT_NO_THROW(check_finite(at::full({7}, 1, type), "a file", "w"));
  EXPECT_NO_THROW(check_finite(at::zeros({0, 7}), "a file", "w"));
  const at::Tensor bits = at::full({3}, 0x7f, at::kByte);
  EXPECT_NO_THROW(check_finite(bits.view(at::kFloat8_e5m2).narrow(0, 0, 0), "a file", "w"));
  EXPECT_THAT(message_of<DivergedError>([&] { check_finite(bits.view(at::kFloat8_e4m3fn), "a file", "w"); }),
              HasSubstr("holds nan at element 0"));
}

class FiniteWeights : public ::testing::Test {
 protected:
  FiniteWeights() { save_model(llama_, *testing::tiny_llama(), nullptr); }

  test::TemporaryDirectory temporary_;
  fs::path llama_ = temporary_.path() / "llama";
};

TEST_F(FiniteWeights, AWeightThatIsNoNumberIsNamedWithItsFile) {
  damage(llama_ / "model.safetensors", "model.layers.1.mlp.down_proj.weight", std::nan(""), 5);
  EXPECT_THAT(message_of<DivergedError>([&] { (void)open_model(llama_, weights_only()); }),
              HasSubstr((llama_ / "model.safetensors").string() +
                        ": model.layers.1.mlp.down_proj.weight holds nan at element 5 of 384"));
}

TEST_F(FiniteWeights, AWeightThatIsNoNumberIsNamedWithItsShard) {
  SaveOptions options;
  options.max_shard_bytes = 4096;
  const fs::path folder = temporary_.path() / "shards";
  save_model(folder, *testing::tiny_llama(), nullptr, options);
  const io::Json index = io::read_json(folder / "model.safetensors.index.json");
  const std::string shard = index["weight_map"]["model.norm.weight"];
  ASSERT_GT(std::distance(fs::directory_iterator(folder), {}), 4);
  damage(folder / shard, "model.norm.weight", HUGE_VAL, 15);
  EXPECT_THAT(message_of<DivergedError>([&] { (void)open_model(folder, weights_only()); }),
              HasSubstr((folder / shard).string() + ": model.norm.weight holds inf at element 15 of 16"));
}

// Scores may not show them: the row of a piece that no text has, a bias before ReLU.
TEST_F(FiniteWeights, WeightsThatNoScoreWouldShowAreNamedToo) {
  for (const char* type : {"bert", "roberta", "xmod"}) {
    const fs::path folder = temporary_.path() / type;
    save_encoder(folder, *testing::tiny_bert(at::kFloat, testing::tiny_bert_config(type)), nullptr);
    const fs::path path = folder / "model.safetensors";
    const std::string before = io::read_file(path);
    for (const char* name : {"embeddings.word_embeddings.weight", "encoder.layer.1.intermediate.dense.bias",
                             "embeddings.position_embeddings.weight"}) {
      damage(path, name, -HUGE_VAL);
      EXPECT_THAT(message_of<DivergedError>([&] { (void)open_encoder(folder, weights_only()); }),
                  HasSubstr(path.string() + ": " + name + " holds -inf at element 0"));
      io::write_file_atomic(path, before);
    }
    EXPECT_NO_THROW((void)open_encoder(folder, weights_only()));
  }
}

TEST_F(FiniteWeights, ScalesOfPackedWeightsThatAreNoNumbersAreNamed) {
  const auto model = testing::tiny_llama();
  (void)models::quantize(*model);
  const fs::path folder = temporary_.path() / "packed";
  save_model(folder, *model, nullptr);
  const std::string name = "model.layers.0.mlp.up_proj.weight.nested_absmax";
  damage(folder / "model.safetensors", name, std::nan(""));
  EXPECT_THAT(message_of<DivergedError>([&] { (void)open_model(folder, weights_only()); }),
              HasSubstr(name + " holds nan at element 0"));
}

TEST_F(FiniteWeights, AnAdapterWithNanIsRefused) {
  const auto model = testing::tiny_llama();
  adapters::LoraOptions lora;
  lora.target_modules = {"q_proj"};
  (void)adapters::attach(*model, lora, 1);
  const fs::path folder = temporary_.path() / "adapter";
  save_adapter(folder, *model, lora, llama_.string());
  const fs::path path = folder / "adapter_model.safetensors";
  const std::string name = io::SafetensorsFile::open(path).names().front();
  damage(path, name, std::nan(""));
  EXPECT_THAT(message_of<DivergedError>([&] { (void)load_adapter(folder, *testing::tiny_llama()); }),
              HasSubstr(path.string() + ": " + name + " holds nan at element 0"));
}

}  // namespace
}  // namespace bitrain::hub
