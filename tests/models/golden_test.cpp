// Logits, hidden states and greedy continuations of transformers (golden/make_golden.py).
#include <string>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/base/batch.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/generation.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/llama/model.h>

#include "support/gradcheck.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

class Golden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string path =
        std::string(BITRAIN_SOURCE_DIR) + "/tests/models/golden/" + GetParam() + ".safetensors";
    file_ = std::make_unique<io::SafetensorsFile>(io::SafetensorsFile::open(path));
    config_ = config_from_json(io::parse_json(file_->metadata().at("config"), path));
    model_ = make_llama(config_);
    std::size_t filled = 0;
    model_->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
      ASSERT_TRUE(file_->contains(name)) << name;
      const at::Tensor loaded = file_->tensor(name);
      ASSERT_EQ(loaded.sizes(), tensor.sizes()) << name;
      tensor.copy_(loaded);
      ++filled;
    });
    EXPECT_EQ(filled + 5, file_->names().size()) << "weights of the file that the model lacks";
    const std::vector<std::int32_t> ids = int32("golden.input_ids");
    std::size_t at = 0;
    for (const auto& length : io::parse_json(file_->metadata().at("lengths"), path)) {
      const auto count = length.get<std::size_t>();
      rows_.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(at),
                         ids.begin() + static_cast<std::ptrdiff_t>(at + count));
      at += count;
    }
  }

  [[nodiscard]] std::vector<std::int32_t> int32(const std::string& name) const {
    const at::Tensor tensor = file_->tensor(name).contiguous();
    const auto* values = tensor.const_data_ptr<std::int64_t>();
    return {values, values + tensor.numel()};
  }

  std::unique_ptr<io::SafetensorsFile> file_;
  LlamaConfig config_;
  std::unique_ptr<LanguageModel> model_;
  std::vector<std::vector<std::int32_t>> rows_;
};

TEST_P(Golden, PackedLogitsAreThoseOfTransformers) {
  const Batch batch = make_batch(rows_, rows_);
  nn::ForwardContext context;
  context.all_hidden = true;
  const at::NoGradGuard no_grad;
  const ModelOutput output = model_->forward(batch, context);
  const at::Tensor logits = model_->output_head().forward(output.hidden, context);
  const at::Tensor expected = file_->tensor("golden.logits");
  EXPECT_GT(expected.abs().mean().item<double>(), 0.5) << "the golden logits must not be trivial";
  EXPECT_LT((logits - expected).abs().max().item<double>(), 1e-4);
  ASSERT_EQ(output.all_hidden.size(), 3U);
  const at::Tensor layer = file_->tensor("golden.layer_1");
  EXPECT_LT((output.all_hidden[1].narrow(0, batch.tokens() - layer.size(0), layer.size(0)) - layer)
                .abs()
                .max()
                .item<double>(),
            1e-4);
}

TEST_P(Golden, GreedyContinuationsAreThoseOfTransformers) {
  GenerationOptions options;
  options.max_new_tokens = 12;
  EXPECT_EQ(generate(*model_, rows_[0], options), int32("golden.greedy"));
  options.repetition_penalty = 1.7;
  EXPECT_EQ(generate(*model_, rows_[0], options), int32("golden.penalised"));
}

TEST_P(Golden, ConfigSurvivesWritingAndReading) {
  const io::Json written = config_to_json(config_);
  const LlamaConfig again = config_from_json(written);
  EXPECT_EQ(config_to_json(again), written);
  const io::Json original = io::parse_json(file_->metadata().at("config"), "golden");
  for (const char* key : {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
                          "rms_norm_eps", "tie_word_embeddings", "rope_parameters"}) {
    if (std::string(key) != "rope_parameters") {
      EXPECT_EQ(written.at(key), original.at(key)) << key;
      continue;
    }
    for (const auto& [name, value] : original.at(key).items())
      EXPECT_EQ(written.at(key).at(name), value) << name;
  }
}

TEST_P(Golden, OlderSpellingOfTheRotaryKeysMeansTheSame) {
  LlamaConfig made_here = config_;
  made_here.read_config = nullptr;
  const io::Json now = config_to_json(made_here);
  io::Json old = now;
  old.erase("rope_parameters");
  LlamaConfig read = config_from_json(old);
  read.read_config = nullptr;
  EXPECT_EQ(config_to_json(read), now);
}

INSTANTIATE_TEST_SUITE_P(Families, Golden,
                         ::testing::Values("llama2", "llama3", "linear_tied", "yarn", "biased", "mistral",
                                           "qwen2"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace bitrain::models
