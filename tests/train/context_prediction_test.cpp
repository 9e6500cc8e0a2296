#include <bitrain/objectives/context_prediction.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/data/document_sources.h>
#include <bitrain/data/loader.h>
#include <bitrain/eval/encode.h>
#include <bitrain/losses/uniformity.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/connect.h>
#include <bitrain/train/step.h>
#include <bitrain/train/trainer.h>
#include <support/byte_tokenizer.h>
#include <support/gradcheck.h>
#include <support/micro_batches.h>
#include <support/temporary_directory.h>
#include <support/tiny_bert.h>

// Contrastive context prediction (paper 5, CCP) on steps of micro-batches, in runs, and from checkpoints.
namespace bitrain::train {
namespace {

using bitrain::testing::micro_batches;
namespace fs = std::filesystem;
using objectives::ContextPrediction;
using objectives::ContextPredictionOptions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::random_tensor;
using ::testing::ThrowsMessage;

constexpr std::int64_t kWidth = 16;

std::shared_ptr<const text::Tokenizer> bytes() {
  return std::make_shared<test::ByteTokenizer>(false, false);
}

data::Example pair(const std::string& text, const std::string& context, const std::string& language = "en") {
  data::Example example;
  example.text = text;
  example.pair_text = context;
  example.language = example.pair_language = language;
  example.source = "windows";
  return example;
}

std::unique_ptr<models::SentenceEncoder> encoder(at::ScalarType dtype = at::kFloat, double dropout = 0.3) {
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = bytes()->vocab_size();
  config.hidden_dropout_prob = dropout;
  return std::make_unique<models::SentenceEncoder>(testing::tiny_bert(dtype, config),
                                                   models::EmbeddingOptions{{nn::Pooling::kMean}, true});
}

ContextPredictionOptions small_bank(const std::string& bank = "per_language") {
  ContextPredictionOptions options;
  options.bank = bank;
  options.bank_size = 10;
  return options;
}

std::vector<data::Example> seven_pairs() {
  return {pair("one", "two"),    pair("uno", "dos", "es"),     pair("three", "four"),
          pair("five", "six"),   pair("tres", "cuatro", "es"), pair("cinco", "seis", "es"),
          pair("seven", "eight")};
}

std::vector<optim::Parameter> parameters_of(models::SentenceEncoder& model, ContextPrediction& objective) {
  adapters::train_all(model);
  std::vector<optim::Parameter> parameters = adapters::trainable_parameters(model);
  for (optim::Parameter& parameter : adapters::trainable_parameters(objective.head())) {
    parameter.name = "projection_head." + parameter.name;
    parameters.push_back(parameter);
  }
  return parameters;
}

std::map<std::string, at::Tensor> state_of(const ContextPrediction& objective) {
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, tensor] : objective.state()) state[name] = tensor.clone();
  return state;
}

void expect_same_state(const ContextPrediction& a, const ContextPrediction& b, double tolerance) {
  const auto left = state_of(a);
  const auto right = state_of(b);
  ASSERT_EQ(left.size(), right.size());
  for (const auto& [name, tensor] : left)
    EXPECT_LE((tensor - right.at(name)).abs().max().item<double>(), tolerance) << name;
}

// The head runs over the joined rows of a step: its batch statistics, and all gradients, are those of the
// whole batch.
TEST(ContextPrediction, MicroBatchesChangeNothing) {
  struct Outcome {
    std::unique_ptr<models::SentenceEncoder> model = encoder(at::kDouble);
    ContextPrediction objective{bytes(), {"en", "es"}, kWidth, 3, small_bank(), at::kDouble};
    std::vector<StepSums> sums;
    std::vector<at::Tensor> gradients;
  };
  const auto steps_of = [](std::size_t rows) {
    auto outcome = std::make_unique<Outcome>();
    optim::AdamW optimizer(optim::make_groups(parameters_of(*outcome->model, outcome->objective), {}));
    const objectives::EmbeddingLoss loss = outcome->objective.loss(*outcome->model);
    for (std::int64_t step = 0; step < 3; ++step) {
      nn::ForwardContext context;
      context.dropout = {3, step, 0};
      outcome->sums.push_back(accumulate_gradients(micro_batches(outcome->objective, seven_pairs(), rows),
                                                   loss, context, optimizer, true));
    }
    for (const at::Tensor& gradient : optimizer.gradients()) outcome->gradients.push_back(gradient.clone());
    return outcome;
  };
  const auto whole = steps_of(7);
  EXPECT_EQ(whole->sums.back().weight, 7);
  EXPECT_EQ(whole->sums.back().parts.size(), 2U);
  EXPECT_EQ(whole->objective.bank().size(0), 10);
  for (const std::size_t rows : {3, 1}) {
    const auto split = steps_of(rows);
    for (std::size_t step = 0; step < 3; ++step)
      EXPECT_NEAR(split->sums[step].loss, whole->sums[step].loss, 1e-9) << step;
    ASSERT_EQ(split->gradients.size(), whole->gradients.size());
    for (std::size_t i = 0; i < whole->gradients.size(); ++i)
      EXPECT_LT(testing::relative_difference(split->gradients[i], whole->gradients[i], 1e-2), 1e-7) << i;
    expect_same_state(split->objective, whole->objective, 1e-9);
  }
}

