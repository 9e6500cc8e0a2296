#include <bitrain/objectives/masked_lm.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/log_softmax.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/optim/adamw.h>
#include <support/tiny_bert.h>
#include <support/toy_tokenizers.h>

namespace bitrain::objectives {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using text::TokenId;

constexpr auto kIgnored = static_cast<TokenId>(kIgnoreIndex);

data::Example example(const std::string& text, const std::string& pair = "") {
  data::Example made;
  made.text = text;
  made.pair_text = pair;
  made.language = "en";
  made.pair_language = pair.empty() ? "" : "es";
  made.source = "texts";
  made.id = 4;
  return made;
}

/// Words "a" to "r" and their other halves: 18 starts from 5, 18 continuations from 23.
std::shared_ptr<const text::HfTokenizer> letters() {
  std::vector<std::string> pieces;
  for (char c = 'a'; c <= 'r'; ++c) pieces.emplace_back(1, c);
  for (char c = 'a'; c <= 'r'; ++c) pieces.push_back(std::string("##") + c);
  return testing::toy_wordpiece(pieces);
}

std::unique_ptr<models::MaskedLanguageModel> tiny_model(bool next_sentence = false) {
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = 41;
  config.hidden_dropout_prob = 0;
  auto model = std::make_unique<models::MaskedLanguageModel>(
      testing::tiny_bert(at::kFloat, config, next_sentence), next_sentence);
  models::initialise_heads(*model, 3);
  return model;
}

const std::vector<std::string> kLanguages = {"en", "es"};

TEST(MaskedLm, FramesTextsAndPairs) {
  const MaskedLm objective(letters(), kLanguages, 1);
  const FramedText single = objective.encode(example("ab c"));
  EXPECT_THAT(single.ids, ElementsAre(2, 5, 24, 7, 3));
  EXPECT_THAT(single.words, ElementsAre(-1, 0, 0, 1, -1));
  EXPECT_THAT(single.languages, ElementsAre(0, 0, 0, 0, 0));
  EXPECT_FALSE(single.follows.has_value());
  const FramedText pair = objective.encode(example("ab", "c d"));
  EXPECT_THAT(pair.ids, ElementsAre(2, 5, 24, 3, 7, 8, 3));
  EXPECT_THAT(pair.type_ids, ElementsAre(0, 0, 0, 0, 1, 1, 1));
  EXPECT_THAT(pair.words, ElementsAre(-1, 0, 0, -1, 1, 2, -1));
  EXPECT_THAT(pair.languages, ElementsAre(0, 0, 0, 0, 1, 1, 1));
  EXPECT_EQ(objective.encode(example("a", "b"), false).follows, false);
  EXPECT_TRUE(objective.encode(example(" ")).empty());
  EXPECT_TRUE(objective.encode(example("a", " "), true).empty());
  EXPECT_THAT(objective.encode(example(" ", "a")).ids, ElementsAre(2, 5, 3));
  EXPECT_THAT(objective.encode(example(" ", "a")).languages, ElementsAre(1, 1, 1));
  // XLM-R parts texts with two tokens and knows one sentence type.
  const MaskedLm xlm(testing::toy_unigram({"\u2581a", "\u2581b"}), kLanguages, 1);
  const FramedText xlm_pair = xlm.encode(example("a a", "b"));
  EXPECT_THAT(xlm_pair.ids, ElementsAre(0, 4, 4, 2, 2, 5, 2));
  EXPECT_THAT(xlm_pair.type_ids, ElementsAre(0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(xlm_pair.languages, ElementsAre(0, 0, 0, 0, 0, 1, 1));
}

TEST(MaskedLm, CutsTheLongerTextFirst) {
  MaskedLmOptions options;
  options.max_length = 9;  // Six beside [CLS], [SEP], [SEP].
  const MaskedLm objective(letters(), kLanguages, 1, options);
  const auto lengths = [&](const std::string& a, const std::string& b) {
    const FramedText text = objective.encode(example(a, b));
    const auto second = std::count(text.type_ids.begin(), text.type_ids.end(), 1);
    return std::make_pair(text.ids.size() - static_cast<std::size_t>(second) - 2, second - 1);
  };
  EXPECT_EQ(lengths("a a a a a a a", "b"), std::make_pair(std::size_t{5}, std::ptrdiff_t{1}));
  EXPECT_EQ(lengths("a", "b b b b b b b"), std::make_pair(std::size_t{1}, std::ptrdiff_t{5}));
  EXPECT_EQ(lengths("a a a a a", "b b b b"), std::make_pair(std::size_t{3}, std::ptrdiff_t{3}));
  EXPECT_EQ(lengths("a a", "b b b b"), std::make_pair(std::size_t{2}, std::ptrdiff_t{4}));
  EXPECT_EQ(objective.encode(example("a a a a a a a a a a a")).ids.size(), 9U);
  options.max_length = 8;  // An odd room.
  const MaskedLm odd(letters(), kLanguages, 1, options);
  EXPECT_EQ(odd.encode(example("a a a a a", "b b b b b")).ids.size(), 8U);
}

TEST(MaskedLm, MasksAreAFunctionOfSeedAndSampleWhateverTheBatch) {
  const MaskedLm objective(letters(), kLanguages, 1);
  const MaskedLm other_seed(letters(), kLanguages, 2);
  std::vector<FramedText> texts;
  for (int i = 0; i < 6; ++i)
    texts.push_back(objective.encode(example("a b cd e f gh i j k lm", "n o p q r")));
  const MaskedBatch whole = objective.collate(texts, {10, 11, 12, 13, 14, 15});
  const MaskedBatch turned = objective.collate({texts[5], texts[2]}, {15, 12});
  const auto segment = [](const MaskedBatch& batch, std::int64_t s) {
    const auto begin = batch.tokens.boundaries[static_cast<std::size_t>(s)];
    const auto length = batch.tokens.boundaries[static_cast<std::size_t>(s) + 1] - begin;
    return std::make_pair(batch.tokens.input_ids.narrow(0, begin, length),
                          batch.tokens.labels.narrow(0, begin, length));
  };
  for (const auto& [there, here] : {std::pair{5, 0}, std::pair{2, 1}}) {
    EXPECT_TRUE(at::equal(segment(whole, there).first, segment(turned, here).first));
    EXPECT_TRUE(at::equal(segment(whole, there).second, segment(turned, here).second));
  }
  EXPECT_FALSE(at::equal(segment(whole, 0).second, segment(whole, 1).second))
      << "another sample, another mask";
  EXPECT_NE(other_seed.mask(texts[0], 10).labels, objective.mask(texts[0], 10).labels);
  EXPECT_THAT(whole.tokens.language_ids, ElementsAre(0, 0, 0, 0, 0, 0));
  EXPECT_TRUE(whole.next_sentence.empty());
  ASSERT_TRUE(whole.tokens.token_type_ids.defined());
  EXPECT_EQ(whole.tokens.token_type_ids.sum().item<std::int64_t>(), 6 * 6);
  EXPECT_FALSE(objective.collate({objective.encode(example("a"))}, {0}).tokens.token_type_ids.defined());
}

/// Losses of the labels of one segment, from all logits.
std::vector<double> reference(models::MaskedLanguageModel& model, const MaskedBatch& batch) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = model.forward(batch.tokens, {}).hidden;
  const at::Tensor logits = model.output_head().forward(model.transform(hidden, {}), {});
  const at::Tensor all = at::log_softmax(logits, -1);
  std::vector<double> losses;
  for (std::int64_t i = 0; i < batch.tokens.tokens(); ++i) {
    const auto label = batch.tokens.labels[i].item<std::int64_t>();
    losses.push_back(label == kIgnoreIndex ? 0 : -all[i][label].item<double>());
  }
  return losses;
}

TEST(MaskedLm, SequencesOfALoaderAreMaskedByStepAndPlaceWhateverTheSplit) {
  const auto objective_for = [](std::shared_ptr<const text::Tokenizer> tokenizer) {
    return MaskedLm(std::move(tokenizer), kLanguages, 1);
  };
  const MaskedLm objective = objective_for(letters());
  const std::vector<data::Example> examples = {example("a b cd"), example("ef g", "h ij"),
                                               example("k l m n o"), example("p q", "r")};
  std::vector<data::Row> rows;
  for (const data::Example& one : examples) {
    auto sequence = std::make_shared<data::TokenSequence>(objective.sequence(one));
    EXPECT_EQ(sequence->ids, objective.encode(one).ids);
    rows.push_back({data::Piece{sequence, 0, 0, 0, sequence->size()}});
  }
  EXPECT_TRUE(objective.sequence(example(" ")).empty());
  const auto model = tiny_model();
  const auto loss_of = [&](std::size_t per_batch, std::int64_t step) {
    nn::ForwardContext context;
    context.dropout = {9, step, 0};
    LossSum all;
    double sum = 0;
    for (const Batch& batch : data::micro_batches(rows, per_batch, true)) {
      const LossSum one = objective.loss(*model, batch, context);
      sum += one.sum.item<double>();
      all.weight += one.weight;
      for (const auto& [name, part] : one.parts) all.parts[name].weight += part.weight;
    }
    return std::make_tuple(sum, all.weight, all.parts["language/es"].weight);
  };
  const auto [sum, weight, spanish] = loss_of(4, 3);
  EXPECT_GE(weight, 4) << "one token of each text at least";
  for (const std::size_t per_batch : {1, 3}) {
    const auto [split, split_weight, split_spanish] = loss_of(per_batch, 3);
    EXPECT_NEAR(split, sum, 1e-4);
    EXPECT_EQ(split_weight, weight);
    EXPECT_EQ(split_spanish, spanish);
  }
  EXPECT_NE(std::get<0>(loss_of(4, 4)), sum) << "other masks in the next step";
  // By hand: the masks are those of the samples at these places, types those of the template.
  std::vector<FramedText> texts;
  std::vector<std::int64_t> samples;
  std::int64_t place = std::int64_t{3} << 32;
  for (const data::Example& one : examples) {
    texts.push_back(objective.encode(one));
    samples.push_back(place);
    place += static_cast<std::int64_t>(texts.back().ids.size());
  }
  EXPECT_NEAR(objective.loss(*model, objective.collate(texts, samples), {}).sum.item<double>(), sum, 1e-4);
  EXPECT_THAT(
      [&] {
        (void)objective.loss(*model, make_batch({{2, 5, 3}}, {{-100, -100, -100}}), {});
      },
      ThrowsMessage<StateError>(HasSubstr("packing whole")));
}

TEST(MaskedLm, WhetherASentenceFollowsGoesThroughALoader) {
  const MaskedLm objective(letters(), kLanguages, 1);
  std::vector<data::Example> examples = {example("a b", "c d"), example("e", "f g h"), example("i j k")};
  examples[0].follows = true;
  examples[1].follows = false;
  std::vector<data::Row> rows;
  std::vector<FramedText> texts;
  for (const data::Example& one : examples) {
    auto sequence = std::make_shared<data::TokenSequence>(objective.sequence(one));
    rows.push_back({data::Piece{sequence, 0, 0, 0, sequence->size()}});
    texts.push_back(objective.encode(one, one.follows));
  }
  const Batch batch = data::batch_rows(rows.data(), rows.size(), true, 0);
  const MaskedBatch masked = objective.masked(batch, 0);
  EXPECT_THAT(masked.next_sentence, ElementsAre(0, 1, kIgnoreIndex));
  const MaskedBatch by_hand =
      objective.collate(texts, {0, static_cast<std::int64_t>(texts[0].ids.size()),
                                static_cast<std::int64_t>(texts[0].ids.size() + texts[1].ids.size())});
  EXPECT_TRUE(at::equal(masked.tokens.input_ids, by_hand.tokens.input_ids));
  EXPECT_TRUE(at::equal(masked.tokens.labels, by_hand.tokens.labels));
  EXPECT_TRUE(at::equal(masked.tokens.token_type_ids, by_hand.tokens.token_type_ids));
  const auto model = tiny_model(/*next_sentence=*/true);
  EXPECT_EQ(objective.loss(*model, batch, {}).parts.at("next_sentence").weight, 2);
}

TEST(MaskedLm, LossIsThatOfTheMaskedTokensByLanguage) {
  const auto model = tiny_model();
  MaskedLmOptions options;
  options.masking.share = 0.4;
  const MaskedLm objective(letters(), kLanguages, 1, options);
  const MaskedBatch batch =
      objective.collate({objective.encode(example("a b cd e f gh", "n op q r")),
                         objective.encode(example("k l m n")), objective.encode(example("a", "b"))},
                        {3, 4, 5});
  const LossSum loss = objective.loss(*model, batch, {});
  const std::vector<double> losses = reference(*model, batch);
  double sums[2] = {0, 0};
  double counts[2] = {0, 0};
  for (std::size_t i = 0; i < losses.size(); ++i) {
    if (losses[i] == 0) continue;
    sums[batch.token_languages[i]] += losses[i];
    ++counts[batch.token_languages[i]];
  }
  ASSERT_GT(counts[0], 3);
  ASSERT_GT(counts[1], 0);
  EXPECT_EQ(loss.weight, counts[0] + counts[1]);
  EXPECT_NEAR(loss.sum.item<double>(), sums[0] + sums[1], 1e-4);
  EXPECT_NEAR(loss.parts.at("language/en").sum, sums[0], 1e-4);
  EXPECT_NEAR(loss.parts.at("language/es").sum, sums[1], 1e-4);
  EXPECT_EQ(loss.parts.at("language/es").weight, counts[1]);
  EXPECT_EQ(loss.parts.size(), 2U);
  const LossSum unknown = MaskedLm(letters(), {"de"}, 1).loss(*model, batch, {});
  EXPECT_EQ(unknown.parts.count("language/unknown"), 1U);

  MaskedBatch weighted = batch;
  weighted.tokens.weights = {2, 0, 1};
  const LossSum scaled = objective.loss(*model, weighted, {});
  double sum = 0;
  double weight = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const auto at = static_cast<std::int32_t>(i);
    const double factor = at < batch.tokens.boundaries[1] ? 2 : at < batch.tokens.boundaries[2] ? 0 : 1;
    sum += factor * losses[i];
    weight += losses[i] != 0 ? factor : 0;
  }
  EXPECT_NEAR(scaled.sum.item<double>(), sum, 1e-4);
  EXPECT_EQ(scaled.weight, weight);
}

TEST(MaskedLm, NextSentencesSplitIntoMicroBatchesGiveTheSameSum) {
  const auto model = tiny_model(/*next_sentence=*/true);
  const MaskedLm objective(letters(), kLanguages, 1);
  const std::vector<FramedText> texts = {
      objective.encode(example("a b cd e f gh i j k l m n", "n op q r a b c d e f g h i j"), true),
      objective.encode(example("k l", "m n"), false), objective.encode(example("k l m"))};
  const MaskedBatch whole = objective.collate(texts, {3, 4, 5});
  EXPECT_THAT(whole.next_sentence, ElementsAre(0, 1, kIgnoreIndex));
  const LossSum all = objective.loss(*model, whole, {});
  const LossSum first = objective.loss(*model, objective.collate({texts[0]}, {3}), {});
  const LossSum rest = objective.loss(*model, objective.collate({texts[1], texts[2]}, {4, 5}), {});
  EXPECT_EQ(all.weight, first.weight + rest.weight);
  EXPECT_GT(first.weight, rest.weight);
  EXPECT_NEAR(all.sum.item<double>(), (first.sum + rest.sum).item<double>(), 1e-4);
  EXPECT_EQ(all.parts.at("next_sentence").weight, 2);
  EXPECT_NEAR(all.parts.at("next_sentence").sum,
              first.parts.at("next_sentence").sum + rest.parts.at("next_sentence").sum, 1e-5);
  MaskedBatch silent = whole;
  silent.next_sentence.clear();
  // Each pair counts once for each of its hidden tokens: one in the second.
  const double added = all.sum.item<double>() - objective.loss(*model, silent, {}).sum.item<double>();
  EXPECT_NEAR(added, first.weight * first.parts.at("next_sentence").sum + rest.parts.at("next_sentence").sum,
              1e-4);
}

TEST(MaskedLm, WrongInputIsNamed) {
  const MaskedLm objective(letters(), kLanguages, 1);
  data::Example wrong = example("a");
  EXPECT_THAT([&] { (void)objective.encode(wrong, true); },
              ThrowsMessage<DataError>(HasSubstr("row 5 of source 'texts' has no second text")));
  wrong.clone = 1;
  EXPECT_THAT([&] { (void)objective.encode(wrong); }, ThrowsMessage<UnsupportedError>(HasSubstr("clones")));
  wrong.messages = {{"user", "hi"}};
  EXPECT_THAT([&] { (void)objective.encode(wrong); }, ThrowsMessage<DataError>(HasSubstr("conversation")));
  MaskedLmOptions options;
  options.max_length = 4;
  EXPECT_THAT([&] { MaskedLm(letters(), kLanguages, 1, options); },
              ThrowsMessage<ConfigError>(HasSubstr("max_length 4 leaves no room")));
  options.max_length = 64;
  options.masking.share = 2;
  EXPECT_THAT([&] { MaskedLm(letters(), kLanguages, 1, options); },
              ThrowsMessage<ConfigError>(HasSubstr("share must be above 0")));
  const FramedText text = objective.encode(example("a b"));
  EXPECT_THROW((void)objective.collate({text}, {1, 2}), StateError);
  EXPECT_THROW((void)objective.collate({FramedText{}}, {1}), StateError);

  const auto model = tiny_model();
  MaskedBatch batch = objective.collate({text}, {1});
  batch.tokens.weights = {1, 1};
  EXPECT_THROW((void)objective.loss(*model, batch, {}), StateError);
  batch.tokens.weights.clear();
  batch.next_sentence = {0};
  EXPECT_THAT([&] { (void)objective.loss(*model, batch, {}); },
              ThrowsMessage<StateError>(HasSubstr("no head for next sentences")));
  batch.next_sentence = {2};
  EXPECT_THAT([&] { (void)objective.loss(*tiny_model(true), batch, {}); },
              ThrowsMessage<DataError>(HasSubstr("next_sentence label of segment 0 is 2")));
}

/// Words without order or meaning: "a" to "i" in one language, "j" to "r" their translations.
data::Example random_pair(std::uint64_t number) {
  RandomStream random(5, "pairs", number);
  std::string first;
  std::string second;
  for (int i = 0; i < 6; ++i) {
    const auto word = static_cast<char>(random.below(9));
    first += std::string(1, static_cast<char>('a' + word)) + " ";
    second += std::string(1, static_cast<char>('j' + word)) + " ";
  }
  return example(first, second);
}

/// Mean loss of one masked word of the first text, its translation visible or not.
double loss_of_a_word(models::MaskedLanguageModel& model, const MaskedLm& objective, bool translated) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  constexpr int kTexts = 200;
  for (int i = 0; i < kTexts; ++i) {
    data::Example pair = random_pair(static_cast<std::uint64_t>(1'000'000 + i));
    if (!translated) pair.pair_text.clear();
    FramedText text = objective.encode(pair);
    const auto place = static_cast<std::size_t>(1 + i % 6);
    std::vector<TokenId> labels(text.ids.size(), kIgnored);
    labels[place] = std::exchange(text.ids[place], 4);
    MaskedBatch batch;
    batch.tokens = make_batch({text.ids}, {labels});
    if (translated) batch.tokens.token_type_ids = make_batch({text.type_ids}, {text.type_ids}).input_ids;
    sum += objective.loss(model, batch, {}).sum.item<double>();
  }
  return sum / kTexts;
}

