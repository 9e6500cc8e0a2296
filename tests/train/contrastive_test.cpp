#include <bitrain/objectives/contrastive.h>

#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/dist/thread_ranks.h>
#include <bitrain/eval/encode.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/step.h>
#include <support/byte_tokenizer.h>
#include <support/gradcheck.h>
#include <support/micro_batches.h>
#include <support/tiny_bert.h>

namespace bitrain::train {
namespace {

using bitrain::testing::micro_batches;
using objectives::Contrastive;
using objectives::ContrastiveOptions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::shared_ptr<const text::Tokenizer> bytes() {
  return std::make_shared<test::ByteTokenizer>(false, false);
}

data::Example pair(const std::string& text, const std::string& translation,
                   std::vector<std::string> negatives = {}) {
  data::Example example;
  example.text = text;
  example.pair_text = translation;
  example.negatives = std::move(negatives);
  example.language = "en";
  example.pair_language = "es";
  example.source = "pairs";
  return example;
}

std::unique_ptr<models::SentenceEncoder> encoder(at::ScalarType dtype, std::uint64_t seed = 7,
                                                 double dropout = 0.1) {
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = bytes()->vocab_size();
  config.hidden_dropout_prob = dropout;
  return std::make_unique<models::SentenceEncoder>(testing::tiny_bert(dtype, config, false, seed),
                                                   models::EmbeddingOptions{{nn::Pooling::kMean}, true});
}

std::vector<data::Example> seven_pairs(std::size_t negatives = 0) {
  const std::vector<std::string> words = {"one", "two", "three", "four", "five", "six", "seven"};
  const std::vector<std::string> palabras = {"uno", "dos", "tres", "cuatro", "cinco", "seis", "siete"};
  std::vector<data::Example> pairs;
  for (std::size_t i = 0; i < words.size(); ++i)
    pairs.push_back(pair(words[i], palabras[i], std::vector<std::string>(negatives, "no " + words[6 - i])));
  return pairs;
}

struct Outcome {
  StepSums sums;
  std::vector<at::Tensor> gradients;
};

Outcome step_of(const ContrastiveOptions& options, std::size_t rows, const std::vector<data::Example>& pairs,
                double dropout) {
  const auto model = encoder(at::kDouble, 7, dropout);
  const auto teacher = encoder(at::kDouble, 8);
  const Contrastive objective(bytes(), {"en", "es"}, options, bytes());
  adapters::train_all(*model);
  optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
  nn::ForwardContext context;
  context.dropout = {3, 5, 0};
  Outcome outcome;
  outcome.sums = accumulate_gradients(micro_batches(objective, pairs, rows),
                                      objective.loss(*model, teacher.get()), context, optimizer, true);
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

TEST(GradCache, GivesTheGradientsOfTheWholeBatchWithDropout) {
  for (const std::size_t negatives : {0, 2}) {
    for (const bool symmetric : {false, true}) {
      ContrastiveOptions options;
      options.symmetric = symmetric;
      const Outcome whole = step_of(options, 7, seven_pairs(negatives), 0.3);
      EXPECT_GT(whole.sums.loss, 1);
      expect_same(whole, step_of(options, 3, seven_pairs(negatives), 0.3));
      expect_same(whole, step_of(options, 1, seven_pairs(negatives), 0.3));
    }
  }
}

TEST(GradCache, GivesThemWithATeacher) {
  ContrastiveOptions options;
  options.distill_text = 0.7;
  options.distill_pair = 0.4;
  const Outcome whole = step_of(options, 7, seven_pairs(), 0.3);
  EXPECT_GT(whole.sums.parts.at("distill").sum, 0);
  EXPECT_NEAR(whole.sums.parts.at("distill").sum + whole.sums.parts.at("contrast").sum, whole.sums.loss,
              1e-9);
  expect_same(whole, step_of(options, 2, seven_pairs(), 0.3));
  options.contrast = 0;
  expect_same(step_of(options, 7, seven_pairs(), 0.3), step_of(options, 3, seven_pairs(), 0.3));
}

// BabelBERT's losses, with pairs that share words: the first, third and fifth are one synset.
std::vector<data::Example> synset_pairs(std::size_t negatives) {
  std::vector<data::Example> pairs = seven_pairs(negatives);
  pairs[2].pair_text = pairs[0].pair_text;
  pairs[4].text = pairs[2].text;
  return pairs;
}

TEST(GradCache, GivesThemForNtXentAndSupCon) {
  for (const std::size_t negatives : {0, 2}) {
    for (const char* loss : {"nt_xent", "supcon"}) {
      ContrastiveOptions options;
      options.loss = loss;
      options.info_nce.scale = 1 / 0.07;
      const auto pairs = synset_pairs(negatives);
      const Outcome whole = step_of(options, 7, pairs, 0.3);
      EXPECT_GT(whole.sums.loss, 1);
      expect_same(whole, step_of(options, 3, pairs, 0.3));
      expect_same(whole, step_of(options, 1, pairs, 0.3));
    }
  }
}

// Seven pairs on two ranks, four and three, in micro-batches of two.
class GradCacheOnRanks : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Losses, GradCacheOnRanks, ::testing::Values("info_nce", "nt_xent", "supcon"));

TEST_P(GradCacheOnRanks, GivesThemToo) {
  ContrastiveOptions options;
  options.loss = GetParam();
  for (const std::size_t negatives : {0, 1}) {
    const Outcome whole = step_of(options, 7, synset_pairs(negatives), 0);
    std::vector<Outcome> of_rank(2);
    dist::run_ranks(2, [&](dist::Communicator& rank) {
      const auto model = encoder(at::kDouble, 7, 0);
      const Contrastive objective(bytes(), {"en", "es"}, options);
      adapters::train_all(*model);
      optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
      std::vector<data::Example> pairs = synset_pairs(negatives);
      pairs = rank.rank() == 0 ? std::vector(pairs.begin(), pairs.begin() + 4)
                               : std::vector(pairs.begin() + 4, pairs.end());
      Outcome& own = of_rank[static_cast<std::size_t>(rank.rank())];
      own.sums = accumulate_gradients(micro_batches(objective, pairs, 2),
                                      objective.loss(*model, nullptr, rank.split(2)), {}, optimizer, true);
      own.gradients = optimizer.gradients();
    });
    Outcome sum = of_rank[0];
    sum.sums.loss += of_rank[1].sums.loss;
    sum.sums.weight += of_rank[1].sums.weight;
    for (std::size_t i = 0; i < sum.gradients.size(); ++i)
      sum.gradients[i] = sum.gradients[i] + of_rank[1].gradients[i];
    expect_same(whole, sum);
  }
}

// ColBERT-XM: trained in English with embeddings and language adapters frozen, the rest serves all languages.
TEST(Contrastive, LeavesFrozenSetsAndOtherLanguagesAdaptersAsTheyAre) {
  models::BertConfig config = testing::tiny_bert_config("xmod");
  config.vocab_size = bytes()->vocab_size();
  const auto state_of = [](nn::Module& model) {
    std::map<std::string, at::Tensor> state;
    model.visit_tensors(
        [&](const std::string& name, at::Tensor& tensor) { state[name] = tensor.detach().clone(); });
    return state;
  };
  for (const bool frozen : {true, false}) {
    models::SentenceEncoder model(testing::tiny_bert(at::kFloat, config, false, 7),
                                  models::EmbeddingOptions{{nn::Pooling::kMean}, true});
    model.encoder().set_languages({"en", "es"});
    adapters::train_all(model);
    if (frozen) adapters::freeze(model, {"word_embeddings", "adapter_modules"});
    optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(model), {}));
    const Contrastive objective(bytes(), {"en", "es"});
    std::vector<data::Example> english = seven_pairs();
    for (data::Example& example : english) example.pair_language = "en";
    const auto before = state_of(model);
    for (int step = 0; step < 2; ++step) {
      (void)accumulate_gradients(micro_batches(objective, english, 4), objective.loss(model, nullptr), {},
                                 optimizer, true);
      optimizer.step(1e-3);
    }
    for (const auto& [name, now] : state_of(model)) {
      const bool adapter = name.find("adapter_modules") != std::string::npos;
      const bool other = adapter && name.find("en_XX") == std::string::npos;
      const bool held = other || (frozen && (adapter || name.find("word_embeddings") != std::string::npos));
      EXPECT_EQ(at::equal(now, before.at(name)), held) << name;
    }
  }
}