double one_way(const at::Tensor& queries, const at::Tensor& candidates) {
  const at::Tensor logits = 20 * queries.matmul(candidates.t());
  return (logits.logsumexp(1) - logits.narrow(1, 0, queries.size(0)).diagonal()).sum().item<double>();
}

/// Rows 2i and 2i + 1 are pair i.
std::vector<Batch> batch_of(const ContextPrediction& objective, const std::vector<data::Example>& examples) {
  return micro_batches(objective, examples, examples.size());
}

// -log exp(z_c z_s / tau) / (exp(z_c z_s / tau) + the other contexts and the bank of the language), both ways
// averaged.
class ContextLoss : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Banks, ContextLoss, ::testing::Values("per_language", "none"));

TEST_P(ContextLoss, IsOverTheLanguagesStepAndBank) {
  ContextPrediction objective(bytes(), {"en", "es"}, kWidth, 3, small_bank(GetParam()));
  const auto model = encoder();
  const objectives::EmbeddingLoss loss = objective.loss(*model);
  const at::NoGradGuard no_grad;
  const std::vector<Batch> batches = batch_of(objective, seven_pairs());
  nn::ProjectionHead twin(kWidth, kWidth, kWidth);
  for (std::uint64_t step = 0; step < 3; ++step) {
    const at::Tensor rows = random_tensor({14, kWidth}, step);
    const at::Tensor english = objective.bank().candidates(0);
    const at::Tensor spanish = objective.bank().candidates(1);
    std::map<std::string, at::Tensor> weights;
    objective.head().visit_tensors(
        [&](const std::string& name, at::Tensor& t) { weights[name] = t.clone(); });
    twin.visit_tensors([&](const std::string& name, at::Tensor& t) { t.copy_(weights.at(name)); });
    const double value = loss.loss(rows, {}, batches).sum.item<double>();
    if (step == 0) {  // The running side had nothing earlier to read.
      objective.head().visit_tensors(
          [&](const std::string& name, at::Tensor& t) { weights[name] = t.clone(); });
      twin.visit_tensors([&](const std::string& name, at::Tensor& t) { t.copy_(weights.at(name)); });
    }
    const auto side = [&](std::int64_t first, bool batch) {
      return twin.forward(rows.slice(0, first, 14, 2),
                          batch ? nn::BatchStatistics::kBatch : nn::BatchStatistics::kRunning, {});
    };
    const at::Tensor centres = side(0, step % 2 == 0);  // In turns.
    const at::Tensor contexts = side(1, step % 2 == 1);
    double wanted = 0;
    for (const bool es : {false, true}) {
      const at::Tensor index = es ? at::tensor(std::vector<std::int64_t>{1, 4, 5})
                                  : at::tensor(std::vector<std::int64_t>{0, 2, 3, 6});
      const at::Tensor c = centres.index_select(0, index);
      const at::Tensor s = contexts.index_select(0, index);
      const at::Tensor bank = es ? spanish : english;
      wanted += (one_way(c, at::cat({s, bank})) + one_way(s, at::cat({c, bank}))) / 2;
    }
    EXPECT_NEAR(value, wanted, 1e-3) << step;
  }
  EXPECT_EQ(objective.bank().size(0), std::string(GetParam()) == "none" ? 0 : 10);
}

