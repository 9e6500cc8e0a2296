#include <bitrain/adapters/merge.h>

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/quantize.h>

#include "support/gradcheck.h"
#include "support/tiny_llama.h"

namespace bitrain::adapters {
namespace {

using testing::random_batch;
using testing::relative_difference;
using testing::tiny_config;
using testing::tiny_llama;

LoraOptions everywhere() {
  LoraOptions options;
  options.r = 4;
  options.lora_alpha = 2;
  options.target_modules = {"all-linear", "embed_tokens", "lm_head"};
  options.init_lora_weights = "false";
  return options;
}

nn::Linear& linear(models::LanguageModel& model, const std::string& path) {
  return dynamic_cast<nn::Linear&>(*model.find(path));
}

constexpr char kQuery[] = "model.layers.1.self_attn.q_proj";

TEST(Merge, DenseWeightsBecomeTheSum) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto model = tiny_llama(dtype);
    attach(*model, everywhere(), 1);
    const nn::LowRank adapter = linear(*model, kQuery).adapters[0];
    const at::Tensor expected =
        (linear(*model, kQuery).weight.to(at::kDouble) +
         adapter.scale * at::matmul(adapter.b.detach().to(at::kDouble), adapter.a.detach().to(at::kDouble)))
            .to(dtype);
    const nn::LowRank rows = model->input_embeddings().adapters[0];
    const at::Tensor table =
        model->input_embeddings().weight.to(at::kDouble) +
        rows.scale * at::matmul(rows.b.detach().to(at::kDouble), rows.a.detach().to(at::kDouble)).t();
    const Batch batch = random_batch({9, 5}, 23);
    const LogitDifference difference = merge_and_compare(*model, batch);
    EXPECT_LT(difference.max_absolute, dtype == at::kFloat ? 1e-4 : 1.0);
    EXPECT_LT(difference.mean_kl, dtype == at::kFloat ? 1e-8 : 1e-2);
    EXPECT_LT(relative_difference(linear(*model, kQuery).weight, expected),
              dtype == at::kFloat ? 1e-6 : 8e-3);
    EXPECT_LT(relative_difference(model->input_embeddings().weight, table),
              dtype == at::kFloat ? 1e-6 : 8e-3);
    EXPECT_EQ(linear(*model, kQuery).weight.scalar_type(), dtype);
    EXPECT_TRUE(linear(*model, kQuery).adapters.empty());
    EXPECT_TRUE(trainable_parameters(*model).empty());
  }
}

TEST(Merge, FourBitBaseBecomesDenseFromItsDecodedForm) {
  const auto model = tiny_llama();
  const at::Tensor original = linear(*model, kQuery).weight.clone();
  models::quantize(*model);
  attach(*model, everywhere(), 1);
  const nn::LowRank adapter = linear(*model, kQuery).adapters[0];
  const at::Tensor decoded = linear(*model, kQuery).dense_weight(at::kFloat);
  EXPECT_GT(relative_difference(decoded, original), 1e-2);
  const at::Tensor expected = decoded + adapter.scale * at::matmul(adapter.b.detach(), adapter.a.detach());
  MergeOptions options;
  options.dtype = "float32";
  EXPECT_LT(merge_and_compare(*model, random_batch({9, 5}, 23), options).max_absolute, 1e-4);
  model->visit_modules([](const std::string& path, nn::Module& module) {
    const auto* map = dynamic_cast<nn::Linear*>(&module);
    if (!map) return;
    EXPECT_FALSE(map->is_quantized()) << path;
  });
  EXPECT_LT(relative_difference(linear(*model, kQuery).weight, expected), 1e-6);
}

