#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <bitrain/dist/communicator.h>

namespace bitrain::train {

/// What one optimizer step did.
struct StepRecord {
  std::int64_t step = 0;          ///< Updates done, this one included: the first is 1.
  double loss = 0;                ///< Mean over the supervised tokens of the step.
  double learning_rate = 0;       ///< Of groups with factor 1.
  double grad_norm = 0;           ///< Before clipping.
  std::int64_t tokens = 0;        ///< Tokens of this step.
  double supervised = 0;          ///< Weight of the loss: supervised tokens (or pairs).
  std::int64_t total_tokens = 0;  ///< Tokens since the run began, resumed parts included.
  double seconds = 0;             ///< Wall time of this step.
  double tokens_per_second = 0;
  bool skipped = false;  ///< A guard left the weights alone; `skip_reason` says why.
  std::string skip_reason;
  std::map<std::string, double> parts;  ///< Means of LossSum::parts ("language/es").
};

/// Figures by language, from the evaluator: {"es": {"loss_per_token": 3.1, "bits_per_byte": 1.9, ...}}.
using LanguageFigures = std::map<std::string, std::map<std::string, double>>;

struct Evaluation {
  std::int64_t step = 0;  ///< Updates done before it.
  double seconds = 0;
  LanguageFigures languages;
};

/// Tokens read of one language.
struct Share {
  std::int64_t tokens = 0;
  double realised = 0;  ///< Of all tokens read, in [0, 1].
};

struct Curve {
  std::vector<std::int64_t> step;
  std::vector<double> loss;
  std::vector<double> learning_rate;
  std::vector<double> tokens_per_second;
};

/// What a run leaves behind. Counts and curves cover the whole run, earlier processes of a resumed one
/// included; `seconds` is time spent in steps.
struct TrainResult {
  std::int64_t steps = 0;
  std::int64_t tokens = 0;
  std::int64_t supervised_tokens = 0;
  double seconds = 0;
  double tokens_per_second = 0;
  double train_loss = 0;  ///< Mean loss of the last tenth of the curve.
  Curve curve;
  std::vector<Evaluation> evaluations;
  std::map<std::string, Share> shares;
  std::int64_t trainable_parameters = 0;  ///< Elements.
  std::int64_t skipped_steps = 0;
  std::int64_t resumed_from = 0;        ///< Step of the checkpoint this process began with; 0: none.
  std::uint64_t peak_memory_bytes = 0;  ///< As train::peak_memory_bytes at the end.
  std::int64_t best_step = 0;           ///< 0: nothing was evaluated.
  double best_metric = 0;
  std::int64_t kept_step = 0;  ///< Step that the weights are of: `steps`, or with keep_best the best one.
  bool stopped_early = false;  ///< By early_stopping_patience.
  /// What this process moved to and from other ranks, by kind of collective.
  std::map<std::string, dist::Traffic> traffic;
  std::int64_t saves = 0;   ///< Checkpoints that this process wrote, and
  double save_seconds = 0;  ///< how long training stood still for them.
  int signal = 0;  ///< What SignalWatch noted when that ended the run early (with a checkpoint), else 0.

  [[nodiscard]] bool interrupted() const { return signal != 0; }
};

/// What callbacks are told at the start.
struct RunInfo {
  std::string output_dir;
  std::int64_t first_step = 0;  ///< Updates already done: 0, or the step resumed from.
  std::int64_t total_steps = 0;
  std::int64_t trainable_parameters = 0;
  std::int64_t log_every = 1;
};

/// Whether a step belongs in logs: every `log_every`-th, the first and the last.
[[nodiscard]] inline bool is_logged(std::int64_t step, std::int64_t log_every, std::int64_t total_steps) {
  return step == 1 || step == total_steps || step % log_every == 0;
}

/// Watches a run. Called in the order of registration; an exception ends the run.
class Callback {
 public:
  Callback() = default;
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;
  virtual ~Callback() = default;

  virtual void on_begin(const RunInfo&) {}
  virtual void on_step(const StepRecord&) {}
  virtual void on_evaluate(const Evaluation&) {}
  virtual void on_save(std::int64_t /*step*/, const std::string& /*directory*/) {}
  virtual void on_end(const TrainResult&) {}
};

}  // namespace bitrain::train