TEST(ContextPrediction, ItsHeadBeginsAsRotations) {
  ContextPrediction objective(bytes(), {"en"}, kWidth, 3, {}, at::kDouble);
  ContextPrediction other(bytes(), {"en"}, kWidth, 4, {}, at::kDouble);
  for (const at::Tensor& weight : {objective.head().in_proj.weight, objective.head().out_proj.weight})
    EXPECT_LT((weight.matmul(weight.t()) - at::eye(kWidth, at::kDouble)).abs().max().item<double>(), 1e-12);
  EXPECT_FALSE(at::equal(objective.head().in_proj.weight, objective.head().out_proj.weight));
  EXPECT_FALSE(at::equal(objective.head().in_proj.weight, other.head().in_proj.weight));
}

// Paper 5's checks: a bank gives its language's rows alone, the oldest go first, none has a gradient.
TEST(ContextPrediction, EveryLanguageHasItsOwnBank) {
  ContextPrediction objective(bytes(), {"en", "es"}, kWidth, 3, small_bank());
  const auto model = encoder();
  const objectives::EmbeddingLoss loss = objective.loss(*model);
  const std::vector<Batch> batches = batch_of(objective, seven_pairs());
  const at::Tensor rows = random_tensor({14, kWidth}, 1).requires_grad_();
  loss.loss(rows, {}, batches).sum.backward();
  EXPECT_EQ(objective.bank().size(0), 8);  // Four pairs,
  EXPECT_EQ(objective.bank().size(1), 6);  // and three.
  const at::Tensor first = objective.bank().candidates(1);
  EXPECT_FALSE(first.requires_grad());
  (void)loss.loss(random_tensor({14, kWidth}, 2), {}, batches);
  EXPECT_EQ(objective.bank().size(1), 10);
  EXPECT_TRUE(at::equal(objective.bank().candidates(1).narrow(0, 0, 4), first.narrow(0, 2, 4)));

  ContextPrediction shared(bytes(), {"en", "es"}, kWidth, 3, small_bank("shared"));
  const LossSum sum = shared.loss(*model).loss(rows, {}, batches);
  EXPECT_EQ(shared.bank().size(0), 10);
  EXPECT_EQ(sum.parts.count("language/all"), 1U);
}

TEST(ContextPrediction, ALossThatIsNotFiniteLeavesNothing) {
  ContextPrediction objective(bytes(), {"en", "es"}, kWidth, 3, small_bank());
  const auto model = encoder();
  const objectives::EmbeddingLoss loss = objective.loss(*model);
  const std::vector<Batch> batches = batch_of(objective, seven_pairs());
  (void)loss.loss(random_tensor({14, kWidth}, 1), {}, batches);
  const auto before = state_of(objective);
  at::Tensor broken = random_tensor({14, kWidth}, 2);
  broken[3][2].fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(loss.loss(broken, {}, batches).sum.item<double>()));
  for (const auto& [name, tensor] : state_of(objective))
    EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
}

TEST(ContextPrediction, EqualEmbeddingsCostTheLogOfTheCandidates) {
  ContextPrediction objective(bytes(), {"en", "es"}, kWidth, 3, small_bank());
  const auto model = encoder();
  const LossSum sum =
      objective.loss(*model).loss(at::ones({14, kWidth}), {}, batch_of(objective, seven_pairs()));
  // The head's last map has no bias yet: all rows are zero behind the norm, and have cosine 0 with
  // everything.
  EXPECT_NEAR(sum.sum.item<double>(), 4 * std::log(4) + 3 * std::log(3), 1e-3);
}

