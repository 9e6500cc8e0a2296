#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitrain/train/callbacks.h>
#include <bitrain/train/guards.h>
#include <bitrain/train/options.h>

namespace bitrain::train {

/// Everything about a run that a checkpoint must hold besides tensors.
struct RunState {
  std::int64_t step = 0;  ///< Updates done.
  std::int64_t tokens = 0;
  double supervised = 0;
  double seconds = 0;  ///< In steps.
  std::map<std::string, std::int64_t> language_tokens;
  std::vector<StepRecord> log;  ///< Logged steps.
  std::vector<Evaluation> evaluations;
  LossGuard::State guard;
  std::int64_t best_step = 0;
  double best_metric = 0;
  nlohmann::ordered_json cursor;  ///< Where the data stands.
  std::int64_t seed = 0;
};

/// trainer_state.json: Hugging Face's keys, and the rest under "bitrain".
[[nodiscard]] nlohmann::ordered_json trainer_state_json(const RunState& state, const TrainOptions& options,
                                                        std::int64_t total_steps);

/// The inverse. `name` is the file in errors. Throws FormatError when a part is missing or of a wrong type.
[[nodiscard]] RunState parse_trainer_state(const nlohmann::ordered_json& json, const std::string& name);

/// The run so far, as a result; `total_steps` and device figures are the caller's.
[[nodiscard]] TrainResult summarise_run(const RunState& state);

/// The figure that `best_metric` names ("loss_per_token": mean over languages; "es/loss_per_token"). Throws
/// ConfigError listing what there is.
[[nodiscard]] double metric_of(const Evaluation& evaluation, const std::string& best_metric);

}  // namespace bitrain::train
