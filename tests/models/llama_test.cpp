#include <bitrain/models/llama/model.h>

#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <torch/csrc/autograd/autograd.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/models/quantize.h>

#include "support/gradcheck.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using testing::logits_of;
using testing::random_batch;
using testing::relative_difference;
using testing::tiny_config;
using testing::tiny_llama;

adapters::LoraOptions everywhere() {
  adapters::LoraOptions lora;
  lora.r = 3;
  lora.lora_alpha = 6;
  lora.lora_dropout = 0.25;
  lora.target_modules = {"all-linear", "embed_tokens", "lm_head"};
  lora.init_lora_weights = "false";  // Every adapter acts from the start.
  return lora;
}

TEST(Llama, PackedSegmentsGiveWhatEachGivesAlone) {
  const auto model = tiny_llama();
  const at::NoGradGuard no_grad;
  const std::vector<std::vector<std::int32_t>> rows{{1, 2, 3}, {4}, {5, 6, 7, 8, 9, 10, 11, 12, 13}, {2, 2}};
  std::vector<at::Tensor> alone;
  for (const auto& row : rows) alone.push_back(logits_of(*model, make_batch({row}, {row})));
  const at::Tensor packed = logits_of(*model, make_batch(rows, rows));
  EXPECT_LT(relative_difference(packed, at::cat(alone)), 1e-6);
}

TEST(Llama, CachedForwardGivesTheSameHiddenStates) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const auto model = tiny_llama(dtype);
    const at::NoGradGuard no_grad;
    const Batch batch = random_batch({17}, 23);
    const at::Tensor whole = model->forward(batch, {}).hidden;
    KeyValueCache cache;
    std::vector<at::Tensor> parts;
    std::int64_t at = 0;
    for (const std::int64_t count : {6, 1, 1, 5, 4}) {
      parts.push_back(model->forward_cached(batch.input_ids.narrow(0, at, count), cache));
      at += count;
    }
    EXPECT_EQ(cache.length, 17);
    const double tolerance = dtype == at::kDouble ? 1e-6 : dtype == at::kFloat ? 1e-5 : 3e-2;
    EXPECT_LT(relative_difference(at::cat(parts), whole), tolerance) << dtype;
  }
}

TEST(Llama, InitialiseDependsOnSeedAndNameOnly) {
  LlamaConfig config = tiny_config();
  std::map<std::string, at::Tensor> small;
  const auto first = make_llama(config);
  initialise(*first, 5);
  first->visit_tensors([&](const std::string& name, at::Tensor& tensor) { small[name] = tensor.clone(); });
  config.num_hidden_layers = 3;
  config.vocab_size = 40;
  const auto larger = make_llama(config);
  initialise(*larger, 5);
  larger->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (small.count(name) == 0) return;
    EXPECT_TRUE(at::equal(tensor.narrow(0, 0, small[name].size(0)), small[name])) << name;
  });
  initialise(*larger, 6);
  EXPECT_FALSE(
      at::equal(larger->input_embeddings().weight.narrow(0, 0, 23), small["model.embed_tokens.weight"]));
  const at::Tensor& weight = small["lm_head.weight"];
  EXPECT_NEAR(weight.std().item<double>(), config.initializer_range, 0.05);
  EXPECT_TRUE(small["model.norm.weight"].eq(1).all().item<bool>());
}

TEST(Llama, TiedHeadIsTheEmbedding) {
  LlamaConfig config = tiny_config();
  config.tie_word_embeddings = true;
  const auto model = tiny_llama(at::kFloat, config);
  EXPECT_TRUE(model->output_head().weight.is_same(model->input_embeddings().weight));
  bool has_head = false;
  model->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    has_head = has_head || name == "lm_head.weight";
    tensor = tensor.to(at::kDouble);  // What loading and casting do: another tensor in its place.
  });
  EXPECT_FALSE(has_head);
  EXPECT_TRUE(model->output_head().weight.is_same(model->input_embeddings().weight));
  adapters::train_all(*model);
  logits_of(*model, random_batch({5}, 23)).sum().backward();
  EXPECT_TRUE(model->input_embeddings().weight.grad().defined());
}

