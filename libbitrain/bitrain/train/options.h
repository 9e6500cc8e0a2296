#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <bitrain/fields/rule.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/param_groups.h>
#include <bitrain/optim/schedule.h>

namespace bitrain::train {

/// What to do about losses that go wrong. A skipped step reads its samples and counts, but updates nothing.
struct GuardOptions {
  std::string on_nonfinite = "stop";
  double spike_factor = 0.0;
  std::int64_t spike_window = 64;
  std::int64_t max_skipped_steps = 10;
};
template <class Visitor>
void visit_fields(Visitor& v, GuardOptions& o) {
  v.field("on_nonfinite", o.on_nonfinite, one_of({"stop", "skip"}),
          "What to do when the loss or the gradient is NaN or infinite.");
  v.field("spike_factor", o.spike_factor, at_least(0),
          "Skip a step whose loss is above this many times the median of recent losses; 0 turns it off.");
  v.field("spike_window", o.spike_window, at_least(8), "Recent losses that the median is taken of.");
  v.field("max_skipped_steps", o.max_skipped_steps, at_least(1),
          "Stop with an error when more steps than this were skipped in a run.");
}

/// How a run trains. Sequence length, tokens a step and micro-batches belong to the data.
struct TrainOptions {
  std::int64_t max_steps = 0;
  std::int64_t max_tokens = 0;
  double learning_rate = 2e-4;
  optim::ScheduleOptions schedule;
  optim::AdamWOptions adamw;
  optim::GroupOptions groups;
  double max_grad_norm = 1.0;
  bool accumulate_in_float32 = true;
  std::int64_t log_every = 1;
  std::int64_t eval_every = 0;
  bool eval_at_start = false;
  bool eval_at_end = true;
  std::int64_t save_every = 0;
  double save_minutes = 30;
  bool save_in_background = false;
  std::int64_t keep_last = 2;
  bool keep_best = false;
  std::string best_metric = "loss_per_token";
  std::int64_t early_stopping_patience = 0;
  std::string resume = "auto";
  std::int64_t seed = 42;
  bool recompute = false;
  GuardOptions guards;
  bool tensorboard = true;
  std::string progress = "auto";
};
template <class Visitor>
void visit_fields(Visitor& v, TrainOptions& o) {
  v.field("max_steps", o.max_steps, at_least(0), "Optimizer steps; 0: as many as max_tokens needs.");
  v.field("max_tokens", o.max_tokens, at_least(0), "Tokens to train on, when max_steps is 0.");
  v.field("learning_rate", o.learning_rate, above(0), "Peak learning rate.");
  v.field("schedule", o.schedule, any(), "How the learning rate moves.");
  v.field("adamw", o.adamw, any(), "Constants of the optimizer.");
  v.field("groups", o.groups, any(), "Rates and decay of kinds of parameters.");
  v.field("max_grad_norm", o.max_grad_norm, at_least(0),
          "Gradients are scaled down to this global norm; 0 turns clipping off.");
  v.field("accumulate_in_float32", o.accumulate_in_float32, any(),
          "Sum 16-bit gradients of several micro-batches in float32.");
  v.field("log_every", o.log_every, at_least(1), "Steps between lines of the log.");
  v.field("eval_every", o.eval_every, at_least(0), "Steps between evaluations; 0: none on the way.");
  v.field("eval_at_start", o.eval_at_start, any(), "Evaluate before the first step.");
  v.field("eval_at_end", o.eval_at_end, any(), "Evaluate after the last step.");
  v.field("save_every", o.save_every, at_least(0), "Steps between checkpoints; 0: by save_minutes alone.");
  v.field(
      "save_minutes", o.save_minutes, at_least(0),
      "Minutes between checkpoints, beside save_every; slow disks get at most a twentieth of the time. 0: "
      "by save_every alone. A run that is interrupted saves in any case.");
  v.field("save_in_background", o.save_in_background, any(),
          "Go on training while a checkpoint is written, from a copy in host memory.");
  v.field("keep_last", o.keep_last, at_least(1), "Checkpoints to keep, the newest ones.");
  v.field(
      "keep_best", o.keep_best, any(),
      "Save after every best evaluation, and end with the weights of the best one, not of the last step.");
  v.field("best_metric", o.best_metric, not_empty(),
          "Lower is better: a figure averaged over languages ('loss_per_token'), or of one "
          "('es/loss_per_token').");
  v.field("early_stopping_patience", o.early_stopping_patience, at_least(0),
          "Stop after this many evaluations in a row without a better best_metric; 0: train to the end.");
  v.field("resume", o.resume, one_of({"auto", "never", "must"}),
          "auto: go on from the newest checkpoint if there is one; must: fail where there is none.");
  v.field("seed", o.seed, at_least(0), "Seed of dropout.");
  v.field("recompute", o.recompute, any(),
          "Keep only layer inputs and compute activations again in backward.");
  v.field("guards", o.guards, any(), "What to do about losses that go wrong.");
  v.field("tensorboard", o.tensorboard, any(), "Write TensorBoard event files.");
  v.field("progress", o.progress, one_of({"auto", "bar", "lines", "none"}),
          "Progress on stderr; auto: a bar on a terminal, else lines.");
}

/// Optimizer steps of a run whose steps have about `tokens_per_step` tokens. Throws ConfigError when neither
/// max_steps nor max_tokens is set.
[[nodiscard]] std::int64_t total_steps(const TrainOptions& options, std::int64_t tokens_per_step);

}  // namespace bitrain::train
