#include <bitrain/objectives/late_interaction.h>

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/stack.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/losses/late_interaction.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/step.h>

#include "support/letter_tokenizer.h"
#include "support/micro_batches.h"
#include "support/tiny_bert.h"

namespace bitrain::train {
namespace {

using bitrain::testing::micro_batches;
using models::LateInteractionEncoder;
using objectives::InteractionTokens;
using objectives::LateInteraction;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const models::LateInteractionOptions kOptions = test::late_options(9, 12);

std::shared_ptr<const InteractionTokens> tokens() {
  return std::make_shared<InteractionTokens>(test::letter_tokenizer(), kOptions);
}

std::unique_ptr<LateInteractionEncoder> encoder(at::ScalarType dtype, double dropout = 0.1,
                                                const std::string& family = "bert") {
  models::BertConfig config = testing::tiny_bert_config(family);
  config.vocab_size = test::letter_tokenizer()->vocab_size();
  config.hidden_dropout_prob = dropout;
  auto model = std::make_unique<LateInteractionEncoder>(testing::tiny_bert(dtype, config), 6, kOptions);
  models::initialise_projection(*model, 3);
  model->encoder().set_languages({"en", "es"});
  return model;
}

std::vector<data::Example> examples(std::size_t count, std::size_t negatives) {
  const std::vector<std::string> words = {"one", "two", "three", "four", "five", "six", "seven"};
  std::vector<data::Example> rows;
  for (std::size_t i = 0; i < count; ++i) {
    data::Example row;
    row.text = words[i];
    row.pair_text = "is " + words[i] + ", no";
    for (std::size_t k = 1; k <= negatives; ++k)
      row.negatives.push_back("not " + words[(i + k) % words.size()] + "!");
    row.language = row.pair_language = "en";
    rows.push_back(row);
  }
  return rows;
}

struct Outcome {
  StepSums sums;
  std::vector<at::Tensor> gradients;
};

Outcome step_of(std::size_t count, std::size_t each, std::size_t negatives, double dropout) {
  const auto model = encoder(at::kDouble, dropout);
  const LateInteraction objective(tokens(), {"en", "es"},
                                  {.negatives = static_cast<std::int64_t>(negatives)});
  adapters::train_all(*model);
  optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
  nn::ForwardContext context;
  context.dropout = {3, 5, 0};
  Outcome outcome;
  outcome.sums = accumulate_gradients(micro_batches(objective, examples(count, negatives), each),
                                      objective.loss(*model), context, optimizer, true);
  outcome.gradients = optimizer.gradients();
  return outcome;
}

TEST(LateInteractionGradCache, GivesTheGradientsOfTheWholeBatchWithDropout) {
  for (const std::size_t negatives : {0, 1, 2}) {
    const Outcome whole = step_of(7, 7, negatives, 0.3);
    EXPECT_EQ(whole.sums.weight, 7);
    EXPECT_GT(whole.sums.loss, 1);
    for (const std::size_t each : {3, 1}) {
      const Outcome parts = step_of(7, each, negatives, 0.3);
      EXPECT_NEAR(parts.sums.loss, whole.sums.loss, 1e-9);
      ASSERT_EQ(parts.gradients.size(), whole.gradients.size());
      for (std::size_t i = 0; i < whole.gradients.size(); ++i)
        EXPECT_LT((parts.gradients[i] - whole.gradients[i]).abs().max().item<double>(), 1e-9) << i;
    }
  }
}

/// MaxSim by its definition, from texts: every query token takes its best document token that counts.
at::Tensor score(LateInteractionEncoder& model, const std::string& query, const std::string& document) {
  const auto given = tokens();
  const auto vectors = [&](const std::vector<text::TokenId>& ids) {
    return model.forward(make_batch({ids}, {std::vector<std::int32_t>(ids.size(), kIgnoreIndex)}, {0}), {});
  };
  const std::vector<text::TokenId> ids = given->document(document);
  const at::Tensor q = vectors(given->query(query));
  const at::Tensor d = vectors(ids);
  at::Tensor sum;
  for (std::int64_t i = 0; i < q.size(0); ++i) {
    at::Tensor best;
    for (std::int64_t j = 0; j < d.size(0); ++j) {
      if (!given->counts(ids[static_cast<std::size_t>(j)])) continue;
      const at::Tensor cosine = (q[i] * d[j]).sum();
      if (!best.defined() || cosine.item<double>() > best.item<double>()) best = cosine;
    }
    sum = sum.defined() ? sum + best : best;
  }
  return sum;
}

double cross_entropy(const std::vector<at::Tensor>& scores, std::int64_t positive) {
  return -at::log_softmax(at::stack(scores), 0)[positive].item<double>();
}

// ColBERT-XM: cross-entropy over a positive and its hard negatives, plus that over the positives of the
// batch, with equal weights; a batch of 1 has in-batch loss 0.
TEST(LateInteractionLoss, IsBothTermsOfColbertXm) {
  const at::NoGradGuard no_grad;
  const auto model = encoder(at::kDouble, 0);
  const LateInteraction objective(tokens(), {"en", "es"}, {.negatives = 2});
  const std::vector<data::Example> rows = examples(3, 2);
  for (const std::size_t count : {3, 1}) {
    const std::vector<data::Example> some(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(count));
    double own = 0;
    double in_batch = 0;
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<at::Tensor> mine = {score(*model, some[i].text, some[i].pair_text)};
      for (const std::string& negative : some[i].negatives)
        mine.push_back(score(*model, some[i].text, negative));
      own += cross_entropy(mine, 0);
      std::vector<at::Tensor> all;
      for (const data::Example& other : some) all.push_back(score(*model, some[i].text, other.pair_text));
      in_batch += cross_entropy(all, static_cast<std::int64_t>(i));
    }
    if (count == 1) {
      EXPECT_EQ(in_batch, 0);
    }
    const std::vector<Batch> batches = micro_batches(objective, some, 2);
    const objectives::EmbeddingLoss loss = objective.loss(*model);
    std::vector<at::Tensor> embedded;
    for (const Batch& batch : batches) embedded.push_back(loss.embed(batch, {}));
    const LossSum result = loss.loss(at::cat(embedded), {}, batches);
    EXPECT_NEAR(result.sum.item<double>(), own + in_batch, 1e-9) << count;
    EXPECT_EQ(result.weight, static_cast<double>(count));
  }
}

TEST(LateInteractionLoss, NeedsSomethingToTellFrom) {
  EXPECT_THAT([] { (void)step_of(1, 1, 0, 0); }, ThrowsMessage<DataError>(HasSubstr("no negative")));
  const auto model = encoder(at::kFloat);
  const LateInteraction objective(tokens(), {"en", "es"}, {.negatives = 1});
  const LateInteraction other(tokens(), {"en", "es"}, {.negatives = 2});
  const std::vector<Batch> batches = micro_batches(objective, examples(2, 1), 2);
  const objectives::EmbeddingLoss loss = other.loss(*model);
  EXPECT_THAT([&] { (void)loss.loss(loss.embed(batches[0], {}), {}, batches); },
              ThrowsMessage<StateError>(HasSubstr("must hold 4 texts for each example")));
}

// ColBERT-XM: trained in English with embeddings and language adapters frozen. Frozen sets do not require
// grad and stay bit for bit; adapters of other languages get no gradient when they are not frozen either.
TEST(LateInteractionLoss, LeavesFrozenSetsAndOtherLanguagesAdaptersAsTheyAre) {
  const auto state_of = [](nn::Module& model) {
    std::map<std::string, at::Tensor> state;
    model.visit_tensors(
        [&](const std::string& name, at::Tensor& tensor) { state[name] = tensor.detach().clone(); });
    return state;
  };
  for (const bool frozen : {true, false}) {
    const auto model = encoder(at::kFloat, 0.1, "xmod");
    adapters::train_all(*model);
    if (frozen) adapters::freeze(*model, {"word_embeddings", "adapter_modules"});
    model->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
      const bool held = name.find("adapter_modules") != std::string::npos ||
                        name.find("word_embeddings") != std::string::npos;
      EXPECT_EQ(tensor.requires_grad(), !(frozen && held)) << name;
    });
    optim::AdamW optimizer(optim::make_groups(adapters::trainable_parameters(*model), {}));
    const LateInteraction objective(tokens(), {"en", "es"}, {.negatives = 1});
    const auto before = state_of(*model);
    for (int step = 0; step < 2; ++step) {
      (void)accumulate_gradients(micro_batches(objective, examples(5, 1), 2), objective.loss(*model), {},
                                 optimizer, true);
      optimizer.step(1e-3);
    }
    for (const auto& [name, now] : state_of(*model)) {
      const bool adapter = name.find("adapter_modules") != std::string::npos;
      const bool other = adapter && name.find("en_XX") == std::string::npos;
      const bool held = other || (frozen && (adapter || name.find("word_embeddings") != std::string::npos));
      EXPECT_EQ(at::equal(now, before.at(name)), held) << name;
    }
  }
}

}  // namespace
}  // namespace bitrain::train
