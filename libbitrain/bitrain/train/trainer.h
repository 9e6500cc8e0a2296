#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <bitrain/base/batch.h>
#include <bitrain/base/loss_sum.h>
#include <bitrain/dist/communicator.h>
#include <bitrain/dist/options.h>
#include <bitrain/nn/module.h>
#include <bitrain/objectives/embedding_loss.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/param_groups.h>
#include <bitrain/train/callbacks.h>
#include <bitrain/train/options.h>

namespace bitrain::train {

/// Where steps come from. A data::Loader behind functions (see train/connect.h), or anything else that can be
/// put back to where it was.
struct StepSource {
  /// The micro-batches of the next optimizer step; an empty vector ends the run.
  std::function<std::vector<Batch>()> next_step;
  /// Where the source stands, as JSON: written into checkpoints, and into the error when a loss diverges.
  std::function<nlohmann::ordered_json()> cursor;
  std::function<void(const nlohmann::ordered_json&)> seek;
  std::vector<std::string> languages;  ///< What Batch::language_ids mean; may be empty.
  std::int64_t tokens_per_step = 0;    ///< About; only max_tokens needs it.
};

/// Tensors beside weights and optimizer that a run goes on from: running statistics, a memory bank. They are
/// part of every checkpoint.
struct ExtraState {
  std::function<optim::NamedTensors()> save;
  /// Takes what `save` gave; `lookup` finds a tensor by its name, or nothing.
  std::function<void(const std::function<std::optional<at::Tensor>(const std::string&)>& lookup)> load;
};

/// The parts of a run. What is optional may be left empty.
struct TrainParts {
  std::vector<optim::Parameter> parameters;  ///< What to train: adapters::trainable_parameters(model).
  nn::Module* model = nullptr;  ///< What they are in; parallel.shard = parameters needs it. Outlives the run.
  /// Forward pass and loss of one micro-batch, as a sum with its weight.
  std::function<LossSum(const Batch&, const nn::ForwardContext&)> loss;
  /// In place of `loss`: one that looks across all micro-batches of a step, as contrastive ones do.
  std::optional<objectives::EmbeddingLoss> embedding_loss;
  StepSource source;
  std::optional<ExtraState> extra_state;
  /// Optional: figures by language on held-out text. Called without gradients.
  std::function<LanguageFigures(std::int64_t step)> evaluate;
  /// Optional: writes a Hugging Face model or PEFT adapter into a checkpoint's folder.
  std::function<void(const std::string& directory)> save_weights;
  /// Optional: told about every step, after the built-in ones (progress, metrics.jsonl, TensorBoard).
  std::vector<std::shared_ptr<Callback>> callbacks;
  std::string
      output_dir;    ///< For checkpoints, metrics.jsonl, trainer_state.json, tensorboard/. Empty: no files.
  std::string name;  ///< Of the run or stage, for progress ("adapt").
  /// Ranks that share every step: `source` gives each its micro-batches (data::LoaderRun), with
  /// parallel.context its tokens of them, the rest is the same on all. They all return the same result; files
  /// are written by rank 0, and by the others their share of what is sharded. With parallel.shard =
  /// parameters the model stays sharded after the run (ShardedWeights).
  std::shared_ptr<dist::Communicator> ranks = std::make_shared<dist::Communicator>();
  dist::ParallelOptions parallel;
};

/// Trains: batches to loss to gradients to weights, with logs, evaluations and checkpoints, until the last
/// step or a signal. The caller holds the lock of `output_dir`.
///
/// Per step, every micro-batch adds the gradient of its loss *sum*; the optimizer divides once by the weight
/// of the whole step, so that 1 x 8 and 8 x 1 are the same mathematics. A resumed run repeats what an
/// uninterrupted one would have done, bit for bit on the CPU at the same number of threads; on another number
/// of ranks it reads the same samples and sums in another order.
class Trainer {
 public:
  Trainer(TrainOptions options, TrainParts parts);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Resumes if there is a checkpoint to resume from, trains to the end, and returns the whole curve. A run
  /// that is complete already returns at once.
  ///
  /// A signal (SignalWatch: SIGINT, SIGTERM, SIGHUP, SIGUSR1) ends it after the step in progress: a
  /// checkpoint is written and TrainResult::signal set (programs exit with 128 + signal).
  ///
  /// With keep_best the trained parameters are in the end those of the best evaluation
  /// (TrainResult::kept_step), whose checkpoint stays in output_dir.
  ///
  /// Throws DataError for a step with nothing supervised, DivergedError for NaN, infinity or too many skipped
  /// steps, StateError for a checkpoint that does not fit, IoError when a checkpoint cannot be written,
  /// RankError when another rank is gone or holds other parameters.
  TrainResult run();

 private:
  struct Run;
  std::unique_ptr<Run> run_;
};

}  // namespace bitrain::train
