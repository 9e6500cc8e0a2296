#include <bitrain/models/masked_language_model.h>

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using ::testing::HasSubstr;
using testing::random_batch;
using testing::random_tensor;
using testing::relative_difference;
using ::testing::ThrowsMessage;
using testing::tiny_bert;
using testing::tiny_bert_config;

at::Tensor tensor_of(nn::Module& model, const std::string& wanted) {
  at::Tensor found;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (name == wanted) found = tensor;
  });
  return found;
}

TEST(MaskedLanguageModel, HeadsAreNamedAsTransformersNamesThem) {
  const auto heads = [](const char* kind, bool next_sentence) {
    MaskedLanguageModel model(tiny_bert(at::kFloat, tiny_bert_config(kind), next_sentence), next_sentence);
    std::set<std::string> names;
    model.visit_tensors([&](const std::string& name, at::Tensor&) {
      if (name.rfind("bert.", 0) != 0 && name.rfind("roberta.", 0) != 0) names.insert(name);
    });
    return names;
  };
  const std::set<std::string> bert = {"cls.predictions.bias", "cls.predictions.transform.dense.weight",
                                      "cls.predictions.transform.dense.bias",
                                      "cls.predictions.transform.LayerNorm.weight",
                                      "cls.predictions.transform.LayerNorm.bias"};
  EXPECT_EQ(heads("bert", false), bert);
  std::set<std::string> both = bert;
  both.insert({"cls.seq_relationship.weight", "cls.seq_relationship.bias"});
  EXPECT_EQ(heads("bert", true), both);
  EXPECT_EQ(heads("xlm-roberta", false),
            (std::set<std::string>{"lm_head.bias", "lm_head.dense.weight", "lm_head.dense.bias",
                                   "lm_head.layer_norm.weight", "lm_head.layer_norm.bias"}));
}

TEST(MaskedLanguageModel, PredictsByTheRowsOfTheEmbedding) {
  MaskedLanguageModel model(tiny_bert(at::kDouble), false);
  initialise_heads(model, 3);
  const at::NoGradGuard no_grad;
  const at::Tensor bias = tensor_of(model, "cls.predictions.bias");
  bias.copy_(random_tensor({23}, 1, at::kDouble));
  const at::Tensor dense_bias = tensor_of(model, "cls.predictions.transform.dense.bias");
  dense_bias.copy_(random_tensor({16}, 2, at::kDouble));
  const at::Tensor hidden = random_tensor({5, 16}, 3, at::kDouble);
  const at::Tensor weight = tensor_of(model, "cls.predictions.transform.dense.weight");
  const at::Tensor inner = at::gelu(hidden.matmul(weight.t()) + dense_bias);
  const at::Tensor normed = at::layer_norm(inner, {16}, {}, {}, model.encoder().config().layer_norm_eps);
  EXPECT_LT(relative_difference(model.transform(hidden, {}), normed), 1e-6);
  const auto logits = [&] { return model.output_head().forward(model.transform(hidden, {}), {}); };
  const at::Tensor words = model.encoder().input_embeddings().weight;
  EXPECT_LT(relative_difference(logits(), normed.matmul(words.t()) + bias), 1e-6);
  // The embedding's tensor is replaced, as by loading or casting: the head goes with it.
  model.encoder().input_embeddings().weight = words * 2;
  EXPECT_LT(relative_difference(logits(), 2 * normed.matmul(words.t()) + bias), 1e-6);
}

