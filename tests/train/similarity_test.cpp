#include <bitrain/objectives/similarity.h>

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/step.h>
#include <support/byte_tokenizer.h>
#include <support/micro_batches.h>
#include <support/tiny_bert.h>

namespace bitrain::train {
namespace {

using bitrain::testing::micro_batches;
using objectives::Similarity;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::shared_ptr<const text::Tokenizer> bytes() {
  return std::make_shared<test::ByteTokenizer>(false, false);
}

data::Example scored(const std::string& text, const std::string& pair, std::optional<double> score) {
  data::Example example;
  example.text = text;
  example.pair_text = pair;
  example.score = score;
  example.language = "en";
  example.pair_language = "es";
  example.source = "sts";
  example.id = 6;
  return example;
}

std::unique_ptr<models::SentenceEncoder> encoder(double dropout) {
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = bytes()->vocab_size();
  config.hidden_dropout_prob = dropout;
  return std::make_unique<models::SentenceEncoder>(testing::tiny_bert(at::kDouble, config, false, 7),
                                                   models::EmbeddingOptions{{nn::Pooling::kMean}, false});
}

std::vector<data::Example> five_pairs() {
  return {scored("one", "uno", 5), scored("a cat", "two dogs", 1.25), scored("three", "four", 0),
          scored("five birds", "five", 3.5), scored("x", "y", 2)};
}

// IndicSBERT's second step: MSE between the cosine and score / 5.
TEST(Similarity, IsTheSquaredErrorOfTheCosine) {
  const auto model = encoder(0);
  const Similarity objective(bytes(), {"en", "es"});
  const std::vector<Batch> batches = micro_batches(objective, five_pairs(), 5);
  const objectives::EmbeddingLoss loss = Similarity::loss(*model);
  const at::NoGradGuard no_grad;
  const at::Tensor rows = loss.embed(batches.front(), {});
  const LossSum sum = loss.loss(rows, {}, batches);
  double expected = 0;
  const std::vector<double> scores = {5, 1.25, 0, 3.5, 2};
  for (std::int64_t i = 0; i < 5; ++i) {
    const at::Tensor a = rows[2 * i];
    const at::Tensor b = rows[2 * i + 1];
    const double cosine = (a.dot(b) / (a.norm() * b.norm())).item<double>();
    expected += std::pow(cosine - scores[static_cast<std::size_t>(i)] / 5, 2);
  }
  EXPECT_NEAR(sum.sum.item<double>(), expected, 1e-6);  // Targets are float32.
  EXPECT_EQ(sum.weight, 5);
}

TEST(GradCache, GivesTheGradientsOfCosineRegressionWithDropout) {
  const auto step_of = [](std::size_t rows) {
    const auto model = encoder(0.3);
    const Similarity objective(bytes(), {"en", "es"});
    adapters::train_all(*model);
    optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
    nn::ForwardContext context;
    context.dropout = {3, 5, 0};
    const StepSums sums = accumulate_gradients(micro_batches(objective, five_pairs(), rows),
                                               Similarity::loss(*model), context, optimizer, true);
    return std::make_pair(sums, optimizer.gradients());
  };
  const auto [whole, gradients] = step_of(5);
  EXPECT_GT(whole.loss, 0.1);
  EXPECT_EQ(whole.weight, 5);
  for (const std::size_t rows : {2, 1}) {
    const auto [sums, parted] = step_of(rows);
    EXPECT_NEAR(sums.loss, whole.loss, 1e-9);
    EXPECT_EQ(sums.weight, whole.weight);
    ASSERT_EQ(parted.size(), gradients.size());
    for (std::size_t i = 0; i < gradients.size(); ++i)
      EXPECT_LT((parted[i] - gradients[i]).abs().max().item<double>(), 1e-9) << i;
  }
}

TEST(Similarity, EncodesBothTextsAndTheScoreAsACosine) {
  const Similarity objective(bytes(), {"en", "es"}, {4.0, 3});
  const data::TokenSequence sequence = objective.encode(scored("abcdef", "xy", 3));
  EXPECT_THAT(sequence.ids, ElementsAre('a', 'b', 'c', 'x', 'y'));
  ASSERT_EQ(sequence.parts.size(), 2U);
  EXPECT_EQ(sequence.parts[0].end, 3);
  EXPECT_EQ(sequence.parts[0].language, 0);
  EXPECT_EQ(sequence.parts[1].language, 1);
  EXPECT_EQ(sequence.score, 0.75F);
  EXPECT_THAT(micro_batches(objective, {scored("a", "b", 1), scored("c", "d", 4)}, 2).front().scores,
              ElementsAre(0.25F, 0.25F, 1, 1));
}

TEST(Similarity, PassesOverPairsWithNothingToLearn) {
  const Similarity objective(bytes(), {"en", "es"});
  EXPECT_TRUE(objective.encode(scored("same", "same", 5)).empty());
  EXPECT_TRUE(objective.encode(scored("", "text", 1)).empty());
  EXPECT_TRUE(objective.encode(scored("text", "", 1)).empty());
}

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Similarity, RefusesScoresThatAreNoneAndBatchesThatAreNoPairs) {
  const Similarity objective(bytes(), {"en", "es"});
  EXPECT_THAT(message_of([&] { (void)objective.encode(scored("a", "b", std::nullopt)); }),
              AllOf(HasSubstr("row 7 of source 'sts'"), HasSubstr("no score")));
  for (const double bad : {-0.1, 5.5, std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_THAT(message_of([&] { (void)objective.encode(scored("a", "b", bad)); }),
                AllOf(HasSubstr("row 7 of source 'sts'"), HasSubstr("not between 0 and 5")))
        << bad;
  const auto model = encoder(0);
  std::vector<Batch> batches = micro_batches(objective, five_pairs(), 5);
  batches.front().scores.clear();
  const objectives::EmbeddingLoss loss = Similarity::loss(*model);
  const at::NoGradGuard no_grad;
  EXPECT_THAT(message_of([&] { (void)loss.loss(loss.embed(batches.front(), {}), {}, batches); }),
              HasSubstr("not a pair with a score"));
}

}  // namespace
}  // namespace bitrain::train
