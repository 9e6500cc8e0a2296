#include <bitrain/train/trainer.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include <ATen/core/grad_mode.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/clip.h>
#include <bitrain/train/checkpoint.h>
#include <bitrain/train/metrics.h>
#include <bitrain/train/peak_memory.h>
#include <bitrain/train/progress.h>
#include <bitrain/train/run_state.h>
#include <bitrain/train/signals.h>
#include <bitrain/train/step.h>
#include <bitrain/train/tensorboard.h>

namespace bitrain::train {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check(const TrainOptions& options, const TrainParts& parts) {
  if (static_cast<bool>(parts.loss) == parts.embedding_loss.has_value() || !parts.source.next_step)
    throw StateError("trainer: a loss and a source of steps are needed");
  if (options.keep_last < 1) throw ConfigError("train.keep_last must be at least 1, not ", options.keep_last);
  if (options.log_every < 1) throw ConfigError("train.log_every must be at least 1, not ", options.log_every);
  if (options.keep_best && !parts.evaluate) {
    throw ConfigError("train.keep_best needs an evaluation: name held-out data, or set it to false");
  }
  const bool saves = options.save_every > 0 || options.keep_best;
  if (saves && parts.output_dir.empty()) throw ConfigError("train: checkpoints need an output directory");
  if (saves && (!parts.source.cursor || !parts.source.seek)) {
    throw StateError("trainer: checkpoints need a source of steps with cursor and seek");
  }
}

std::vector<std::shared_ptr<Callback>> make_callbacks(const TrainOptions& options, const TrainParts& parts) {
  std::vector<std::shared_ptr<Callback>> callbacks;
  if (!parts.output_dir.empty()) {
    const std::filesystem::path directory(parts.output_dir);
    callbacks.push_back(std::make_shared<MetricsFile>(directory / "metrics.jsonl"));
    if (options.tensorboard) callbacks.push_back(std::make_shared<TensorBoard>(directory / "tensorboard"));
  }
  callbacks.push_back(std::make_shared<Progress>(parts.name, progress_style(options.progress)));
  callbacks.insert(callbacks.end(), parts.callbacks.begin(), parts.callbacks.end());
  return callbacks;
}

}  // namespace

/// One run in progress.
struct Trainer::Run {
  Run(TrainOptions options_in, TrainParts parts_in);

  void resume();
  void begin();
  [[nodiscard]] bool evaluation_due() const;
  void evaluate();
  [[nodiscard]] bool checkpoint_due() const;
  void save();
  bool train_step();
  StepRecord compute(const std::vector<Batch>& micro_batches, StepSums& sums);
  void count(const std::vector<Batch>& micro_batches, const StepSums& sums, double seconds);
  void report(StepRecord record);
  void finish();
  TrainResult train();

  TrainOptions options;
  TrainParts parts;
  std::int64_t total = 0;  ///< Steps of the whole run.
  optim::AdamW optimizer;
  LossGuard guard;
  CheckpointStore checkpoints;
  std::vector<std::shared_ptr<Callback>> callbacks;
  at::Device device = at::kCPU;
  RunState state;
  std::int64_t resumed_from = 0;
  std::int64_t last_saved = -1;
  int signal = 0;
};

Trainer::Run::Run(TrainOptions options_in, TrainParts parts_in)
    : options(std::move(options_in)),
      parts(std::move(parts_in)),
      total(total_steps(options, parts.source.tokens_per_step)),
      optimizer(optim::make_groups(parts.parameters, options.groups), options.adamw),
      guard(options.guards),
      checkpoints(parts.output_dir),
      device(optimizer.parameters().front().tensor.device()) {
  check(options, parts);
  optim::check_schedule(options.schedule, total);
  state.seed = options.seed;
}