TEST(Llama, LongSequencesBeyondASlidingWindowAreRefused) {
  LlamaConfig config = tiny_config();
  config.model_type = "mistral";
  config.sliding_window = 6;
  const auto model = tiny_llama(at::kFloat, config);
  const at::NoGradGuard no_grad;
  (void)model->forward(random_batch({6, 5}, 23), {});
  EXPECT_THAT(
      [&] {
        (void)model->forward(random_batch({2, 7}, 23), {});
      },
      ::testing::ThrowsMessage<UnsupportedError>(::testing::HasSubstr("sliding window of 6")));
  KeyValueCache cache;
  const Batch batch = random_batch({6}, 23);
  (void)model->forward_cached(batch.input_ids, cache);
  EXPECT_THROW((void)model->forward_cached(batch.input_ids.narrow(0, 0, 1), cache), UnsupportedError);
}

TEST(Llama, IdsOutsideTheVocabularyAreRefused) {
  const auto model = tiny_llama();
  EXPECT_THROW((void)model->forward(make_batch({{1, 23}}, {{1, 2}}), {}), DataError);
}

/// Gradients by name, with dropout on.
std::map<std::string, at::Tensor> gradients(LanguageModel& model, bool recompute, at::Tensor* loss_out) {
  nn::ForwardContext context;
  context.training = true;
  context.recompute = recompute;
  context.dropout = {.seed = 11, .step = 4, .first_token = 100};
  const at::Tensor logits = logits_of(model, random_batch({7, 3, 12}, 23), context).to(at::kFloat);
  const at::Tensor loss =
      logits.square().mean() +
      logits.index_select(1, model.input_embeddings().weight.new_zeros({1}, at::kLong)).sum();
  loss.backward();
  *loss_out = loss.detach();
  std::map<std::string, at::Tensor> result;
  for (const optim::Parameter& parameter : adapters::trainable_parameters(model)) {
    EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
    result[parameter.name] = parameter.tensor.grad().clone();
    parameter.tensor.mutable_grad() = at::Tensor();
  }
  return result;
}

void expect_recompute_changes_nothing(LanguageModel& model) {
  at::Tensor plain_loss;
  at::Tensor recomputed_loss;
  const auto plain = gradients(model, false, &plain_loss);
  const auto recomputed = gradients(model, true, &recomputed_loss);
  EXPECT_TRUE(at::equal(plain_loss, recomputed_loss));
  ASSERT_FALSE(plain.empty());
  for (const auto& [name, gradient] : plain) {
    EXPECT_GT(gradient.abs().max().item<double>(), 0) << name;
    EXPECT_TRUE(at::equal(gradient, recomputed.at(name))) << name;
  }
}

TEST(Llama, RecomputationChangesNoBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto full = tiny_llama(dtype);
    adapters::train_all(*full);
    expect_recompute_changes_nothing(*full);
    const auto adapted = tiny_llama(dtype);
    adapters::attach(*adapted, everywhere(), 1);
    expect_recompute_changes_nothing(*adapted);
    LlamaConfig even = tiny_config();
    const auto quantised = tiny_llama(dtype, even);
    EXPECT_EQ(quantize(*quantised).size(), 14U);
    adapters::attach(*quantised, everywhere(), 1);
    expect_recompute_changes_nothing(*quantised);
  }
}

