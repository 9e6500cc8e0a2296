#include <bitrain/models/cross_encoder.h>

#include <map>
#include <optional>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>

#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using ::testing::HasSubstr;
using testing::random_batch;
using ::testing::ThrowsMessage;
using testing::tiny_bert;
using testing::tiny_bert_config;

std::map<std::string, at::Tensor> weights_of(nn::Module& model, const std::string& prefix = "") {
  std::map<std::string, at::Tensor> weights;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) { weights[prefix + name] = tensor; });
  return weights;
}

std::set<std::string> head_of(CrossEncoder& model) {
  std::set<std::string> names;
  for (const auto& [name, weight] : weights_of(model))
    if (name.rfind("classifier", 0) == 0 || name.rfind("pre_classifier", 0) == 0 ||
        name.find("pooler") != std::string::npos)
      names.insert(name);
  return names;
}

TEST(CrossEncoder, HeadsAreNamedAsTransformersNamesThem) {
  CrossEncoder bert(tiny_bert(at::kFloat, tiny_bert_config(), /*pooler=*/true));
  EXPECT_EQ(head_of(bert), (std::set<std::string>{"bert.pooler.dense.weight", "bert.pooler.dense.bias",
                                                  "classifier.weight", "classifier.bias"}));
  CrossEncoder roberta(tiny_bert(at::kFloat, tiny_bert_config("xlm-roberta")));
  EXPECT_EQ(head_of(roberta),
            (std::set<std::string>{"classifier.dense.weight", "classifier.dense.bias",
                                   "classifier.out_proj.weight", "classifier.out_proj.bias"}));
  CrossEncoder distilbert(tiny_bert(at::kFloat, tiny_bert_config("distilbert")));
  EXPECT_EQ(head_of(distilbert), (std::set<std::string>{"pre_classifier.weight", "pre_classifier.bias",
                                                        "classifier.weight", "classifier.bias"}));
  EXPECT_TRUE(weights_of(distilbert).count("distilbert.embeddings.word_embeddings.weight"));
  EXPECT_THAT([] { CrossEncoder model(tiny_bert()); },
              ThrowsMessage<ConfigError>(HasSubstr("needs a pooler")));
}

TEST(CrossEncoder, AFreshHeadLeavesTheEncoderAsItIs) {
  for (const char* type : {"bert", "roberta"}) {
    for (const bool pooler : {false, true}) {
      std::unique_ptr<EncoderModel> encoder = tiny_bert(at::kFloat, tiny_bert_config(type), pooler);
      const auto before = weights_of(*encoder, std::string(type) + ".");
      const std::unique_ptr<CrossEncoder> model = with_fresh_head(std::move(encoder), 3);
      const auto after = weights_of(*model);
      for (const auto& [name, weight] : before) {
        if (name == "roberta.pooler.dense.weight" || name == "roberta.pooler.dense.bias") continue;
        EXPECT_TRUE(at::equal(after.at(name), weight)) << name;
      }
      EXPECT_EQ(model->encoder().has_pooler(), std::string(type) == "bert");
      for (const std::string& name : head_of(*model)) {
        if (name.find("weight") != std::string::npos) {
          EXPECT_GT(after.at(name).std().item<float>(), 0.1) << name;
        } else if (!pooler || name.find("pooler") == std::string::npos) {
          EXPECT_EQ(after.at(name).abs().max().item<float>(), 0) << name;
        }
      }
      // Every text has its own score, of the seed alone.
      const at::NoGradGuard no_grad;
      const Batch batch = random_batch({5, 3, 9}, 23);
      const at::Tensor scores = model->forward(batch, {});
      EXPECT_EQ(scores.sizes(), at::IntArrayRef({3}));
      EXPECT_GT(scores.std().item<float>(), 1e-3);
      const auto again = with_fresh_head(tiny_bert(at::kFloat, tiny_bert_config(type), pooler), 3);
      EXPECT_TRUE(at::equal(again->forward(batch, {}), scores));
    }
  }
}

TEST(CrossEncoder, DropoutOfTheHeadIsDrawnAndDrawnAgain) {
  for (const char* type : {"bert", "roberta", "distilbert"}) {
    const auto model = with_fresh_head(tiny_bert(at::kFloat, tiny_bert_config(type)), 3);
    const at::NoGradGuard no_grad;
    const Batch batch = random_batch({5, 3, 9}, 23);
    nn::ForwardContext context;
    context.training = true;
    context.dropout = {1, 2, 0};
    const at::Tensor once = model->forward(batch, context);
    EXPECT_TRUE(at::equal(model->forward(batch, context), once));
    EXPECT_FALSE(at::equal(model->forward(batch, {}), once));
  }
}

/// transformers' heads have a share of their own.
TEST(CrossEncoder, TheHeadDropsWhatItsOwnKeySays) {
  for (const char* type : {"bert", "roberta", "distilbert"}) {
    BertConfig config = tiny_bert_config(type);
    config.hidden_dropout_prob = 0;
    const auto dropped = [&](std::optional<double> share) {
      config.classifier_dropout = share;
      const auto model = with_fresh_head(tiny_bert(at::kFloat, config), 3);
      const at::NoGradGuard no_grad;
      const Batch batch = random_batch({5, 3, 9}, 23);
      nn::ForwardContext context;
      context.training = true;
      context.dropout = {1, 2, 0};
      return !at::equal(model->forward(batch, context), model->forward(batch, {}));
    };
    EXPECT_TRUE(dropped(0.5)) << type;
    EXPECT_FALSE(dropped(0.0)) << type;
    EXPECT_EQ(dropped(std::nullopt), std::string(type) == "distilbert") << type;  // 0.2 there.
  }
}

}  // namespace
}  // namespace bitrain::models
