// Upper states of transformers' BertModel given inputs_embeds (golden/make_documents.py), and paper 25's
// checks.
#include <bitrain/models/document_encoder.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/models/initialise.h>

#include "support/gradcheck.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::random_batch;
using testing::random_tensor;
using testing::relative_difference;
using ::testing::ThrowsMessage;
using testing::tiny_bert;

std::unique_ptr<SentenceEncoder> sentence_encoder(at::ScalarType dtype = at::kFloat) {
  return std::make_unique<SentenceEncoder>(tiny_bert(dtype), EmbeddingOptions{{nn::Pooling::kMean}, true});
}

DocumentEncoderOptions small() {
  DocumentEncoderOptions options;
  options.heads = 4;
  options.intermediate_size = 24;
  options.max_sentences = 7;
  return options;
}

std::unique_ptr<DocumentEncoder> encoder(const std::string& pooling = "mean",
                                         at::ScalarType dtype = at::kFloat) {
  DocumentEncoderOptions options = small();
  options.pooling = pooling;
  auto model = std::make_unique<DocumentEncoder>(sentence_encoder(dtype), options);
  initialise(model->documents(), 0.3, 5);
  return model;
}

/// Seven sentences of three documents; the last two are of one group.
Batch three_documents() {
  Batch batch = random_batch({5, 1, 9, 4, 6, 3, 2}, 23);
  batch.group_ids = {0, 0, 0, 1, 1, 1, 1};
  batch.document_ids = {0, 0, 0, 0, 0, 1, 1};
  return batch;
}

TEST(DocumentEncoder, UpperStatesAreThoseOfTransformersWithPadding) {
  const std::string path =
      std::string(BITRAIN_SOURCE_DIR) + "/tests/models/golden/document_encoder.safetensors";
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  auto upper = make_bert(bert_config_from_json(io::parse_json(file.metadata().at("config"), path), path));
  upper->visit_tensors([&](const std::string& name, at::Tensor& tensor) { tensor.copy_(file.tensor(name)); });
  DocumentEncoder model(sentence_encoder(), std::move(upper), "mean");
  std::vector<std::int32_t> ends;
  for (const auto& length : io::parse_json(file.metadata().at("lengths"), path))
    ends.push_back((ends.empty() ? 0 : ends.back()) + length.get<std::int32_t>());
  const at::NoGradGuard no_grad;
  const at::Tensor sentences = file.tensor("golden.sentences");
  const DocumentStates states = model.states(sentences, ends, {});
  EXPECT_GT(states.hidden.abs().mean().item<double>(), 0.5);
  EXPECT_THAT(states.boundaries, ElementsAre(0, 4, 6, 14));
  EXPECT_LT((states.hidden - file.tensor("golden.hidden")).abs().max().item<double>(), 1e-5);
  EXPECT_LT((model.embed(sentences, ends, {}) - file.tensor("golden.mean")).abs().max().item<double>(), 1e-5);
}

TEST(EncoderModel, ReadsVectorsInPlaceOfWords) {
  const at::NoGradGuard no_grad;
  for (const char* type : {"bert", "roberta"}) {
    const auto model = tiny_bert(at::kFloat, testing::tiny_bert_config(type));
    const Batch batch = random_batch({5, 1, 9}, 23);
    const at::Tensor words = model->input_embeddings().forward(batch.input_ids, {});
    EXPECT_TRUE(
        at::equal(model->forward_embeddings(words, batch, {}).hidden, model->forward(batch, {}).hidden));
  }
}

TEST(DocumentEncoder, IsTheUpperOverTheLowersVectors) {
  const at::NoGradGuard no_grad;
  const Batch batch = three_documents();
  EXPECT_THAT(document_ends(batch), ElementsAre(3, 5, 7));
  for (const char* pooling : {"mean", "dcls"}) {
    const auto model = encoder(pooling);
    EXPECT_EQ(model->pooling(), pooling);
    const at::Tensor sentences = model->sentences().forward(batch, {});
    const DocumentStates states = model->states(sentences, {3, 5, 7}, {});
    const at::Tensor second = states.hidden.narrow(0, 4, 3);
    const at::Tensor wanted = pooling == std::string("mean") ? second.mean(0) : second[0];
    const at::Tensor vectors = model->forward(batch, {});
    EXPECT_EQ(vectors.sizes(), (std::vector<std::int64_t>{3, 16}));
    EXPECT_LT(relative_difference(vectors[1], wanted), 1e-5);
  }
}

// Paper 25's check: there is no padding; what stands beside a document has no effect on it.
TEST(DocumentEncoder, ADocumentIsTheSameAloneAndBesideOthers) {
  const at::NoGradGuard no_grad;
  const auto model = encoder();
  const at::Tensor sentences = random_tensor({7, 16}, 1);
  const at::Tensor together = model->embed(sentences, {3, 5, 7}, {});
  const at::Tensor alone = model->embed(sentences.narrow(0, 3, 2), {2}, {});
  EXPECT_LT(relative_difference(alone[0], together[1]), 1e-5);
}