TEST(Contrastive, IsTheLossOfItsEmbeddings) {
  const auto model = encoder(at::kDouble);
  const Contrastive objective(bytes(), {"en", "es"});
  const std::vector<Batch> batches = micro_batches(objective, seven_pairs(), 7);
  const objectives::EmbeddingLoss loss = objective.loss(*model, nullptr);
  const at::NoGradGuard no_grad;
  const at::Tensor rows = loss.embed(batches.front(), {});
  const at::Tensor logits = 20 * rows.slice(0, 0, 14, 2).matmul(rows.slice(0, 1, 14, 2).t());
  const at::Tensor forward = (logits.logsumexp(1) - logits.diagonal()).sum();
  const at::Tensor backward = (logits.logsumexp(0) - logits.diagonal()).sum();
  const LossSum sum = loss.loss(rows, {}, batches);
  EXPECT_NEAR(sum.sum.item<double>(), ((forward + backward) / 2).item<double>(), 1e-9);
  EXPECT_EQ(sum.weight, 7);
}

// Also with hard negatives, in micro-batches, and for NT-Xent.
TEST(Contrastive, OfCutEmbeddingsIsTheSumOverWidths) {
  const auto model = encoder(at::kDouble, 7, 0);
  for (const char* loss : {"info_nce", "nt_xent"}) {
    ContrastiveOptions options;
    options.loss = loss;
    const std::vector<Batch> batches =
        micro_batches(Contrastive(bytes(), {"en", "es"}, options), seven_pairs(1), 3);
    const auto sum_of = [&](const ContrastiveOptions& of, std::int64_t width) {
      const at::NoGradGuard no_grad;
      const Contrastive objective(bytes(), {"en", "es"}, of);
      const objectives::EmbeddingLoss embedding_loss = objective.loss(*model, nullptr);
      std::vector<at::Tensor> rows;
      for (const Batch& batch : batches)
        rows.push_back(embedding_loss.embed(batch, {}).narrow(1, 0, width).clone());
      return embedding_loss.loss(at::cat(rows), {}, batches).sum.item<double>();
    };
    ContrastiveOptions cut = options;
    cut.matryoshka = {{8, model->dimension()}, {0.5, 2}};
    EXPECT_NEAR(sum_of(cut, model->dimension()),
                0.5 * sum_of(options, 8) + 2 * sum_of(options, model->dimension()), 1e-9);
    expect_same(step_of(cut, 7, seven_pairs(1), 0.3), step_of(cut, 3, seven_pairs(1), 0.3));
    cut.matryoshka = {{8, 8}};
    EXPECT_THROW(Contrastive(bytes(), {}, cut), ConfigError);
    cut.matryoshka = {{model->dimension() + 1}};
    const Contrastive too_wide(bytes(), {"en", "es"}, cut);
    EXPECT_THROW((void)too_wide.loss(*model, nullptr), ConfigError);
  }
}