TEST(Merge, RequantisedWeightsAreTheQuantisedSum) {
  const auto model = tiny_llama(at::kBFloat16);
  models::quantize(*model);
  LoraOptions lora = everywhere();
  lora.target_modules = {"q_proj"};
  attach(*model, lora, 1);
  const at::Tensor sum = linear(*model, kQuery).merged_weight(at::kFloat);
  const at::Tensor untouched = linear(*model, "model.layers.0.mlp.up_proj").quantized->codes.clone();
  MergeOptions options;
  options.requantize = true;
  merge(*model, options);
  const nn::Linear& merged = linear(*model, kQuery);
  ASSERT_TRUE(merged.is_quantized());
  const quant::QuantizedTensor expected = quant::quantize(sum, {});
  EXPECT_TRUE(at::equal(merged.quantized->codes, expected.codes));
  EXPECT_TRUE(at::equal(merged.quantized->absmax_codes, expected.absmax_codes));
  EXPECT_EQ(merged.quantized->dtype, at::kBFloat16);
  EXPECT_TRUE(at::equal(linear(*model, "model.layers.0.mlp.up_proj").quantized->codes, untouched));
}

TEST(Merge, DisabledAdaptersAreDropped) {
  const auto model = tiny_llama();
  attach(*model, everywhere(), 1);
  const at::Tensor weight = linear(*model, kQuery).weight.clone();
  enable_adapters(*model, false);
  merge(*model);
  EXPECT_TRUE(at::equal(linear(*model, kQuery).weight, weight));
  EXPECT_TRUE(linear(*model, kQuery).adapters.empty());
}

TEST(Merge, TrainedRowsAreWrittenIntoTheTable) {
  for (const bool tied : {false, true}) {
    models::LlamaConfig config = tiny_config();
    config.tie_word_embeddings = tied;
    const auto model = tiny_llama(at::kFloat, config);
    LoraOptions options;
    options.trainable_token_indices = {{"embed_tokens", {3, 7}}};
    attach(*model, options, 1);
    {
      const at::NoGradGuard no_grad;
      model->input_embeddings().trainable_rows->rows.add_(1);
    }
    const Batch batch = make_batch({{3, 7, 1, 2, 3}}, {{7, 1, 2, 3, 7}});
    EXPECT_LT(merge_and_compare(*model, batch).max_absolute, 1e-5);
    EXPECT_EQ(model->tied(), tied) << "rows shared by both sides keep them tied";
    EXPECT_EQ(model->output_head().weight.is_same(model->input_embeddings().weight), tied);
  }
}

TEST(Merge, ATiedTableIsUntiedWhenItsSidesDiffer) {
  for (const std::string target : {"embed_tokens", "lm_head"}) {
    models::LlamaConfig config = tiny_config();
    config.tie_word_embeddings = true;
    const auto model = tiny_llama(at::kFloat, config);
    LoraOptions options = everywhere();
    options.target_modules = {target};
    attach(*model, options, 1);
    EXPECT_LT(merge_and_compare(*model, random_batch({9, 5}, 23)).max_absolute, 1e-4);
    EXPECT_FALSE(model->tied());
    EXPECT_FALSE(at::equal(model->output_head().weight, model->input_embeddings().weight));
    std::map<std::string, at::Tensor> saved;
    model->visit_tensors([&](const std::string& name, at::Tensor& tensor) { saved[name] = tensor; });
    ASSERT_EQ(saved.count("lm_head.weight"), 1U) << "it must be saved now";
    EXPECT_FALSE(saved["lm_head.weight"].is_alias_of(saved["model.embed_tokens.weight"]));
  }
}

TEST(Merge, LogitComparison) {
  at::Tensor left = testing::random_tensor({4, 6}, 1);
  EXPECT_EQ(compare_logits(left, left).max_absolute, 0);
  EXPECT_EQ(compare_logits(left, left).top1_agreement, 1);
  const LogitDifference shifted = compare_logits(left, left + 2);
  EXPECT_NEAR(shifted.max_absolute, 2, 1e-6);
  EXPECT_NEAR(shifted.mean_kl, 0, 1e-9);
  EXPECT_GT(compare_logits(left, -left).mean_kl, 0.1);
  EXPECT_LT(compare_logits(left, -left).top1_agreement, 1);
  EXPECT_THROW((void)compare_logits(left, left.narrow(0, 0, 2)), StateError);
}

TEST(Merge, UnknownDtypeIsRefused) {
  const auto model = tiny_llama();
  MergeOptions options;
  options.dtype = "int8";
  EXPECT_THROW(merge(*model, options), ConfigError);
}

}  // namespace
}  // namespace bitrain::adapters
