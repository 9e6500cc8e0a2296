#include <bitrain/train/trainer.h>

#include <cmath>
#include <limits>

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/train/checkpoint.h>
#include <bitrain/train/step.h>
#include "train/tiny_run.h"

namespace bitrain::train {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using ::testing::ThrowsMessage;
using testing::tiny_options;
using testing::TinyModel;
using testing::TinyRun;

void expect_same_weights(const TinyModel& a, const TinyModel& b) {
  EXPECT_TRUE(at::equal(a.embedding, b.embedding));
  EXPECT_TRUE(at::equal(a.linear, b.linear));
  EXPECT_TRUE(at::equal(a.head, b.head));
}

TEST(Trainer, LearnsAndReportsWhatItDid) {
  TinyRun tiny;
  const TrainResult result = tiny.run(tiny_options(60));
  EXPECT_EQ(result.steps, 60);
  EXPECT_EQ(result.tokens, 60 * 96);
  EXPECT_GT(result.supervised_tokens, 60 * 96 * 7 / 10);
  EXPECT_LT(result.supervised_tokens, 60 * 96 * 9 / 10);
  ASSERT_EQ(result.curve.loss.size(), 60U);
  EXPECT_NEAR(result.curve.loss.front(), std::log(24), 0.3);
  EXPECT_LT(result.train_loss, 1.5);
  EXPECT_DOUBLE_EQ(result.curve.learning_rate[0], 0.01);
  EXPECT_DOUBLE_EQ(result.curve.learning_rate[1], 0.02);
  EXPECT_EQ(result.trainable_parameters, 24 * 16 * 2 + 16 * 16);
  EXPECT_DOUBLE_EQ(result.shares.at("en").realised, 0.75);
  EXPECT_DOUBLE_EQ(result.shares.at("es").realised, 0.25);
  EXPECT_GT(result.seconds, 0);
  EXPECT_GT(result.tokens_per_second, 0);
  EXPECT_GT(result.peak_memory_bytes, 0U);
  EXPECT_FALSE(result.interrupted());
}

TEST(Trainer, MaxTokensSetsTheStepsAndNoLengthIsAnError) {
  TinyRun tiny;
  TrainOptions options = tiny_options(0);
  options.max_tokens = 96 * 4 + 1;
  EXPECT_EQ(tiny.run(options).steps, 5);
  options.max_tokens = 0;
  EXPECT_THAT([&] { tiny.run(options); },
              ThrowsMessage<ConfigError>(HasSubstr("max_steps or train.max_tokens")));
}

struct ResumeCase {
  const char* name;
  at::ScalarType dtype;
};
class Resume : public ::testing::TestWithParam<ResumeCase> {};

// With dropout, clipping, weight decay, warm-up and two micro-batches; the interruption is at an odd step.
TEST_P(Resume, AtAnOddStepContinuesBitForBit) {
  TinyRun through(GetParam().dtype);
  const TrainResult whole = through.run(tiny_options(13));

  const TemporaryFolder folder;
  TrainOptions options = tiny_options(13);
  options.save_every = 5;
  {
    TinyRun first(GetParam().dtype);
    auto next = first.parts.source.next_step;
    int calls = 0;
    // The process dies in step 8; the last checkpoint is that of step 5.
    first.parts.source.next_step = [&]() -> std::vector<Batch> {
      if (++calls == 8) throw std::runtime_error("the power went");
      return next();
    };
    EXPECT_THROW(first.run(options, folder.path()), std::runtime_error);
  }
  TinyRun second(GetParam().dtype);
  const TrainResult resumed = second.run(options, folder.path());
  EXPECT_EQ(resumed.resumed_from, 5);
  EXPECT_EQ(resumed.curve.step, whole.curve.step);
  EXPECT_EQ(resumed.curve.loss, whole.curve.loss);  // Bits, not tolerances.
  EXPECT_EQ(resumed.curve.learning_rate, whole.curve.learning_rate);
  EXPECT_EQ(resumed.tokens, whole.tokens);
  EXPECT_EQ(resumed.supervised_tokens, whole.supervised_tokens);
  EXPECT_EQ(resumed.shares.at("es").tokens, whole.shares.at("es").tokens);
  expect_same_weights(through.model, second.model);

  // The run is complete: once more does nothing, and gives the same result.
  TinyRun third(GetParam().dtype);
  third.parts.loss = [](const Batch&, const nn::ForwardContext&) -> LossSum {
    throw std::logic_error("a complete run must not train");
  };
  const TrainResult again = third.run(options, folder.path());
  EXPECT_EQ(again.curve.loss, whole.curve.loss);
  expect_same_weights(through.model, third.model);
}

INSTANTIATE_TEST_SUITE_P(Precisions, Resume,
                         ::testing::Values(ResumeCase{"float32", at::kFloat},
                                           ResumeCase{"bfloat16", at::kBFloat16}),
                         [](const auto& param) { return std::string(param.param.name); });

// The same step in 1 or 8 micro-batches: the same mathematics. Not the same bits, because gradients of a
// matrix product over 96 rows are summed in another order than those of eight products over 12.
TEST(Trainer, AccumulationDoesNotChangeTheMathematics) {
  TinyRun one(at::kFloat, 1);
  TinyRun eight(at::kFloat, 8);
  const TrainResult a = one.run(tiny_options(10));
  const TrainResult b = eight.run(tiny_options(10));
  for (std::size_t i = 0; i < 10; ++i) EXPECT_NEAR(a.curve.loss[i], b.curve.loss[i], 2e-6) << i;
  EXPECT_EQ(a.supervised_tokens, b.supervised_tokens);

  TinyRun exact_one(at::kDouble, 1);
  TinyRun exact_eight(at::kDouble, 8);
  (void)exact_one.run(tiny_options(10));
  (void)exact_eight.run(tiny_options(10));
  EXPECT_LE((exact_one.model.head - exact_eight.model.head).abs().max().item<double>(), 1e-6);
}

// Micro-batches with very different counts: the mean is over tokens, not over means of micro-batches.
TEST(Trainer, DividesByTheTokensOfTheWholeStep) {
  TinyRun tiny(at::kFloat, 2, /*dropout=*/0);
  auto next = tiny.parts.source.next_step;
  double expected_sum = 0;
  double expected_weight = 0;
  tiny.parts.source.next_step = [&] {
    std::vector<Batch> step = next();
    step[1].labels.slice(0, 2).fill_(kIgnoreIndex);  // Two labels are left, at most.
    for (const Batch& batch : step) {
      const LossSum loss = tiny.model.loss(batch, {});
      expected_sum += loss.sum.item<double>();
      expected_weight += loss.weight;
    }
    return step;
  };
  TrainOptions options = tiny_options(1);
  options.schedule.warmup_steps = 0;
  const TrainResult result = tiny.run(options);
  EXPECT_DOUBLE_EQ(result.curve.loss.front(), expected_sum / expected_weight);
}

TEST(Trainer, Float32SumsOf16BitGradientsAreCloserToTheTruth) {
  const auto head_after = [](at::ScalarType dtype, std::int64_t micro_batches, bool in_float32) {
    TinyRun tiny(dtype, micro_batches, 0);
    // The same (bfloat16) start for all.
    for (const auto& parameter : tiny.parts.parameters) {
      const at::NoGradGuard no_grad;
      at::Tensor weight = parameter.tensor;
      weight.copy_(weight.to(at::kBFloat16));
    }
    optim::AdamW optimizer(optim::make_groups(tiny.parts.parameters, {}));
    (void)accumulate_gradients(tiny.data.next_step(), tiny.parts.loss, {}, optimizer, in_float32);
    return optimizer.gradients()[2].to(at::kDouble);
  };
  const at::Tensor truth = head_after(at::kDouble, 1, false);
  const double with = (head_after(at::kBFloat16, 8, true) - truth).norm().item<double>();
  const double without = (head_after(at::kBFloat16, 8, false) - truth).norm().item<double>();
  EXPECT_LT(with, without);
  EXPECT_EQ(head_after(at::kBFloat16, 8, true).scalar_type(), at::kDouble);
}

TEST(Trainer, NothingSupervisedIsAnError) {
  TinyRun tiny;
  auto next = tiny.parts.source.next_step;
  tiny.parts.source.next_step = [&] {
    std::vector<Batch> step = next();
    for (Batch& batch : step) batch.labels.fill_(kIgnoreIndex);
    return step;
  };
  EXPECT_THAT(
      [&] { tiny.run(tiny_options(3)); },
      ThrowsMessage<DataError>(AllOf(HasSubstr("step 1, data from {\"samples\":0}"),
                                     HasSubstr("none of the 96 tokens in 2 micro-batches is supervised"))));
}

TEST(Trainer, OneEmptyMicroBatchIsNoError) {
  TinyRun tiny;
  auto next = tiny.parts.source.next_step;
  tiny.parts.source.next_step = [&] {
    std::vector<Batch> step = next();
    step[0].labels.fill_(kIgnoreIndex);
    return step;
  };
  EXPECT_TRUE(std::isfinite(tiny.run(tiny_options(3)).curve.loss.back()));
}

/// Makes the loss of the steps in `bad_steps` (from 1) `factor` times what it is.
void spoil(TinyRun& tiny, std::vector<std::int64_t> bad_steps, double factor) {
  auto loss = tiny.parts.loss;
  tiny.parts.loss = [loss, bad_steps, factor](const Batch& batch, const nn::ForwardContext& context) {
    LossSum result = loss(batch, context);
    for (const std::int64_t step : bad_steps) {
      if (context.dropout.step + 1 == step && batch.first_token > 0) result.sum = result.sum * factor;
    }
    return result;
  };
}

TEST(Trainer, NanStopsWithStepAndSamplesAndOldWeights) {
  TinyRun tiny;
  spoil(tiny, {4}, std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(
      [&] { tiny.run(tiny_options(9)); },
      ThrowsMessage<DivergedError>(AllOf(HasSubstr("step 4, data from {\"samples\":24}, micro-batch 2 of 2"),
                                         HasSubstr("the loss is nan"))));
  TinyRun good;
  TrainOptions options = tiny_options(9);
  auto next = good.parts.source.next_step;
  int steps = 0;
  good.parts.source.next_step = [&] { return ++steps <= 3 ? next() : std::vector<Batch>{}; };
  (void)good.run(options);  // Ends with its data after three steps.
  expect_same_weights(tiny.model, good.model);
}

TEST(Trainer, NanStepsCanBeSkippedUpToALimit) {
  TrainOptions options = tiny_options(9);
  options.guards.on_nonfinite = "skip";
  options.guards.max_skipped_steps = 2;
  TinyRun tiny;
  spoil(tiny, {3, 5}, std::numeric_limits<double>::infinity());
  const TrainResult result = tiny.run(options);
  EXPECT_EQ(result.steps, 9);
  EXPECT_EQ(result.skipped_steps, 2);
  EXPECT_TRUE(std::isfinite(result.curve.loss.back()));
  TinyRun worse;
  spoil(worse, {3, 5, 6}, std::numeric_limits<double>::infinity());
  EXPECT_THAT([&] { worse.run(options); },
              ThrowsMessage<DivergedError>(AllOf(HasSubstr("step 6"), HasSubstr("max_skipped_steps is 2"))));
}

TEST(Trainer, SpikesAreSkippedAndSurviveAResume) {
  TrainOptions options = tiny_options(14);
  options.guards.spike_factor = 3;
  options.save_every = 9;
  TinyRun through;
  spoil(through, {11}, 50);
  const TemporaryFolder whole_folder;
  const TrainResult whole = through.run(options, whole_folder.path());
  EXPECT_EQ(whole.skipped_steps, 1);

  const TemporaryFolder folder;
  TrainOptions part = options;
  TinyRun first;
  auto next = first.parts.source.next_step;
  int calls = 0;
  first.parts.source.next_step = [&]() -> std::vector<Batch> {
    if (++calls == 10) throw std::runtime_error("the power went");
    return next();
  };
  EXPECT_THROW(first.run(part, folder.path()), std::runtime_error);
  // Step 11 is a spike only to a guard that remembers the losses of the first process.
  TinyRun second;
  spoil(second, {11}, 50);
  const TrainResult resumed = second.run(options, folder.path());
  EXPECT_EQ(resumed.resumed_from, 9);
  EXPECT_EQ(resumed.skipped_steps, 1);
  EXPECT_EQ(resumed.curve.loss, whole.curve.loss);
  expect_same_weights(through.model, second.model);
}

TEST(Trainer, EvaluatesWhenAskedAndKeepsLastAndBest) {
  const TemporaryFolder folder;
  TinyRun tiny;
  TrainOptions options = tiny_options(10);
  options.eval_every = 3;
  options.eval_at_start = true;
  options.save_every = 2;
  options.keep_last = 2;
  options.keep_best = true;
  options.best_metric = "es/loss_per_token";
  // Best at step 3.
  tiny.parts.evaluate = [](std::int64_t step) {
    const double loss = std::abs(static_cast<double>(step) - 3.25);
    return LanguageFigures{{"en", {{"loss_per_token", 10 - loss}}}, {"es", {{"loss_per_token", loss}}}};
  };
  const TrainResult result = tiny.run(options, folder.path());
  std::vector<std::int64_t> steps;
  for (const Evaluation& evaluation : result.evaluations) steps.push_back(evaluation.step);
  EXPECT_THAT(steps, ElementsAre(0, 3, 6, 9, 10));
  EXPECT_EQ(result.best_step, 3);
  EXPECT_DOUBLE_EQ(result.best_metric, 0.25);
  EXPECT_THAT(CheckpointStore(folder.path()).steps(), ElementsAre(3, 8, 10));
  EXPECT_DOUBLE_EQ(result.evaluations[1].languages.at("en").at("loss_per_token"), 9.75);
  // It ends with the weights of step 3; run again, too.
  EXPECT_EQ(result.kept_step, 3);
  TinyRun again;
  again.parts.evaluate = tiny.parts.evaluate;
  EXPECT_EQ(again.run(options, folder.path()).kept_step, 3);
  const CheckpointReader best(CheckpointStore(folder.path()).path(3));
  const CheckpointReader last(CheckpointStore(folder.path()).path(10));
  for (const TinyRun* run : {&tiny, &again})
    for (const optim::Parameter& parameter : run->model.parameters()) {
      EXPECT_TRUE(at::equal(parameter.tensor.detach(), best.trainable_tensor(parameter))) << parameter.name;
      EXPECT_FALSE(at::equal(parameter.tensor.detach(), last.trainable_tensor(parameter))) << parameter.name;
    }

  options.best_metric = "fr/loss_per_token";
  TinyRun other;
  other.parts.evaluate = tiny.parts.evaluate;
  const TemporaryFolder elsewhere;
  EXPECT_THAT(
      [&] { other.run(options, elsewhere.path()); },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("'fr/loss_per_token'"), HasSubstr("es/loss_per_token"))));
}