TEST(Contrastive, OfSupConJoinsPairsThatShareATextInAnyMicroBatch) {
  const auto model = encoder(at::kDouble);
  ContrastiveOptions options;
  options.loss = "supcon";
  const Contrastive objective(bytes(), {"en", "es"}, options);
  const objectives::EmbeddingLoss loss = objective.loss(*model, nullptr);
  const at::NoGradGuard no_grad;
  const std::vector<Batch> batches = micro_batches(objective, synset_pairs(0), 3);
  std::vector<at::Tensor> parts;
  for (const Batch& batch : batches) parts.push_back(loss.embed(batch, {}));
  const at::Tensor rows = at::cat(parts);
  // Rows 2i and 2i + 1 are pair i; pairs 0, 2 and 4 are one synset.
  const auto label = [](std::int64_t row) { return row / 2 == 2 || row / 2 == 4 ? 0 : row / 2; };
  double expected = 0;
  for (std::int64_t i = 0; i < 14; ++i) {
    double total = 0;
    double wanted = 0;
    double positives = 0;
    for (std::int64_t j = 0; j < 14; ++j) {
      if (j == i) continue;
      const double logit = 20 * (rows[i] * rows[j]).sum().item<double>();
      total += std::exp(logit);
      if (label(j) != label(i)) continue;
      wanted += logit;
      positives += 1;
    }
    expected += std::log(total) - wanted / positives;
  }
  const LossSum sum = loss.loss(rows, {}, batches);
  EXPECT_NEAR(sum.sum.item<double>(), expected / 2, 1e-9);
  EXPECT_EQ(sum.weight, 7);
}

TEST(Contrastive, EncodesATextItsPairAndNegatives) {
  ContrastiveOptions options;
  options.max_length = 4;
  options.text_prompt = "q";
  options.distill_text = 1;
  const Contrastive objective(bytes(), {"en", "es"}, options, bytes());
  const data::TokenSequence sequence = objective.encode(pair("abcdef", "x", {"yz"}));
  EXPECT_THAT(sequence.ids, ElementsAre('q', 'a', 'b', 'c', 'x', 'y', 'z', 'q', 'a', 'b', 'c'));
  std::vector<std::int32_t> ends;
  std::vector<std::int32_t> languages;
  for (const auto& part : sequence.parts) {
    ends.push_back(part.end);
    languages.push_back(part.language);
  }
  EXPECT_THAT(ends, ElementsAre(4, 5, 7, 11));
  EXPECT_THAT(languages, ElementsAre(0, 1, 1, 0));
}