TEST(ContextPrediction, RefusesWhatItCannotLearnFrom) {
  ContextPrediction objective(bytes(), {"en", "es"}, kWidth, 3, small_bank());
  EXPECT_THAT(
      [&] { (void)objective.encode(pair("text", "")); },
      ThrowsMessage<DataError>(HasSubstr("row 1 of source 'windows' is not a sentence beside its context")));
  EXPECT_THAT(
      [&] { (void)objective.encode(pair("text", "texte", "fr")); },
      ThrowsMessage<DataError>(HasSubstr("of language 'fr', which no bank is for; there are: en, es")));
  data::Example two = pair("text", "texto");
  two.pair_language = "es";
  EXPECT_THAT([&] { (void)objective.encode(two); }, ThrowsMessage<DataError>(HasSubstr("two languages")));
  EXPECT_TRUE(objective.encode(pair("same", "same")).empty());
  EXPECT_TRUE(objective.encode(pair("", "text")).empty());
  EXPECT_THROW(ContextPrediction(bytes(), {}, kWidth, 3), ConfigError);

  const auto model = encoder();
  const objectives::EmbeddingLoss loss = objective.loss(*model);
  EXPECT_THAT(
      [&] {
        (void)loss.loss(random_tensor({2, kWidth}, 1), {}, batch_of(objective, {pair("a", "b")}));
      },
      ThrowsMessage<DataError>(HasSubstr("a step of one pair")));
  const std::vector<data::Example> lonely = {pair("a", "b"), pair("c", "d"), pair("e", "f", "es")};
  EXPECT_THAT(
      [&] {
        (void)loss.loss(random_tensor({6, kWidth}, 1), {}, batch_of(objective, lonely));
      },
      ThrowsMessage<DataError>(HasSubstr("language 'es' has one pair in the step")));
  std::vector<Batch> foreign = batch_of(objective, seven_pairs());
  for (std::int32_t& language : foreign.front().language_ids) language = 7;
  EXPECT_THAT(
      [&] {
        (void)loss.loss(random_tensor({14, kWidth}, 1), {}, foreign);
      },
      ThrowsMessage<DataError>(HasSubstr("no bank for language 7; there are 2: en, es")));
  foreign.front().language_ids.clear();
  EXPECT_THROW((void)loss.loss(random_tensor({14, kWidth}, 1), {}, foreign), StateError);
}

TEST(ContextPrediction, RefusesAStateThatDoesNotFit) {
  const auto model = encoder();
  ContextPrediction objective(bytes(), {"en", "es"}, kWidth, 3, small_bank());
  (void)objective.loss(*model).loss(random_tensor({14, kWidth}, 1), {}, batch_of(objective, seven_pairs()));
  const auto saved = state_of(objective);
  const auto lookup = [&](const std::string& name) {
    const auto found = saved.find(name);
    return found == saved.end() ? std::nullopt : std::optional<at::Tensor>(found->second);
  };
  ContextPrediction same(bytes(), {"en", "es"}, kWidth, 4, small_bank());
  same.load_state(lookup);
  expect_same_state(same, objective, 0);
  ContextPrediction narrow(bytes(), {"en", "es"}, 8, 3, small_bank());
  EXPECT_THROW(narrow.load_state(lookup), StateError);
  EXPECT_THAT([&] { same.load_state([](const std::string&) { return std::nullopt; }); },
              ThrowsMessage<StateError>(HasSubstr("running_mean")));
}

std::string sentence(const std::string& language, int document, int place) {
  return language + " " + std::string(4, static_cast<char>('a' + document)) + " " + std::to_string(place);
}

/// A run on documents whose sentences name their document, in two made-up languages.
struct ContextRun {
  explicit ContextRun(const std::string& bank = "per_language") {
    objective = std::make_unique<ContextPrediction>(bytes(), std::vector<std::string>{"en", "es"}, kWidth, 3,
                                                    small_bank(bank));
    std::vector<data::SourcePtr> sources;
    for (const char* language : {"en", "es"}) {
      std::vector<data::Example> documents;
      for (int d = 0; d < 12; ++d) {
        std::string text;
        for (int s = 0; s < 4; ++s) text += sentence(language, d, s) + "\n";
        documents.emplace_back().text = text;
      }
      sources.push_back(data::window_source(data::make_source(language, language, documents), 2, 5));
    }
    data::LoaderOptions options;
    options.packing = "whole";
    options.rows_per_step = 12;
    options.micro_batch_rows = 5;
    options.prefetch_threads = 0;
    options.mixture.unit = "samples";
    loader = std::make_unique<data::Loader>(
        options, sources, [this](const data::Example& example) { return objective->encode(example); },
        data::LoaderRun{1, 100});
  }

  TrainResult run(std::int64_t steps, const fs::path& folder = {}, std::int64_t save_every = 0) {
    TrainOptions options;
    options.max_steps = steps;
    options.learning_rate = 5e-3;
    options.save_every = save_every;
    options.progress = "none";
    options.tensorboard = false;
    TrainParts parts;
    parts.parameters = parameters_of(*model, *objective);
    parts.embedding_loss = objective->loss(*model);
    parts.source = make_source(*loader);
    parts.extra_state = ExtraState{[this] { return objective->state(); },
                                   [this](const auto& lookup) { objective->load_state(lookup); }};
    parts.output_dir = folder.string();
    return Trainer(options, std::move(parts)).run();
  }