void Trainer::Run::resume() {
  if (parts.output_dir.empty()) return;
  io::make_directories(parts.output_dir);
  io::remove_leftovers(parts.output_dir);
  const std::optional<std::int64_t> newest = checkpoints.newest();
  if (!newest) {
    if (options.resume == "must") {
      throw StateError("train.resume is 'must', but ", parts.output_dir, " has no complete checkpoint");
    }
    return;
  }
  if (options.resume == "never") {
    throw StateError("train.resume is 'never', but ", parts.output_dir, " holds checkpoints (step ", *newest,
                     "); delete them, choose another directory, or set it to auto");
  }
  const std::filesystem::path path = checkpoints.path(*newest);
  const CheckpointReader checkpoint(path);
  RunState saved = parse_trainer_state(checkpoint.state(), (path / "trainer_state.json").string());
  if (!parts.source.seek) throw StateError("trainer: to resume, the source of steps needs seek");
  if (saved.seed != options.seed) {
    throw StateError(path.string(), ": was trained with seed ", saved.seed, ", this run has seed ",
                     options.seed, "; set train.seed back, or start in another directory");
  }
  optimizer.load_state([&](const std::string& name) { return checkpoint.optimizer_tensor(name); });
  checkpoint.restore(optimizer.parameters());
  if (parts.extra_state)
    parts.extra_state->load([&](const std::string& name) { return checkpoint.extra_tensor(name); });
  parts.source.seek(saved.cursor);
  state = std::move(saved);
  guard.set_state(state.guard);
  resumed_from = state.step;
  last_saved = state.step;
}

void Trainer::Run::begin() {
  RunInfo info;
  info.output_dir = parts.output_dir;
  info.first_step = state.step;
  info.total_steps = total;
  info.log_every = options.log_every;
  for (const optim::Parameter& parameter : optimizer.parameters()) {
    info.trainable_parameters += parameter.tensor.numel();
  }
  for (const auto& callback : callbacks) callback->on_begin(info);
}

bool Trainer::Run::evaluation_due() const {
  if (!parts.evaluate) return false;
  if (!state.evaluations.empty() && state.evaluations.back().step == state.step) return false;
  if (state.step == 0) return options.eval_at_start;
  if (state.step >= total && options.eval_at_end) return true;
  return options.eval_every > 0 && state.step % options.eval_every == 0;
}

void Trainer::Run::evaluate() {
  const auto start = Clock::now();
  Evaluation evaluation;
  evaluation.step = state.step;
  {
    const at::NoGradGuard no_grad;
    evaluation.languages = parts.evaluate(state.step);
  }
  evaluation.seconds = seconds_since(start);
  if (state.step > 0 && !evaluation.languages.empty()) {
    const double metric = metric_of(evaluation, options.best_metric);
    if (std::isfinite(metric) && (state.best_step == 0 || metric < state.best_metric)) {
      state.best_step = state.step;
      state.best_metric = metric;
    }
  }
  state.evaluations.push_back(evaluation);
  for (const auto& callback : callbacks) callback->on_evaluate(evaluation);
}

bool Trainer::Run::checkpoint_due() const {
  if (state.step == 0 || last_saved == state.step) return false;
  if (options.keep_best && state.best_step == state.step) return true;
  return options.save_every > 0 && (state.step % options.save_every == 0 || state.step >= total);
}

void Trainer::Run::save() {
  if (parts.source.cursor) state.cursor = parts.source.cursor();
  const Json json = trainer_state_json(state, options, total);
  CheckpointStore::Contents contents;
  for (const optim::Parameter& parameter : optimizer.parameters()) {
    contents.trainable.emplace_back(parameter.name, parameter.tensor.detach());
  }
  contents.optimizer = optimizer.state();
  if (parts.extra_state) contents.extra = parts.extra_state->save();
  contents.state = &json;
  contents.save_weights = parts.save_weights;
  const std::filesystem::path path = checkpoints.save(state.step, contents);
  last_saved = state.step;
  checkpoints.prune(options.keep_last,
                    options.keep_best && state.best_step > 0 ? std::optional(state.best_step) : std::nullopt);
  for (const auto& callback : callbacks) callback->on_save(state.step, path.string());
}

bool Trainer::Run::train_step() {
  const auto start = Clock::now();
  const Json cursor = parts.source.cursor ? parts.source.cursor() : Json();
  const std::vector<Batch> micro_batches = parts.source.next_step();
  if (micro_batches.empty()) {
    log_warn("the data ended after ", state.step, " of ", total, " steps");
    return false;
  }
  StepSums sums;
  StepRecord record;
  try {
    record = compute(micro_batches, sums);
  } catch (Error& error) {
    std::string where = c10::str("step ", state.step + 1, ", data from ", cursor.dump());
    if (sums.nonfinite_micro_batch >= 0) {
      where += c10::str(", micro-batch ", sums.nonfinite_micro_batch + 1, " of ", micro_batches.size());
    }
    error.add_context(where);
    throw;
  }
  if (record.skipped) {
    log_warn("step ", record.step, ", data from ", cursor.dump(), ": skipped, ", record.skip_reason);
  } else {
    // One factor divides by the count of the step and clips.
    const double clip = optim::clip_factor(record.grad_norm, options.max_grad_norm);
    optimizer.step(record.learning_rate, clip / sums.weight);
  }
  optimizer.zero_grad();
  record.seconds = seconds_since(start);
  count(micro_batches, sums, record.seconds);
  report(std::move(record));
  return true;
}