TEST(Trainer, StopsEarlyWhereEvaluationsNoLongerImprove) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(20);
  options.eval_every = 2;
  options.save_every = 2;
  options.early_stopping_patience = 3;
  const auto evaluate = [](std::int64_t step) {
    return LanguageFigures{{"en", {{"loss_per_token", std::abs(static_cast<double>(step) - 4)}}}};
  };
  TinyRun tiny;
  tiny.parts.evaluate = evaluate;
  const TrainResult result = tiny.run(options, folder.path());
  EXPECT_TRUE(result.stopped_early);
  EXPECT_EQ(result.steps, 10);  // Best at 4; 6, 8 and 10 are no better.
  EXPECT_EQ(result.best_step, 4);
  EXPECT_EQ(result.kept_step, 10);  // Without keep_best the last weights stay.
  // Run again it stays so; the patience counts evaluations before an interruption too.
  TinyRun again;
  again.parts.evaluate = evaluate;
  const TrainResult repeated = again.run(options, folder.path());
  EXPECT_TRUE(repeated.stopped_early);
  EXPECT_EQ(repeated.steps, 10);
  std::filesystem::remove_all(CheckpointStore(folder.path()).path(10));
  TinyRun resumed;
  resumed.parts.evaluate = evaluate;
  const TrainResult further = resumed.run(options, folder.path());
  EXPECT_EQ(further.resumed_from, 8);
  EXPECT_EQ(further.steps, 10);
  expect_same_weights(tiny.model, resumed.model);
  // Nothing to look at on the way.
  options.eval_every = 0;
  EXPECT_THAT([&] { resumed.run(options, folder.path()); },
              ThrowsMessage<ConfigError>(HasSubstr("set train.eval_every")));
}