  std::unique_ptr<models::SentenceEncoder> model = encoder(at::kFloat, 0.1);
  std::unique_ptr<ContextPrediction> objective;
  std::unique_ptr<data::Loader> loader;
};

// The bank, the running statistics and whose turn it is are part of a checkpoint.
TEST(ContextPrediction, AResumedRunIsTheUninterruptedOneBitForBit) {
  const test::TemporaryDirectory folder;
  ContextRun whole;
  const TrainResult expected = whole.run(7, folder.path() / "whole", 3);
  ASSERT_TRUE(fs::exists(folder.path() / "whole" / "checkpoint-6" / "extra.safetensors"));
  fs::create_directories(folder.path() / "resumed");
  fs::copy(folder.path() / "whole" / "checkpoint-6", folder.path() / "resumed" / "checkpoint-6",
           fs::copy_options::recursive);
  ContextRun resumed;
  const TrainResult result = resumed.run(7, folder.path() / "resumed", 3);
  EXPECT_EQ(result.curve.loss, expected.curve.loss);
  expect_same_state(*resumed.objective, *whole.objective, 0);
  std::map<std::string, at::Tensor> weights;
  whole.model->visit_tensors([&](const std::string& name, at::Tensor& tensor) { weights[name] = tensor; });
  resumed.model->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    EXPECT_TRUE(at::equal(tensor.detach(), weights.at(name).detach())) << name;
  });
}

// Paper 5's collapse probe: a toy run learns, and the embeddings stay spread.
TEST(ContextPrediction, ARunLearnsAndDoesNotCollapse) {
  ContextRun run;
  const TrainResult result = run.run(60);
  const auto mean = [&](std::size_t first, std::size_t last) {
    double sum = 0;
    for (std::size_t i = first; i < last; ++i) sum += result.curve.loss[i];
    return sum / static_cast<double>(last - first);
  };
  EXPECT_LT(mean(50, 60), mean(5, 15) - 0.3);  // From the sixth step on the bank is full.
  EXPECT_LT(losses::uniformity(run.objective->bank().candidates(0)), -1);
}

/// How far the means of the two languages lie apart behind the head, over the spread around them, and how
/// many sentences have one of their own document for the nearest of their language there. In the encoder's
/// own vectors the gap did not grow at this size (0.0077 with either bank): the probe says nothing of what
/// training leaves.
struct Probe {
  double gap = 0;
  double ranking = 0;
};

Probe probe(ContextRun& run) {
  std::vector<at::Tensor> sides;
  Probe result;
  for (const char* language : {"en", "es"}) {
    std::vector<std::string> sentences;
    for (int d = 0; d < 12; ++d)
      for (int s = 0; s < 4; ++s) sentences.push_back(sentence(language, d, s));
    const at::NoGradGuard no_grad;
    const at::Tensor rows = run.objective->head().forward(eval::encode_texts(*run.model, *bytes(), sentences),
                                                          nn::BatchStatistics::kRunning, {});
    sides.push_back(rows);
    const at::Tensor nearest = rows.matmul(rows.t()).fill_diagonal_(-2).argmax(1);
    for (std::int64_t i = 0; i < 48; ++i)
      result.ranking += nearest[i].item<std::int64_t>() / 4 == i / 4 ? 1.0 / 96 : 0;
  }
  const at::Tensor means = sides[0].mean(0) - sides[1].mean(0);
  const at::Tensor spread = (sides[0] - sides[0].mean(0)).square().sum(1).mean() +
                            (sides[1] - sides[1].mean(0)).square().sum(1).mean();
  result.gap = (means.square().sum() / spread).item<double>();
  return result;
}

// Paper 5's collapse probe: with one bank of both languages they move apart, and within a language nothing is
// gained.
TEST(ContextPrediction, ASharedBankDrivesLanguagesApart) {
  ContextRun own("per_language");
  ContextRun shared("shared");
  (void)own.run(60);
  (void)shared.run(60);
  const Probe with_own = probe(own);
  const Probe with_shared = probe(shared);
  EXPECT_GT(with_shared.gap, 1.5 * with_own.gap);
  EXPECT_LE(with_shared.ranking, with_own.ranking + 0.05);
}

}  // namespace
}  // namespace bitrain::train