TEST(MaskedLanguageModel, FreshHeadsLeaveTheEncoderAsItIs) {
  const Batch batch = random_batch({5, 3}, 23);
  MaskedLanguageModel model(tiny_bert(at::kFloat, tiny_bert_config(), /*pooler=*/true), true);
  const at::NoGradGuard no_grad;
  const at::Tensor before = model.forward(batch, {}).hidden;
  initialise_heads(model, 3);
  EXPECT_TRUE(at::equal(model.forward(batch, {}).hidden, before));
  EXPECT_EQ(tensor_of(model, "cls.predictions.bias").abs().max().item<double>(), 0);
  EXPECT_EQ(tensor_of(model, "cls.predictions.transform.dense.bias").abs().max().item<double>(), 0);
  EXPECT_TRUE(at::equal(tensor_of(model, "cls.predictions.transform.LayerNorm.weight"), at::ones({16})));
  const double spread = tensor_of(model, "cls.predictions.transform.dense.weight").std().item<double>();
  EXPECT_NEAR(spread, 0.3, 0.04);
  EXPECT_EQ(model.next_sentence_logits(before, batch, {}).sizes(), (at::IntArrayRef{2, 2}));
}

TEST(MaskedLanguageModel, GradientsReachEveryTensor) {
  MaskedLanguageModel model(tiny_bert(at::kFloat, tiny_bert_config(), /*pooler=*/true), true);
  initialise_heads(model, 3);
  model.visit_tensors([](const std::string&, at::Tensor& tensor) { tensor.set_requires_grad(true); });
  const Batch batch = random_batch({5, 7}, 23);
  const at::Tensor hidden = model.forward(batch, {}).hidden;
  const at::Tensor logits = model.output_head().forward(model.transform(hidden, {}), {});
  const at::Tensor next = model.next_sentence_logits(hidden, batch, {});
  ((logits * random_tensor(logits.sizes(), 1)).sum() + (next * random_tensor(next.sizes(), 2)).sum())
      .backward();
  model.visit_tensors(
      [](const std::string& name, at::Tensor& tensor) { EXPECT_TRUE(tensor.grad().defined()) << name; });
}

TEST(MaskedLanguageModel, GetsAHeadForNextSentencesAndKeepsWhatItHas) {
  const Batch batch = random_batch({5, 3}, 23);
  const at::NoGradGuard no_grad;
  for (const bool pooler : {false, true}) {
    MaskedLanguageModel model(tiny_bert(at::kFloat, tiny_bert_config(), pooler));
    initialise_heads(model, 3);
    const auto wider = with_next_sentence(model, 5);
    ASSERT_TRUE(wider->has_next_sentence());
    const auto logits = [&](MaskedLanguageModel& of) {
      return of.output_head().forward(of.transform(of.forward(batch, {}).hidden, {}), {});
    };
    EXPECT_TRUE(at::equal(logits(*wider), logits(model)));
    if (pooler) {
      EXPECT_TRUE(at::equal(tensor_of(*wider, "bert.pooler.dense.weight"),
                            tensor_of(model, "bert.pooler.dense.weight")));
    }
    const at::Tensor said = wider->next_sentence_logits(wider->forward(batch, {}).hidden, batch, {});
    EXPECT_GT(said.abs().max().item<double>(), 0) << "fresh, not zero";
  }
  MaskedLanguageModel roberta(tiny_bert(at::kFloat, tiny_bert_config("roberta")));
  EXPECT_THROW((void)with_next_sentence(roberta, 5), ConfigError);
}

TEST(MaskedLanguageModel, NextSentencesNeedBertWithAPooler) {
  EXPECT_THAT([] { MaskedLanguageModel(tiny_bert(), true); },
              ThrowsMessage<ConfigError>(HasSubstr("this encoder is bert without one")));
  EXPECT_THAT([] { MaskedLanguageModel(tiny_bert(at::kFloat, tiny_bert_config("roberta"), true), true); },
              ThrowsMessage<ConfigError>(HasSubstr("this encoder is roberta")));
  const Batch batch = random_batch({3}, 23);
  MaskedLanguageModel model(tiny_bert(), false);
  EXPECT_THROW((void)model.next_sentence_logits(model.forward(batch, {}).hidden, batch, {}), StateError);
}

}  // namespace
}  // namespace bitrain::models