TEST(Trainer, KeepBestThatBeganLateKeepsTheBestFromThenOn) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(4);
  options.schedule.type = "constant";
  options.eval_every = 1;
  options.save_every = 4;
  const auto evaluate = [](std::int64_t step) {
    return LanguageFigures{
        {"en", {{"loss_per_token", step == 2 ? 0.0 : std::abs(static_cast<double>(step) - 6.0)}}}};
  };
  TinyRun first;
  first.parts.evaluate = evaluate;
  EXPECT_EQ(first.run(options, folder.path()).best_step, 2);  // Of which no checkpoint is kept.
  options.keep_best = true;
  options.max_steps = 8;
  TinyRun second;
  second.parts.evaluate = evaluate;
  const TrainResult result = second.run(options, folder.path());
  EXPECT_EQ(result.best_step, 6);
  EXPECT_EQ(result.kept_step, 6);
}

TEST(Trainer, SavesByTime) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(40);
  options.save_minutes = 1e-9;
  TinyRun tiny;
  const TrainResult often = tiny.run(options, folder.path());
  EXPECT_GE(often.saves, 1);
  EXPECT_LT(often.saves, 40);  // Saving takes longer than a step: it gets a twentieth of the time.
  EXPECT_TRUE(CheckpointStore(folder.path()).newest().has_value());
  const TemporaryFolder other;
  options.save_minutes = 0;
  TinyRun never;
  EXPECT_EQ(never.run(options, other.path()).saves, 0);
  expect_same_weights(tiny.model, never.model);
}