TEST(MaskedLm, AWordIsReadOffItsTranslation) {
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = 41;
  config.hidden_size = 32;
  config.intermediate_size = 64;
  config.hidden_dropout_prob = 0;
  config.initializer_range = 0.05;
  auto encoder = models::make_bert(config);
  models::initialise(*encoder, 3);
  models::MaskedLanguageModel model(std::move(encoder));
  models::initialise_heads(model, 3);
  std::vector<optim::Parameter> parameters;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    parameters.push_back({name, tensor.set_requires_grad(true)});
  });
  optim::AdamW optimizer(optim::make_groups(parameters, {}));

  MaskedLmOptions options;
  options.masking.share = 0.3;  // More to learn from in a text of six words.
  const MaskedLm objective(letters(), kLanguages, 1, options);
  constexpr std::int64_t kSteps = 350;
  constexpr std::int64_t kBatch = 24;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    std::vector<FramedText> texts;
    std::vector<std::int64_t> samples;
    for (std::int64_t i = 0; i < kBatch; ++i) {
      samples.push_back(step * kBatch + i);
      data::Example pair = random_pair(static_cast<std::uint64_t>(samples.back()));
      if (i % 4 == 0) pair.pair_text.clear();  // MLM beside TLM, as in MuRIL.
      texts.push_back(objective.encode(pair));
    }
    const LossSum loss = objective.loss(model, objective.collate(texts, samples), {});
    loss.sum.backward();
    optimizer.step(3e-3 * std::min(1.0, static_cast<double>(step + 1) / 30), 1 / loss.weight);
    optimizer.zero_grad();
  }
  // Nine words as likely as each other: nothing but the translation tells which.
  const double alone = loss_of_a_word(model, objective, false);
  const double translated = loss_of_a_word(model, objective, true);
  EXPECT_GT(alone, std::log(9) - 0.1);
  EXPECT_LT(alone, std::log(9) + 0.5);
  EXPECT_LT(translated, 0.5) << "alone " << alone;
}

}  // namespace
}  // namespace bitrain::objectives