TEST(Llama, DropoutDependsOnStepAndPlaceOnly) {
  const auto model = tiny_llama();
  adapters::attach(*model, everywhere(), 1);
  nn::ForwardContext context;
  context.training = true;
  context.dropout = {.seed = 2, .step = 1};
  const at::NoGradGuard no_grad;
  const Batch batch = random_batch({6, 6}, 23);
  const at::Tensor whole = model->forward(batch, context).hidden;
  EXPECT_TRUE(at::equal(whole, model->forward(batch, context).hidden));
  // The second segment as a micro-batch of its own sees the masks it had in the whole.
  const auto* values = batch.input_ids.const_data_ptr<std::int64_t>();
  const std::vector<std::int32_t> second(values + 6, values + 12);
  context.dropout.first_token = 6;
  const at::Tensor alone = model->forward(make_batch({second}, {second}), context).hidden;
  EXPECT_LT(relative_difference(alone, whole.narrow(0, 6, 6)), 1e-6);
  context.dropout.first_token = 0;
  EXPECT_GT(relative_difference(model->forward(make_batch({second}, {second}), context).hidden,
                                whole.narrow(0, 6, 6)),
            1e-3);
}

/// Compares the gradient of every trainable tensor with central differences at some of its elements.
void expect_gradients_by_differences(LanguageModel& model) {
  const Batch batch = random_batch({5, 4}, 23);
  const at::Tensor weights = testing::random_tensor({9, 23}, 5, at::kDouble);
  nn::ForwardContext context;
  context.training = true;
  context.dropout = {.seed = 3, .step = 1};
  const auto loss = [&] { return (logits_of(model, batch, context) * weights).sum(); };
  loss().backward();
  for (const optim::Parameter& parameter : adapters::trainable_parameters(model)) {
    const at::Tensor gradient = parameter.tensor.grad();
    ASSERT_TRUE(gradient.defined()) << parameter.name;
    const double size = gradient.abs().max().item<double>();
    EXPECT_GT(size, 0) << parameter.name;
    const at::NoGradGuard no_grad;
    const at::Tensor flat = parameter.tensor.detach().view({-1});
    const at::Tensor expected = gradient.contiguous().view({-1});
    RandomStream stream(9, parameter.name);
    for (int i = 0; i < 4; ++i) {
      const auto at = static_cast<std::int64_t>(stream.below(static_cast<std::uint64_t>(flat.numel())));
      auto* value = flat.mutable_data_ptr<double>() + at;
      const double centre = *value;
      const double step = 1e-5;
      *value = centre + step;
      const double above = loss().item<double>();
      *value = centre - step;
      const double below = loss().item<double>();
      *value = centre;
      EXPECT_NEAR(expected[at].item<double>(), (above - below) / (2 * step), 1e-6 * std::max(size, 1.0))
          << parameter.name << "[" << at << "]";
    }
  }
}

TEST(Llama, GradientsOfAllWeights) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = tiny_config();
    config.tie_word_embeddings = tied;
    config.attention_bias = true;
    config.mlp_bias = true;
    const auto model = tiny_llama(at::kDouble, config);
    adapters::train_all(*model);
    expect_gradients_by_differences(*model);
  }
}

TEST(Llama, GradientsOfAdaptersOnLinearsEmbeddingAndHead) {
  const auto model = tiny_llama(at::kDouble);
  adapters::attach(*model, everywhere(), 1);
  EXPECT_EQ(adapters::trainable_parameters(*model).size(), 2U * (14 + 2));
  expect_gradients_by_differences(*model);
}

TEST(Llama, GradientsOfTrainedRows) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = tiny_config();
    config.tie_word_embeddings = tied;
    const auto model = tiny_llama(at::kDouble, config);
    adapters::LoraOptions lora = everywhere();
    lora.target_modules = {"q_proj"};
    const Batch batch = random_batch({5, 4}, 23);
    lora.trainable_token_indices["embed_tokens"] = {batch.input_ids[0].item<std::int64_t>(), 0, 22};
    if (!tied) lora.trainable_token_indices["lm_head"] = {3, 4};
    adapters::attach(*model, lora, 1);
    expect_gradients_by_differences(*model);
  }
}

}  // namespace
}  // namespace bitrain::models
