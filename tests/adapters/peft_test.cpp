// Adapted logits, names and numbers of parameters of PEFT (golden/make_golden.py).
#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/merge.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/llama/config.h>

#include "support/tiny_llama.h"

namespace bitrain::adapters {
namespace {

constexpr char kPrefix[] = "peft.base_model.model.";

std::vector<std::string> list(const io::Json& json) {
  if (json.is_string()) return {json.get<std::string>()};
  return json.get<std::vector<std::string>>();
}

LoraOptions options_from(const io::Json& json) {
  LoraOptions options;
  options.r = json.at("r").get<std::int64_t>();
  options.lora_alpha = json.at("lora_alpha").get<double>();
  options.target_modules = list(json.at("target_modules"));
  options.use_rslora = json.value("use_rslora", false);
  if (json.contains("exclude_modules")) options.exclude_modules = list(json.at("exclude_modules"));
  if (json.contains("modules_to_save")) options.modules_to_save = list(json.at("modules_to_save"));
  options.rank_pattern = json.value("rank_pattern", options.rank_pattern);
  options.alpha_pattern = json.value("alpha_pattern", options.alpha_pattern);
  options.layers_to_transform = json.value("layers_to_transform", options.layers_to_transform);
  options.trainable_token_indices = json.value("trainable_token_indices", options.trainable_token_indices);
  return options;
}

class Peft : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string path =
        std::string(BITRAIN_SOURCE_DIR) + "/tests/adapters/golden/" + GetParam() + ".safetensors";
    file_ = std::make_unique<io::SafetensorsFile>(io::SafetensorsFile::open(path));
    model_ = testing::tiny_llama();
    model_->visit_tensors(
        [&](const std::string& name, at::Tensor& tensor) { tensor.copy_(file_->tensor("base." + name)); });
    options_ = options_from(io::parse_json(file_->metadata().at("options"), path));
    report_ = attach(*model_, options_, 1);
    const at::Tensor ids = file_->tensor("input_ids");
    std::vector<std::int32_t> row;
    for (std::int64_t i = 0; i < ids.numel(); ++i) row.push_back(ids[i].item<std::int32_t>());
    batch_ = make_batch({row}, {row});
  }

  /// PEFT's weights in place of the fresh ones.
  void load() {
    const at::NoGradGuard no_grad;
    for (const optim::Parameter& parameter : trainable_parameters(*model_)) {
      const at::Tensor saved = file_->tensor(kPrefix + parameter.name);
      ASSERT_EQ(saved.sizes(), parameter.tensor.sizes()) << parameter.name;
      parameter.tensor.copy_(saved);
    }
  }

  std::unique_ptr<io::SafetensorsFile> file_;
  std::unique_ptr<models::LanguageModel> model_;
  LoraOptions options_;
  AttachReport report_;
  Batch batch_;
};

TEST_P(Peft, NamesAndNumbersOfParametersAreTheSame) {
  std::set<std::string> ours;
  for (const optim::Parameter& parameter : trainable_parameters(*model_))
    ours.insert(kPrefix + parameter.name);
  std::set<std::string> theirs;
  for (const std::string& name : file_->names())
    if (starts_with(name, kPrefix)) theirs.insert(name);
  EXPECT_EQ(ours, theirs);
  EXPECT_EQ(std::to_string(report_.trainable_parameters), file_->metadata().at("trainable"));
}

TEST_P(Peft, LogitsAreTheSameBeforeAndAfterMerging) {
  load();
  const at::Tensor expected = file_->tensor("logits");
  EXPECT_GT(expected.abs().mean().item<double>(), 0.5) << "the golden logits must not be trivial";
  EXPECT_LT((logits(*model_, batch_) - expected).abs().max().item<double>(), 1e-4);
  enable_adapters(*model_, false);
  EXPECT_GT((logits(*model_, batch_) - expected).abs().max().item<double>(), 1e-2)
      << "the adapter must matter";
  enable_adapters(*model_, true);
  merge(*model_);
  EXPECT_LT((logits(*model_, batch_) - expected).abs().max().item<double>(), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Cases, Peft,
                         ::testing::Values("everywhere", "all_linear_rslora", "patterns", "rows", "saved"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace bitrain::adapters