TEST(Trainer, ResumeOptionIsObeyed) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(4);
  options.save_every = 2;
  options.resume = "must";
  EXPECT_THAT([&] { TinyRun().run(options, folder.path()); },
              ThrowsMessage<StateError>(HasSubstr("has no complete checkpoint")));
  options.resume = "auto";
  TinyRun tiny;
  (void)tiny.run(options, folder.path());
  options.resume = "never";
  EXPECT_THAT([&] { TinyRun().run(options, folder.path()); },
              ThrowsMessage<StateError>(HasSubstr("holds checkpoints (step 4)")));
  options.resume = "auto";
  options.seed = 43;
  EXPECT_THAT([&] { TinyRun().run(options, folder.path()); },
              ThrowsMessage<StateError>(HasSubstr("trained with seed 42")));
}

TEST(Trainer, ALongerRunGoesOnFromAShorterOne) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(4);
  options.schedule.type = "constant";
  options.save_every = 4;
  TinyRun first;
  (void)first.run(options, folder.path());
  options.max_steps = 7;
  TinyRun second;
  const TrainResult resumed = second.run(options, folder.path());
  TinyRun through;
  options.save_every = 0;
  EXPECT_EQ(resumed.curve.loss, through.run(options).curve.loss);
}

TEST(Trainer, ACheckpointOfAnotherModelDoesNotFit) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(2);
  options.save_every = 2;
  TinyRun tiny;
  (void)tiny.run(options, folder.path());
  TinyRun other_dtype(at::kBFloat16);
  EXPECT_THAT([&] { other_dtype.run(options, folder.path()); },
              ThrowsMessage<StateError>(HasSubstr("embed_tokens.weight")));
  TinyRun fewer;
  fewer.parts.parameters.pop_back();
  EXPECT_THAT([&] { fewer.run(options, folder.path()); },
              ThrowsMessage<StateError>(HasSubstr("'lm_head.weight'")));
  TinyRun renamed;
  renamed.parts.parameters[1].name = "other.weight";
  EXPECT_THAT([&] { renamed.run(options, folder.path()); },
              ThrowsMessage<StateError>(HasSubstr("has no tensor 'other.weight'")));
}

TEST(Trainer, RefusesPartsThatDoNotFit) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(2);
  options.keep_best = true;
  EXPECT_THAT([&] { TinyRun().run(options, folder.path()); },
              ThrowsMessage<ConfigError>(HasSubstr("needs an evaluation")));
  options = tiny_options(2);
  options.save_every = 1;
  EXPECT_THAT([&] { TinyRun().run(options); },
              ThrowsMessage<ConfigError>(HasSubstr("need an output directory")));
  TinyRun no_seek;
  no_seek.parts.source.seek = nullptr;
  EXPECT_THAT([&] { no_seek.run(options, folder.path()); },
              ThrowsMessage<StateError>(HasSubstr("cursor and seek")));
  TinyRun detached;
  detached.parts.loss = [](const Batch& batch, const nn::ForwardContext&) {
    LossSum loss;
    loss.sum = batch.input_ids.sum().to(at::kFloat);
    loss.weight = 1;
    return loss;
  };
  EXPECT_THAT([&] { detached.run(tiny_options(2)); },
              ThrowsMessage<StateError>(HasSubstr("does not depend on any")));
}

}  // namespace
}  // namespace bitrain::train