TEST(Contrastive, LeavesOutNegativesThatAreNone) {
  const Contrastive objective(bytes(), {"en", "es"});
  EXPECT_THAT(objective.encode(pair("ab", "x", {"x", "yz", "", "ab", "yz"})).ids,
              ElementsAre('a', 'b', 'x', 'y', 'z'));
}

TEST(Contrastive, PassesOverPairsWithNothingToLearn) {
  const Contrastive objective(bytes(), {"en", "es"});
  EXPECT_TRUE(objective.encode(pair("same", "same")).empty());
  EXPECT_TRUE(objective.encode(pair("", "text")).empty());
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

TEST(Contrastive, RefusesWhatItCannotLearnFrom) {
  const Contrastive objective(bytes(), {"en", "es"});
  EXPECT_THAT(message_of([&] { (void)objective.encode(pair("text", "")); }),
              HasSubstr("'pairs' is not a pair"));
  ContrastiveOptions nothing;
  nothing.contrast = 0;
  EXPECT_THROW(Contrastive(bytes(), {}, nothing), ConfigError);
  ContrastiveOptions distil;
  distil.distill_text = 1;
  EXPECT_THROW(Contrastive(bytes(), {}, distil), ConfigError);
  ContrastiveOptions unknown;
  unknown.loss = "triplet";
  EXPECT_THAT(message_of([&] { Contrastive(bytes(), {}, unknown); }),
              HasSubstr("'triplet' is none of info_nce, nt_xent, supcon"));
  const auto model = encoder(at::kFloat);
  adapters::train_all(*model);
  optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
  EXPECT_THAT(message_of([&] {
                (void)accumulate_gradients(micro_batches(objective, {pair("one", "uno")}, 1),
                                           objective.loss(*model, nullptr), {}, optimizer, true);
              }),
              HasSubstr("no negative"));
}

TEST(SelectSegments, KeepsTokensPositionsAndLanguages) {
  const Contrastive objective(bytes(), {"en", "es"});
  const Batch batch = micro_batches(objective, seven_pairs(), 7).front();
  const Batch chosen = objectives::select_segments(batch, {1, 4});
  EXPECT_THAT(chosen.boundaries, ElementsAre(0, 3, 8));
  EXPECT_THAT(chosen.language_ids, ElementsAre(1, 0));
  EXPECT_THAT(chosen.group_ids, ElementsAre(0, 2));
  EXPECT_EQ(chosen.input_ids[3].item<std::int64_t>(), 't');
  EXPECT_EQ(chosen.position_ids[3].item<std::int64_t>(), 0);
  EXPECT_TRUE(at::equal(chosen.cu_seqlens, at::tensor({0, 3, 8}, at::kInt)));
}

TEST(EncodeTexts, GivesEachTextItsEmbeddingWhateverTheBatch) {
  const auto model = encoder(at::kFloat);
  const std::vector<std::string> texts = {"a longer text than most", "b", "some words", "c", "a"};
  eval::EncodeOptions options;
  options.max_length = 12;
  const at::Tensor together = eval::encode_texts(*model, *bytes(), texts, options);
  options.tokens_per_batch = 1;
  std::vector<std::int64_t> done;
  options.progress = [&](std::int64_t texts_done) { done.push_back(texts_done); };
  const at::Tensor alone = eval::encode_texts(*model, *bytes(), texts, options);
  EXPECT_LT((together - alone).abs().max().item<double>(), 1e-5);
  EXPECT_THAT(done, ElementsAre(1, 2, 3, 4, 5));
  const at::Tensor cut = eval::encode_texts(*model, *bytes(), {"a longer tex"}, options);
  EXPECT_LT((together.narrow(0, 0, 1) - cut).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(eval::encode_texts(*model, *bytes(), {}).sizes(), (std::vector<std::int64_t>{0, 16}));
  options.truncate_dim = 5;
  EXPECT_TRUE(at::equal(eval::encode_texts(*model, *bytes(), texts, options), alone.narrow(1, 0, 5)));
  options.truncate_dim = 17;
  EXPECT_THROW((void)eval::encode_texts(*model, *bytes(), texts, options), ConfigError);
}

}  // namespace
}  // namespace bitrain::train
