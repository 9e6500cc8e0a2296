// Hidden states and pooled outputs of transformers (golden/make_encoders.py).
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/base/batch.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/bert/model.h>

namespace bitrain::models {
namespace {

constexpr double kTolerance = 1e-5;

double difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

class EncoderGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string path =
        std::string(BITRAIN_SOURCE_DIR) + "/tests/models/golden/" + GetParam() + ".safetensors";
    file_ = std::make_unique<io::SafetensorsFile>(io::SafetensorsFile::open(path));
    const auto parsed = [&](const char* key) { return io::parse_json(file_->metadata().at(key), path); };
    config_ = bert_config_from_json(parsed("config"), path);
    model_ = make_bert(config_, {}, /*pooler=*/true);
    std::size_t filled = 0;
    model_->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
      ASSERT_TRUE(file_->contains(name)) << name;
      const at::Tensor loaded = file_->tensor(name);
      ASSERT_EQ(loaded.sizes(), tensor.sizes()) << name;
      tensor.copy_(loaded);
      ++filled;
    });
    EXPECT_EQ(filled + 6, file_->names().size()) << "weights of the file that the model lacks";

    std::vector<std::vector<std::int32_t>> rows;
    const at::Tensor ids = file_->tensor("golden.input_ids").contiguous();
    const auto* next = ids.const_data_ptr<std::int64_t>();
    for (const auto& length : parsed("lengths")) {
      const auto count = length.get<std::ptrdiff_t>();
      rows.emplace_back(next, next + count);
      next += count;
    }
    batch_ = make_batch(rows, rows, parsed("row_languages").get<std::vector<std::int32_t>>());
    model_->set_languages(parsed("languages").get<std::vector<std::string>>());
  }

  std::unique_ptr<io::SafetensorsFile> file_;
  BertConfig config_;
  std::unique_ptr<EncoderModel> model_;
  Batch batch_;
};

TEST_P(EncoderGolden, PackedHiddenStatesAreThoseOfTransformers) {
  const at::NoGradGuard no_grad;
  nn::ForwardContext context;
  context.all_hidden = true;
  const ModelOutput output = model_->forward(batch_, context);
  const at::Tensor expected = file_->tensor("golden.hidden");
  EXPECT_GT(expected.abs().mean().item<double>(), 0.5) << "the golden states must not be trivial";
  EXPECT_LT(difference(output.hidden, expected), kTolerance);
  ASSERT_EQ(output.all_hidden.size(), 3U);
  EXPECT_LT(difference(output.all_hidden[1], file_->tensor("golden.layer_1")), kTolerance);
  EXPECT_LT(difference(model_->pooled(output.hidden, batch_, context), file_->tensor("golden.pooled")),
            kTolerance);
}

TEST_P(EncoderGolden, SentenceTypesAreThoseOfTransformers) {
  const at::NoGradGuard no_grad;
  batch_.token_type_ids = file_->tensor("golden.token_type_ids");
  EXPECT_LT(difference(model_->forward(batch_, {}).hidden, file_->tensor("golden.hidden_of_pairs")),
            kTolerance);
}

TEST_P(EncoderGolden, ConfigSurvivesWritingAndReading) {
  const io::Json written = config_to_json(config_);
  EXPECT_EQ(config_to_json(bert_config_from_json(written)), written);
  const io::Json theirs = io::parse_json(file_->metadata().at("config"), "golden");
  for (const auto& [key, value] : written.items()) {
    if (key == "architectures" || !theirs.contains(key)) continue;
    EXPECT_EQ(value, theirs[key]) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EncoderGolden,
                         ::testing::Values("bert", "bert_tanh", "roberta", "xlm_roberta", "camembert", "xmod",
                                           "xmod_own_norm", "xmod_no_norm", "xmod_after", "xmod_pre_norm"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace bitrain::models
