#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/data/loader.h>
#include <bitrain/dist/communicator.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/train/callbacks.h>
#include <bitrain/train/trainer.h>

namespace bitrain::recipe {

/// The parts of a training stage.
struct TrainingParts {
  hub::OpenedModel& model;
  const StageData& data;
  /// Writes the model or adapter into a folder that does not exist yet.
  std::function<void(const std::filesystem::path&)> save;
  /// Figures by set of rows, in place of those of held-out lines of source and target.
  std::function<train::LanguageFigures()> evaluate = {};
  /// Scores of held-out lines by the model as it begins, where they are known (score_held_out).
  std::optional<io::Json> at_start = {};
};

/// Trains, and puts steps, speed, shares, curve and evaluations into context.result. When a signal ended the
/// run, context.signal is set and nothing is saved but the checkpoint in context.work. Otherwise the weights
/// are saved into context.out, with the logs beside them.
void train_stage(StageContext& context, const TrainingParts& parts);

/// The same for any model and loss: `parts` has the parameters, the loss and the evaluation; the rest is
/// filled in; source.languages stays where it is set. `figures`: what evaluations hold ("languages",
/// "retrieval").
void run_training(StageContext& context, train::TrainOptions options, data::Loader& loader,
                  train::TrainParts parts, const std::string& figures,
                  const std::function<void(const std::filesystem::path&)>& save);

/// By collective: calls, bytes and seconds.
[[nodiscard]] io::Json traffic_json(const std::map<std::string, dist::Traffic>& traffic);

/// Figures of score_held_out as the trainer wants them.
[[nodiscard]] train::LanguageFigures language_figures(const io::Json& scores);

}  // namespace bitrain::recipe
