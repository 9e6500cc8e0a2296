#include <bitrain/objectives/listwise.h>

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <support/micro_batches.h>
#include <support/tiny_bert.h>
#include <support/toy_tokenizers.h>

namespace bitrain::objectives {
namespace {

using bitrain::testing::micro_batches;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

const std::vector<std::string> kLanguages = {"en", "es"};

std::shared_ptr<const text::HfTokenizer> letters() {
  std::vector<std::string> pieces;
  for (char c = 'a'; c <= 'r'; ++c) pieces.emplace_back(1, c);
  return testing::toy_wordpiece(pieces);
}

data::Example query(const std::string& text, const std::string& positive,
                    std::vector<std::string> negatives) {
  data::Example example;
  example.text = text;
  example.pair_text = positive;
  example.negatives = std::move(negatives);
  example.language = "en";
  example.pair_language = "es";
  example.source = "queries";
  example.id = 4;
  return example;
}

std::unique_ptr<models::CrossEncoder> model_of(const std::string& type = "bert", double dropout = 0) {
  models::BertConfig config = testing::tiny_bert_config(type);
  config.hidden_dropout_prob = dropout;
  return models::with_fresh_head(testing::tiny_bert(at::kDouble, config), 5);
}

std::vector<std::size_t> lengths_of(const data::TokenSequence& sequence) {
  std::vector<std::size_t> lengths;
  std::int32_t begin = 0;
  for (const auto& part : sequence.parts) {
    lengths.push_back(static_cast<std::size_t>(part.end - begin));
    begin = part.end;
  }
  return lengths;
}

TEST(Listwise, FramesTheQueryWithEveryCandidateThePositiveFirst) {
  const Listwise objective(letters(), kLanguages, {12});
  const data::TokenSequence sequence =
      objective.encode(query("a b", "c", {"d e", "c", "a b", "", "d e", "f"}));
  // Negatives that are the answer, the query, nothing, or there already are none.
  EXPECT_THAT(sequence.ids, ElementsAre(2, 5, 6, 3, 7, 3,     //
                                        2, 5, 6, 3, 8, 9, 3,  //
                                        2, 5, 6, 3, 10, 3));
  EXPECT_THAT(lengths_of(sequence), ElementsAre(4, 2, 4, 3, 4, 2));
  EXPECT_THAT(sequence.labels, ::testing::Each(kIgnoreIndex));
  EXPECT_EQ(sequence.parts[0].language, 0);
  EXPECT_EQ(sequence.parts[1].language, 1);
  // The query stays whole and the document is cut.
  const data::TokenSequence cut = objective.encode(query("a b", "c d e f g h i j k l", {"m"}));
  EXPECT_THAT(lengths_of(cut), ElementsAre(4, 8, 4, 2));
  EXPECT_EQ(cut.ids[3], 3);
}

TEST(Listwise, ScoresPairsAsTransformersReadsThem) {
  for (const char* type : {"bert", "roberta"}) {
    const Listwise objective(letters(), kLanguages);
    const auto model = model_of(type);
    const std::vector<data::Example> queries = {query("a b", "c", {"d e", "f"}), query("g", "h i j", {"k"})};
    const LossSum loss = objective.loss(*model, micro_batches(objective, queries, 2).front(), {});
    double expected = 0;
    double first = 0;
    for (const data::Example& one : queries) {
      std::vector<std::string> candidates = one.negatives;
      candidates.insert(candidates.begin(), one.pair_text);
      std::vector<double> scores;
      for (const std::string& candidate : candidates) {
        const text::FramedPair pair = text::encode_pair_framed(*letters(), one.text, candidate, 256);
        Batch batch = make_batch({pair.ids}, {pair.ids});
        batch.token_type_ids = make_batch({pair.type_ids}, {pair.ids}).input_ids;
        scores.push_back(model->forward(batch, {}).item<double>());
      }
      double sum = 0;
      for (const double score : scores) sum += std::exp(score);
      expected += std::log(sum) - scores.front();
      first += *std::max_element(scores.begin(), scores.end()) == scores.front() ? 1 : 0;
    }
    EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-6) << type;
    EXPECT_EQ(loss.weight, 2);
    EXPECT_EQ(loss.parts.at("positive_first").sum, first);
  }
}

TEST(Listwise, AnySplitIntoMicroBatchesGivesTheSameSumWithDropout) {
  for (const char* type : {"bert", "roberta"}) {
    const Listwise objective(letters(), kLanguages);
    const auto model = model_of(type, 0.3);
    const std::vector<data::Example> queries = {query("a b", "c", {"d e", "f"}), query("g", "h i j", {"k"}),
                                                query("l", "m", {"n o p", "q", "r"})};
    const auto total = [&](std::size_t rows) {
      double sum = 0;
      for (const Batch& batch : micro_batches(objective, queries, rows)) {
        nn::ForwardContext context;
        context.training = true;
        context.dropout = {1, 2, batch.first_token};
        sum += objective.loss(*model, batch, context).sum.item<double>();
      }
      return sum;
    };
    EXPECT_NEAR(total(1), total(3), 1e-9) << type;
    EXPECT_NEAR(total(2), total(3), 1e-9) << type;
  }
}

TEST(Listwise, RefusesQueriesWithoutNegativesAndWhatIsNoPair) {
  const Listwise objective(letters(), kLanguages);
  EXPECT_THAT([&] { (void)objective.encode(query("a", "b", {})); },
              ThrowsMessage<DataError>(HasSubstr("row 5 of source 'queries' has no negatives")));
  EXPECT_THAT(
      [&] {
        (void)objective.encode(query("a", "b", {"b", "a"}));
      },
      ThrowsMessage<DataError>(HasSubstr("has no negatives")));
  EXPECT_THAT([&] { (void)objective.encode(query("a", "", {"b"})); },
              ThrowsMessage<DataError>(HasSubstr("is not a pair")));
  EXPECT_THAT(objective.encode(query("a", "a", {"b"})).ids, IsEmpty());
  EXPECT_THAT([] { (void)Listwise(letters(), kLanguages, {4}); },
              ThrowsMessage<ConfigError>(HasSubstr("no room for two texts beside 3")));
  const auto model = model_of();
  EXPECT_THAT(
      [&] {
        (void)objective.loss(*model, make_batch({{2, 5, 3}}, {{-100, -100, -100}}), {});
      },
      ThrowsMessage<StateError>(HasSubstr("two parts for each candidate")));
}

}  // namespace
}  // namespace bitrain::objectives
