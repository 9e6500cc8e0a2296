#include <bitrain/objectives/document_contrastive.h>

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/losses/two_pool_info_nce.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/step.h>
#include <support/byte_tokenizer.h>
#include <support/gradcheck.h>
#include <support/micro_batches.h>
#include <support/tiny_bert.h>

// Pairs of documents with hard negatives (paper 25, HMDE) on steps of micro-batches.
namespace bitrain::train {
namespace {

using bitrain::testing::micro_batches;
using objectives::DocumentContrastive;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::shared_ptr<const text::Tokenizer> bytes() {
  return std::make_shared<test::ByteTokenizer>(false, false);
}

data::Example pair(const std::string& text, const std::string& translation) {
  data::Example example;
  example.text = text;
  example.pair_text = translation;
  example.language = "en";
  example.pair_language = "es";
  example.source = "pairs";
  return example;
}

/// Five pairs; all but the first have a hard negative a side.
std::vector<data::Example> five_pairs() {
  std::vector<data::Example> pairs = {pair("one\nand more\nstill", "uno\ny mas\naun"),
                                      pair("two", "dos\npartes"), pair("three\nlines of it", "tres"),
                                      pair("four\na\nb\nc", "cuatro\na\nb\nc"),
                                      pair("five\nfive", "cinco\ncinco")};
  for (std::size_t i = 1; i < pairs.size(); ++i) {
    pairs[i].negatives = {"no es " + pairs[i].pair_text};
    pairs[i].text_negatives = {"not " + pairs[i].text};
  }
  return pairs;
}

std::unique_ptr<models::DocumentEncoder> encoder(double dropout) {
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = bytes()->vocab_size();
  config.hidden_dropout_prob = dropout;
  models::DocumentEncoderOptions options;
  options.heads = 4;
  options.intermediate_size = 24;
  options.max_sentences = 6;
  options.dropout = dropout;
  auto model = std::make_unique<models::DocumentEncoder>(
      std::make_unique<models::SentenceEncoder>(testing::tiny_bert(at::kDouble, config),
                                                models::EmbeddingOptions{{nn::Pooling::kMean}, true}),
      options);
  model->documents().config().initializer_range = 0.3;
  models::initialise_documents(*model, 5);
  return model;
}

struct Outcome {
  StepSums sums;
  std::vector<at::Tensor> gradients;
};

Outcome step_of(std::size_t rows, bool frozen, double dropout, bool cached = true) {
  const auto model = encoder(dropout);
  const DocumentContrastive objective(bytes(), {"en", "es"}, model->max_sentences());
  adapters::train_all(*model);
  if (frozen) adapters::freeze(model->sentences());
  optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
  nn::ForwardContext context;
  context.dropout = {3, 5, 0};
  const objectives::EmbeddingLoss loss = objective.loss(*model);
  const std::vector<Batch> batches = micro_batches(objective, five_pairs(), rows);
  Outcome outcome;
  if (cached) {
    outcome.sums = accumulate_gradients(batches, loss, context, optimizer, true);
  } else {  // All micro-batches in one graph.
    context.training = true;
    std::vector<at::Tensor> embedded;
    for (const Batch& batch : batches) {
      context.dropout.first_token = batch.first_token;
      embedded.push_back(loss.embed(batch, context));
    }
    const LossSum sum = loss.loss(at::cat(embedded), {}, batches);
    sum.sum.backward();
    outcome.sums.loss = sum.sum.item<double>();
    outcome.sums.weight = sum.weight;
  }
  outcome.gradients = optimizer.gradients();
  return outcome;
}

void expect_same(const Outcome& a, const Outcome& b) {
  EXPECT_NEAR(a.sums.loss, b.sums.loss, 1e-9);
  EXPECT_EQ(a.sums.weight, b.sums.weight);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (std::size_t i = 0; i < a.gradients.size(); ++i)
    EXPECT_LT((a.gradients[i] - b.gradients[i]).abs().max().item<double>(), 1e-9) << i;
}

TEST(DocumentContrastive, GradCacheGivesTheGradientsOfTheWholeBatch) {
  for (const bool frozen : {false, true}) {
    for (const double dropout : {0.0, 0.3}) {
      const Outcome whole = step_of(5, frozen, dropout);
      EXPECT_GT(whole.sums.loss, 1);
      EXPECT_EQ(whole.sums.weight, 5);
      expect_same(whole, step_of(2, frozen, dropout));
      expect_same(whole, step_of(1, frozen, dropout));
    }
    expect_same(step_of(2, frozen, 0.3, /*cached=*/false), step_of(2, frozen, 0.3));  // Dropout is replayed.
  }
}

TEST(DocumentContrastive, IsTheLossOfItsVectors) {
  const auto model = encoder(0);
  const DocumentContrastive objective(bytes(), {"en", "es"}, model->max_sentences());
  const std::vector<Batch> batches = micro_batches(objective, five_pairs(), 5);
  const objectives::EmbeddingLoss loss = objective.loss(*model);
  const at::Tensor vectors = loss.embed(batches.front(), {});
  ASSERT_EQ(vectors.size(0), 2 + 4 * 4);
  const auto rows = [&](std::vector<std::int64_t> at) { return vectors.index_select(0, at::tensor(at)); };
  const double wanted = losses::two_pool_info_nce(rows({0, 2, 6, 10, 14}), rows({1, 3, 7, 11, 15}),
                                                  rows({5, 9, 13, 17}), rows({4, 8, 12, 16}))
                            .sum.item<double>();
  EXPECT_NEAR(loss.loss(vectors, {}, batches).sum.item<double>(), wanted, 1e-9);
}

// Paper 25's check: a frozen lower encoder has no gradients and gives the same before and after a step.
TEST(DocumentContrastive, AFrozenLowerEncoderStaysAsItWas) {
  for (const bool frozen : {true, false}) {
    const auto model = encoder(0.1);
    const DocumentContrastive objective(bytes(), {"en", "es"}, model->max_sentences());
    adapters::train_all(*model);
    if (frozen) adapters::freeze(model->sentences());
    optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
    const std::vector<Batch> batches = micro_batches(objective, five_pairs(), 2);
    const at::Tensor sentences = model->sentences().forward(batches[0], {}).detach();
    const at::Tensor documents = model->forward(batches[0], {}).detach();
    for (int step = 0; step < 2; ++step) {
      (void)accumulate_gradients(batches, objective.loss(*model), {}, optimizer, true);
      model->sentences().visit_tensors([&](const std::string& name, at::Tensor& tensor) {
        EXPECT_EQ(tensor.grad().defined(), !frozen) << name;
      });
      optimizer.step(1e-3);
    }
    EXPECT_EQ(at::equal(model->sentences().forward(batches[0], {}).detach(), sentences), frozen);
    EXPECT_FALSE(at::equal(model->forward(batches[0], {}).detach(), documents));
  }
}

TEST(DocumentContrastive, EncodesTheSentencesOfDocumentsAndHardNegatives) {
  const DocumentContrastive objective(bytes(), {"en", "es"}, 2, {.info_nce = {}, .max_length = 3});
  data::Example example = pair("a\nbcde\nf", "x y\n");
  example.text_negatives = {"g"};
  example.negatives = {"h", "x y\n", " \n", "i"};  // The second is the pair, the third has no sentence.
  const data::TokenSequence sequence = objective.encode(example);
  EXPECT_THAT(sequence.ids, ElementsAre('a', 'b', 'c', 'd', 'x', ' ', 'y', 'g', 'h', 'i'));
  std::vector<std::int32_t> documents;
  std::vector<std::int32_t> languages;
  for (const auto& part : sequence.parts) {
    documents.push_back(part.document);
    languages.push_back(part.language);
  }
  EXPECT_THAT(documents, ElementsAre(0, 0, 1, 2, 3, 5));
  EXPECT_THAT(languages, ElementsAre(0, 0, 1, 0, 1, 1));
}

TEST(DocumentContrastive, PassesOverOrRefusesWhatIsNoPair) {
  const DocumentContrastive objective(bytes(), {"en", "es"}, 4);
  EXPECT_TRUE(objective.encode(pair("same\ntext", "same\ntext")).empty());
  EXPECT_TRUE(objective.encode(pair(" \n ", "text")).empty());  // A document without sentences.
  EXPECT_TRUE(objective.encode(pair("text", "\n")).empty());
  EXPECT_THAT([&] { (void)objective.encode(pair("text", "")); },
              ThrowsMessage<DataError>(HasSubstr("row 1 of source 'pairs' is not a pair")));
  EXPECT_THROW(DocumentContrastive(bytes(), {"en", "es"}, 0), ConfigError);
}

TEST(DocumentContrastive, OneDocumentInAStepHasNoNegatives) {
  const auto model = encoder(0);
  const DocumentContrastive objective(bytes(), {"en", "es"}, model->max_sentences());
  adapters::train_all(*model);
  optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
  EXPECT_THAT(
      [&] {
        (void)accumulate_gradients(micro_batches(objective, {five_pairs().front()}, 1),
                                   objective.loss(*model), {}, optimizer, true);
      },
      ThrowsMessage<DataError>(HasSubstr("no negative")));
}

}  // namespace
}  // namespace bitrain::train