// Paper 25's check: the order of sentences counts through positions, and only through them.
TEST(DocumentEncoder, OrderCountsWithPositionsAndDoesNotWithout) {
  const at::NoGradGuard no_grad;
  for (const char* pooling : {"mean", "dcls"}) {
    const auto model = encoder(pooling);
    const at::Tensor sentences = random_tensor({5, 16}, 1);
    const at::Tensor permuted =
        sentences.index_select(0, at::tensor(std::vector<std::int64_t>{3, 1, 4, 0, 2}));
    EXPECT_GT(relative_difference(model->embed(permuted, {5}, {}), model->embed(sentences, {5}, {})), 1e-2);
    model->documents().visit_tensors([](const std::string& name, at::Tensor& tensor) {
      if (name == "embeddings.position_embeddings.weight") tensor.zero_();
    });
    EXPECT_LT(relative_difference(model->embed(permuted, {5}, {}), model->embed(sentences, {5}, {})), 1e-5);
  }
}

TEST(DocumentEncoder, GradientsReachBothLevels) {
  const auto model = encoder("mean", at::kDouble);
  testing::expect_gradients(
      [&](const std::vector<at::Tensor>& t) {
        return model->embed(t[0], {2, 3}, {});
      },
      {random_tensor({3, 16}, 1, at::kDouble).requires_grad_()}, 1e-5);
  model->visit_tensors([](const std::string&, at::Tensor& tensor) { tensor.set_requires_grad(true); });
  model->forward(three_documents(), {}).square().sum().backward();
  model->visit_tensors(
      [](const std::string& name, at::Tensor& tensor) { ASSERT_TRUE(tensor.grad().defined()) << name; });
  const at::Tensor& own = model->documents().input_embeddings().weight;  // DCLS.
  EXPECT_GT(own.grad().abs().max().item<double>(), 0);
}

// Paper 25's check, first half: the second is in tests/train/document_contrastive_test.cpp.
TEST(DocumentEncoder, AFrozenLowerEncoderHasNoGradientsAndNoDropout) {
  const auto model = encoder();
  model->documents().visit_tensors(
      [](const std::string&, at::Tensor& tensor) { tensor.set_requires_grad(true); });
  model->documents().config().hidden_dropout_prob = 0;
  nn::ForwardContext training;
  training.training = true;
  const at::Tensor vectors = model->forward(three_documents(), training);
  EXPECT_TRUE(at::equal(vectors.detach(), model->forward(three_documents(), {}).detach()));
  vectors.sum().backward();
  model->sentences().visit_tensors(
      [](const std::string& name, at::Tensor& tensor) { EXPECT_FALSE(tensor.grad().defined()) << name; });
  // One that is trained drops features.
  model->sentences().visit_tensors(
      [](const std::string&, at::Tensor& tensor) { tensor.set_requires_grad(true); });
  EXPECT_FALSE(at::equal(model->forward(three_documents(), training).detach(), vectors.detach()));
}

TEST(DocumentEncoder, DropoutIsAFunctionOfSeedAndStep) {
  const auto model = encoder();
  nn::ForwardContext training;
  training.training = true;
  training.dropout.seed = 9;
  const at::Tensor sentences = random_tensor({3, 16}, 1);
  const at::Tensor once = model->embed(sentences, {3}, training);
  EXPECT_TRUE(at::equal(once, model->embed(sentences, {3}, training)));
  training.dropout.step = 1;
  EXPECT_FALSE(at::equal(once, model->embed(sentences, {3}, training)));
}

TEST(DocumentEncoder, RefusesBadInput) {
  const auto model = encoder();
  const at::Tensor sentences = random_tensor({9, 16}, 1);
  EXPECT_THAT(
      [&] {
        (void)model->embed(sentences, {8, 9}, {});
      },
      ThrowsMessage<DataError>(HasSubstr("document 0 has 8 sentences; the encoder has places for 7")));
  EXPECT_THAT(
      [&] {
        (void)model->embed(sentences, {5, 5, 9}, {});
      },
      ThrowsMessage<DataError>(HasSubstr("document 1 has no sentence")));
  EXPECT_THROW((void)model->embed(sentences, {}, {}), StateError);
  EXPECT_THROW((void)model->embed(sentences, {5, 8}, {}), StateError);
  EXPECT_THROW((void)model->embed(random_tensor({2, 4}, 1), {2}, {}), StateError);
  EXPECT_THROW((void)model->forward(random_batch({3, 2}, 23), {}), StateError);
  DocumentEncoderOptions options = small();
  options.heads = 3;
  EXPECT_THROW(DocumentEncoder(sentence_encoder(), options), ConfigError);
  BertConfig config = testing::tiny_bert_config();
  EXPECT_THROW(DocumentEncoder(sentence_encoder(), tiny_bert(at::kFloat, config), "mean"), ConfigError);
  config.vocab_size = 1;
  EXPECT_THROW(DocumentEncoder(sentence_encoder(), tiny_bert(at::kFloat, config), "max"), ConfigError);
  config.hidden_size = 8;
  EXPECT_THROW(DocumentEncoder(sentence_encoder(), tiny_bert(at::kFloat, config), "mean"), ConfigError);
  EXPECT_THROW((void)model->documents().forward_embeddings(sentences, random_batch({3}, 1), {}), StateError);
}

}  // namespace
}  // namespace bitrain::models