StepRecord Trainer::Run::compute(const std::vector<Batch>& micro_batches, StepSums& sums) {
  nn::ForwardContext context;
  context.recompute = options.recompute;
  context.dropout.seed = static_cast<std::uint64_t>(options.seed);
  context.dropout.step = state.step;
  const bool in_float32 = options.accumulate_in_float32;
  sums = parts.embedding_loss
             ? accumulate_gradients(micro_batches, *parts.embedding_loss, context, optimizer, in_float32)
             : accumulate_gradients(micro_batches, parts.loss, context, optimizer, in_float32);

  StepRecord record;
  record.step = state.step + 1;
  record.loss = sums.loss / sums.weight;
  record.learning_rate = options.learning_rate * optim::schedule_factor(options.schedule, state.step, total);
  record.grad_norm = optim::global_norm(optimizer.gradients()) / sums.weight;
  record.tokens = sums.tokens;
  record.supervised = sums.weight;
  for (const auto& [name, part] : sums.parts)
    record.parts[name] = part.weight > 0 ? part.sum / part.weight : 0;
  record.skip_reason = guard.check(record.loss, record.grad_norm);
  record.skipped = !record.skip_reason.empty();
  state.guard = guard.state();
  return record;
}

void Trainer::Run::count(const std::vector<Batch>& micro_batches, const StepSums& sums, double seconds) {
  ++state.step;
  state.tokens += sums.tokens;
  state.supervised += sums.weight;
  state.seconds += seconds;
  for (const Batch& batch : micro_batches) {
    for (std::size_t s = 0; s < batch.language_ids.size(); ++s) {
      const std::int32_t id = batch.language_ids[s];
      const std::vector<std::string>& names = parts.source.languages;
      const bool known = id >= 0 && static_cast<std::size_t>(id) < names.size();
      const std::string name = known    ? names[static_cast<std::size_t>(id)]
                               : id < 0 ? std::string("unknown")
                                        : std::to_string(id);
      state.language_tokens[name] += batch.boundaries[s + 1] - batch.boundaries[s];
    }
  }
}

void Trainer::Run::report(StepRecord record) {
  record.total_tokens = state.tokens;
  record.tokens_per_second = record.seconds > 0 ? static_cast<double>(record.tokens) / record.seconds : 0;
  if (is_logged(record.step, options.log_every, total) || record.skipped) state.log.push_back(record);
  for (const auto& callback : callbacks) callback->on_step(record);
}

void Trainer::Run::finish() {
  if (parts.output_dir.empty()) return;
  const std::filesystem::path path = std::filesystem::path(parts.output_dir) / "trainer_state.json";
  io::write_json(path, trainer_state_json(state, options, total));
}

TrainResult Trainer::Run::train() {
  const SignalWatch signals;
  reset_peak_memory(device);
  resume();
  callbacks = make_callbacks(options, parts);
  begin();
  while (true) {
    signal = SignalWatch::received();
    if (signal != 0) {
      if (!parts.output_dir.empty() && state.step > 0 && last_saved != state.step) save();
      break;
    }
    if (evaluation_due()) evaluate();
    if (checkpoint_due()) save();
    if (state.step >= total) break;
    if (SignalWatch::received() != 0) continue;
    if (!train_step()) total = state.step;
  }
  finish();
  TrainResult result = summarise_run(state);
  for (const optim::Parameter& parameter : optimizer.parameters()) {
    result.trainable_parameters += parameter.tensor.numel();
  }
  result.resumed_from = resumed_from;
  result.peak_memory_bytes = peak_memory_bytes(device);
  result.signal = signal;
  for (const auto& callback : callbacks) callback->on_end(result);
  return result;
}

Trainer::Trainer(TrainOptions options, TrainParts parts)
    : run_(std::make_unique<Run>(std::move(options), std::move(parts))) {}

Trainer::~Trainer() = default;

TrainResult Trainer::run() {
  return run_->train();
}

}  // namespace bitrain::train
