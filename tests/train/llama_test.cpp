#include <cmath>

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/objectives/objective.h>
#include "train/tiny_run.h"

// The trainer on a real model: a small Llama, in full or as QLoRA, with everything switched on.
namespace bitrain::train {
namespace {

using testing::TemporaryFolder;
using testing::tiny_options;
using testing::TinyData;

struct Setup {
  const char* name;
  at::ScalarType dtype;
  bool lora;
};

/// A Llama of two layers with its data. The tokens are those of TinyData.
struct LlamaRun {
  LlamaRun(const Setup& setup, std::int64_t micro_batches) : data(micro_batches) {
    models::LlamaConfig config;
    config.vocab_size = testing::kVocabulary;
    config.hidden_size = 32;
    config.intermediate_size = 64;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.initializer_range = 0.1;
    model = models::make_llama(config, at::TensorOptions().dtype(setup.dtype));
    models::initialise(*model, 1);
    if (setup.lora) {
      adapters::LoraOptions lora;
      lora.r = 4;
      lora.lora_dropout = 0.1;
      lora.target_modules = {"q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"};
      adapters::attach(*model, lora, 7);
    } else {
      adapters::train_all(*model);
    }
    parts.parameters = adapters::trainable_parameters(*model);
    parts.loss = [this](const Batch& batch, const nn::ForwardContext& context) {
      return objectives::next_token_loss(*model, batch, context, {"en", "es"});
    };
    parts.source = data.source();
  }

  TrainResult run(const TrainOptions& options, const std::filesystem::path& directory = {}) {
    parts.output_dir = directory.string();
    return Trainer(options, parts).run();
  }

  std::unique_ptr<models::LanguageModel> model;
  TinyData data;
  TrainParts parts;
};

void expect_same_weights(const LlamaRun& a, const LlamaRun& b) {
  ASSERT_EQ(a.parts.parameters.size(), b.parts.parameters.size());
  for (std::size_t i = 0; i < a.parts.parameters.size(); ++i) {
    EXPECT_TRUE(at::equal(a.parts.parameters[i].tensor, b.parts.parameters[i].tensor))
        << a.parts.parameters[i].name;
  }
}

class Llama : public ::testing::TestWithParam<Setup> {};

TEST_P(Llama, ResumedAtAnOddStepIsTheUninterruptedRunBitForBit) {
  TrainOptions options = tiny_options(9);
  LlamaRun through(GetParam(), 2);
  const TrainResult whole = through.run(options);
  EXPECT_LT(whole.curve.loss.back(), whole.curve.loss.front());

  const TemporaryFolder folder;
  options.save_every = 3;
  LlamaRun first(GetParam(), 2);
  auto next = first.parts.source.next_step;
  int calls = 0;
  first.parts.source.next_step = [&]() -> std::vector<Batch> {
    if (++calls == 5) throw std::runtime_error("the power went");
    return next();
  };
  EXPECT_THROW(first.run(options, folder.path()), std::runtime_error);
  LlamaRun second(GetParam(), 2);
  const TrainResult resumed = second.run(options, folder.path());
  EXPECT_EQ(resumed.resumed_from, 3);
  EXPECT_EQ(resumed.curve.loss, whole.curve.loss);
  expect_same_weights(through, second);
}

TEST_P(Llama, RecomputeChangesNoBit) {
  TrainOptions options = tiny_options(4);
  LlamaRun kept(GetParam(), 2);
  const TrainResult a = kept.run(options);
  options.recompute = true;
  LlamaRun recomputed(GetParam(), 2);
  const TrainResult b = recomputed.run(options);
  EXPECT_EQ(a.curve.loss, b.curve.loss);
  expect_same_weights(kept, recomputed);
}

// Dropout is keyed by the position in the step, so the masks are the same however the step is cut; sums of
// gradients are taken in another order, so the last bits are not.
TEST_P(Llama, OneMicroBatchOrEightAreTheSameMathematics) {
  LlamaRun one(GetParam(), 1);
  LlamaRun eight(GetParam(), 8);
  const TrainResult a = one.run(tiny_options(5));
  const TrainResult b = eight.run(tiny_options(5));
  const double tolerance = GetParam().dtype == at::kBFloat16 ? 0.02 : 5e-5;  // Adam amplifies.
  for (std::size_t i = 0; i < a.curve.loss.size(); ++i) {
    EXPECT_NEAR(a.curve.loss[i], b.curve.loss[i], tolerance) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Setups, Llama,
                         ::testing::Values(Setup{"full_float32", at::kFloat, false},
                                           Setup{"full_bfloat16", at::kBFloat16, false},
                                           Setup{"lora_float32", at::kFloat, true},
                                           Setup{"lora_bfloat16", at::kBFloat16, true}),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace bitrain::train
