#include <bitrain/train/trainer.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/busy_cores.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/dist/gather_text.h>
#include <bitrain/fields/check.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/optim/clip.h>
#include <bitrain/train/background_save.h>
#include <bitrain/train/checkpoint.h>
#include <bitrain/train/metrics.h>
#include <bitrain/train/peak_memory.h>
#include <bitrain/train/progress.h>
#include <bitrain/train/rank_gradients.h>
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
  check_fields(options, "train.");
  if (options.keep_best && !parts.evaluate) {
    throw ConfigError("train.keep_best needs an evaluation: name held-out data, or set it to false");
  }
  if (options.early_stopping_patience > 0 && (!parts.evaluate || options.eval_every == 0))
    throw ConfigError("train.early_stopping_patience looks at evaluations on the way: set train.eval_every",
                      parts.evaluate ? "" : " and name held-out data");
  const bool saves = options.save_every > 0 || options.keep_best;
  if (saves && parts.output_dir.empty()) throw ConfigError("train: checkpoints need an output directory");
  if (saves && (!parts.source.cursor || !parts.source.seek)) {
    throw StateError("trainer: checkpoints need a source of steps with cursor and seek");
  }
}

std::vector<std::shared_ptr<Callback>> make_callbacks(const TrainOptions& options, const TrainParts& parts) {
  std::vector<std::shared_ptr<Callback>> callbacks;
  if (parts.ranks->rank() > 0) return parts.callbacks;
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

std::unique_ptr<RankGradients> share_gradients(const TrainOptions& options, const TrainParts& parts) {
  if (parts.ranks->size() == 1) return nullptr;
  return std::make_unique<RankGradients>(parts.parameters, parts.model, parts.ranks, parts.parallel,
                                         options.accumulate_in_float32);
}

/// One run in progress.
struct Trainer::Run {
  Run(TrainOptions options_in, TrainParts parts_in);

  [[nodiscard]] std::optional<std::int64_t> newest_checkpoint();
  void resume();
  [[nodiscard]] std::optional<at::Tensor> optimizer_tensor(const CheckpointReader& checkpoint,
                                                           const std::string& name) const;
  void begin();
  [[nodiscard]] int received_signal() const;
  [[nodiscard]] int late_signal() const;
  [[nodiscard]] bool evaluation_due() const;
  void evaluate();
  [[nodiscard]] bool stops_early() const;
  [[nodiscard]] bool time_to_save() const;
  [[nodiscard]] bool checkpoint_due() const;
  void save();
  void count_save(Clock::time_point start);
  void finish_save();
  [[nodiscard]] std::map<std::string, dist::Traffic> traffic() const;
  void after_save(std::int64_t step, const std::filesystem::path& path);
  void restore(const CheckpointReader& checkpoint);
  void forget_lost_best();
  void take_best();
  bool train_step();
  StepRecord compute(const std::vector<Batch>& micro_batches, StepSums& sums);
  void count(const StepSums& sums, double seconds);
  void report(StepRecord record);
  void finish();
  TrainResult train();

  TrainOptions options;
  TrainParts parts;
  std::int64_t total = 0;                           ///< Steps of the whole run.
  std::unique_ptr<RankGradients> ranks;             ///< Null: one rank.
  std::unique_ptr<dist::Communicator> token_ranks;  ///< That share tokens; null: none do.
  optim::AdamW optimizer;
  std::unique_ptr<GradientSums> local;  ///< Null: several ranks.
  LossGuard guard;
  CheckpointStore checkpoints;
  std::vector<std::shared_ptr<Callback>> callbacks;
  at::Device device = at::kCPU;
  RunState state;
  std::int64_t resumed_from = 0;
  std::int64_t last_saved = -1;
  std::unique_ptr<BackgroundSave> saving;
  std::map<std::string, dist::Traffic> earlier_traffic;  ///< Of parts.ranks, before this run.
  std::int64_t saves = 0;
  double save_seconds = 0;
  Clock::time_point last_save = Clock::now();
  double last_save_took = 0;  ///< Seconds in which training stood still.
  bool save_agreed = false;   ///< All ranks know that the clock asks for a checkpoint.
  bool stopped_early = false;
  std::int64_t kept_step = 0;
  int agreed_signal = 0;  ///< Of several ranks: what all of them know of.
  int signal = 0;
};

Trainer::Run::Run(TrainOptions options_in, TrainParts parts_in)
    : options(std::move(options_in)),
      parts(std::move(parts_in)),
      total(total_steps(options, parts.source.tokens_per_step)),
      ranks(share_gradients(options, parts)),
      token_ranks(parts.parallel.context > 1 ? parts.ranks->split(parts.parallel.context) : nullptr),
      optimizer(optim::make_groups(ranks ? ranks->own_parameters() : parts.parameters, options.groups),
                options.adamw),
      guard(options.guards),
      checkpoints(parts.output_dir),
      device(optimizer.parameters().front().tensor.device()) {
  check(options, parts);
  if (ranks) {
    ranks->set_optimizer(optimizer);
  } else {
    local = make_local_sums(optimizer, options.accumulate_in_float32);
  }
  optim::check_schedule(options.schedule, total);
  state.seed = options.seed;
  earlier_traffic = parts.ranks->traffic();
}

std::map<std::string, dist::Traffic> Trainer::Run::traffic() const {
  std::map<std::string, dist::Traffic> moved;
  const auto add = [&](const std::map<std::string, dist::Traffic>& traffic, int sign) {
    for (const auto& [collective, one] : traffic) {
      dist::Traffic& sum = moved[collective];
      sum.calls += sign * one.calls;
      sum.bytes += sign * one.bytes;
      sum.seconds += sign * one.seconds;
    }
  };
  add(parts.ranks->traffic(), 1);
  add(earlier_traffic, -1);
  if (token_ranks) add(token_ranks->traffic(), 1);
  return moved;
}

/// Rank 0 looks, and all go on from the same.
std::optional<std::int64_t> Trainer::Run::newest_checkpoint() {
  std::string step;
  if (parts.ranks->rank() == 0) {
    io::make_directories(parts.output_dir);
    io::remove_leftovers(parts.output_dir);
    if (const std::optional<std::int64_t> newest = checkpoints.newest()) step = std::to_string(*newest);
  }
  parts.ranks->await(0, "looking for checkpoints");
  step = dist::broadcast_text(step, 0, *parts.ranks, "the newest checkpoint");
  return step.empty() ? std::nullopt : std::optional(std::stoll(step));
}

/// A tensor of the optimizer's state in the form this rank has it: a slice of it, or its parameter's shape.
std::optional<at::Tensor> Trainer::Run::optimizer_tensor(const CheckpointReader& checkpoint,
                                                         const std::string& name) const {
  const std::optional<at::Tensor> saved = checkpoint.optimizer_tensor(name);
  if (!saved || saved->dim() == 0) return saved;
  const std::string parameter = name.substr(0, name.rfind('.'));
  if (ranks && ranks->sharded()) {
    const std::optional<dist::Slice> slice = ranks->slice_of(parameter);
    if (!slice || slice->end > saved->numel()) return saved;
    return saved->reshape(-1).narrow(0, slice->begin, slice->end - slice->begin);
  }
  for (const optim::Parameter& own : optimizer.parameters())
    if (own.name == parameter && own.tensor.numel() == saved->numel()) return saved->view(own.tensor.sizes());
  return saved;
}

void Trainer::Run::resume() {
  if (parts.output_dir.empty()) return;
  const std::optional<std::int64_t> newest = newest_checkpoint();
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
  optimizer.load_state([&](const std::string& name) { return optimizer_tensor(checkpoint, name); });
  restore(checkpoint);
  if (parts.extra_state)
    parts.extra_state->load([&](const std::string& name) { return checkpoint.extra_tensor(name); });
  parts.source.seek(saved.cursor);
  state = std::move(saved);
  guard.set_state(state.guard);
  resumed_from = state.step;
  last_saved = state.step;
  forget_lost_best();
}

/// The trained parameters of a checkpoint.
void Trainer::Run::restore(const CheckpointReader& checkpoint) {
  checkpoint.check(parts.parameters);
  if (ranks && ranks->sharded())
    ranks->restore([&](const optim::Parameter& one) { return checkpoint.trainable_tensor(one); });
  else
    checkpoint.restore(parts.parameters);
}

/// A run that began without keep_best has no checkpoint of its best evaluation: the next one is the first to
/// count.
void Trainer::Run::forget_lost_best() {
  if (!options.keep_best || state.best_step == 0 || is_complete_checkpoint(checkpoints.path(state.best_step)))
    return;
  log_warn("the best evaluation so far, of step ", state.best_step,
           ", has no checkpoint: the best of those to come will be kept");
  state.best_step = 0;
}

/// With keep_best: the weights of the best evaluation take the place of the last step's.
void Trainer::Run::take_best() {
  kept_step = state.step;
  if (!options.keep_best || state.best_step == 0 || state.best_step == state.step) return;
  restore(CheckpointReader(checkpoints.path(state.best_step)));
  kept_step = state.best_step;
  log_info(parts.name, parts.name.empty() ? "" : ": ", "the weights are those of step ", kept_step,
           ", the best of ", state.step, " by ", options.best_metric);
}

void Trainer::Run::begin() {
  RunInfo info;
  info.output_dir = parts.output_dir;
  info.first_step = state.step;
  info.total_steps = total;
  info.log_every = options.log_every;
  for (const optim::Parameter& parameter : parts.parameters) {
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
      // The checkpoint of a run that was interrupted before this evaluation does not know that it is the
      // best.
      if (options.keep_best && last_saved == state.step) last_saved = -1;
    }
  }
  state.evaluations.push_back(evaluation);
  for (const auto& callback : callbacks) callback->on_evaluate(evaluation);
}

bool Trainer::Run::stops_early() const {
  if (options.early_stopping_patience == 0 || state.best_step == 0) return false;
  const auto later =
      std::count_if(state.evaluations.begin(), state.evaluations.end(),
                    [&](const Evaluation& evaluation) { return evaluation.step > state.best_step; });
  return later >= options.early_stopping_patience;
}

/// By rank 0's clock. Saving gets at most a twentieth of the time.
bool Trainer::Run::time_to_save() const {
  if (options.save_minutes == 0 || parts.output_dir.empty() || parts.ranks->rank() > 0) return false;
  if (!parts.source.cursor || !parts.source.seek) return false;
  return seconds_since(last_save) >= std::max(60 * options.save_minutes, 20 * last_save_took);
}

bool Trainer::Run::checkpoint_due() const {
  if (state.step == 0 || last_saved == state.step) return false;
  if (save_agreed) return true;
  if (options.keep_best && state.best_step == state.step) return true;
  return options.save_every > 0 && (state.step % options.save_every == 0 || state.step >= total);
}

void Trainer::Run::save() {
  finish_save();
  const auto start = Clock::now();
  save_agreed = false;
  if (parts.source.cursor) state.cursor = parts.source.cursor();
  const Json json = trainer_state_json(state, options, total);
  CheckpointStore::Contents contents;
  contents.optimizer = optimizer.state();
  contents.sharded = ranks && ranks->sharded();
  contents.sharded_weights = ranks && ranks->weights_sharded();
  for (const optim::Parameter& one : contents.sharded_weights ? ranks->own_parameters() : parts.parameters)
    contents.trainable.emplace_back(one.name, one.tensor.detach());
  if (contents.sharded) {
    for (const optim::Parameter& own : optimizer.parameters()) {
      const dist::Slice slice = *ranks->slice_of(own.name);
      const at::Tensor range = at::tensor({slice.begin, slice.end}, at::kLong);
      contents.optimizer.emplace_back(own.name + ".slice", range);
      if (contents.sharded_weights) contents.trainable.emplace_back(own.name + ".slice", range);
    }
  }
  if (parts.extra_state) contents.extra = parts.extra_state->save();
  contents.state = &json;
  contents.save_weights = parts.save_weights;
  last_saved = state.step;
  ++saves;
  if (options.save_in_background) {
    saving = std::make_unique<BackgroundSave>(checkpoints, state.step, contents, *parts.ranks,
                                              std::chrono::seconds(parts.parallel.timeout_seconds));
    count_save(start);
    return;
  }
  const std::filesystem::path path = checkpoints.save(state.step, contents, *parts.ranks);
  count_save(start);
  after_save(state.step, path);
}

void Trainer::Run::count_save(Clock::time_point start) {
  last_save_took = seconds_since(start);
  save_seconds += last_save_took;
  last_save = Clock::now();
}

/// Waits for the checkpoint that is being written, where there is one.
void Trainer::Run::finish_save() {
  if (!saving) return;
  const auto start = Clock::now();
  const std::filesystem::path path = saving->finish();
  save_seconds += seconds_since(start);
  const std::int64_t step = saving->step();
  saving.reset();
  after_save(step, path);
}

void Trainer::Run::after_save(std::int64_t step, const std::filesystem::path& path) {
  if (parts.ranks->rank() == 0)
    checkpoints.prune(options.keep_last, options.keep_best && state.best_step > 0
                                             ? std::optional(state.best_step)
                                             : std::nullopt);
  for (const auto& callback : callbacks) callback->on_save(step, path.string());
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
  } catch (RankError& error) {  // Not the data's fault.
    error.add_context(to_text("step ", state.step + 1));
    throw;
  } catch (Error& error) {
    std::string where = to_text("step ", state.step + 1, ", data from ", cursor.dump());
    if (sums.nonfinite_micro_batch >= 0) {
      where += to_text(", micro-batch ", sums.nonfinite_micro_batch + 1, " of ", micro_batches.size());
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
    if (ranks) ranks->share_update();
  }
  optimizer.zero_grad();
  record.seconds = seconds_since(start);
  count(sums, record.seconds);
  if (ranks && parts.parallel.check_every > 0 && state.step % parts.parallel.check_every == 0)
    ranks->check_same();
  report(std::move(record));
  return true;
}

StepRecord Trainer::Run::compute(const std::vector<Batch>& micro_batches, StepSums& sums) {
  nn::ForwardContext context;
  context.recompute = options.recompute;
  context.dropout.seed = static_cast<std::uint64_t>(options.seed);
  context.dropout.step = state.step;
  context.token_ranks = token_ranks.get();
  const StepTarget target{device, ranks ? *ranks : *local, *parts.ranks, time_to_save()};
  sums = parts.embedding_loss ? accumulate_gradients(micro_batches, *parts.embedding_loss, context, target)
                              : accumulate_gradients(micro_batches, parts.loss, context, target);
  agreed_signal = sums.signal;
  save_agreed = sums.save_due;

  StepRecord record;
  record.step = state.step + 1;
  record.loss = sums.loss / sums.weight;
  record.learning_rate = options.learning_rate * optim::schedule_factor(options.schedule, state.step, total);
  record.grad_norm = (ranks ? ranks->global_norm() : optim::global_norm(optimizer.gradients())) / sums.weight;
  record.tokens = sums.tokens;
  record.supervised = sums.weight;
  for (const auto& [name, part] : sums.parts)
    record.parts[name] = part.weight > 0 ? part.sum / part.weight : 0;
  record.skip_reason = guard.check(record.loss, record.grad_norm);
  record.skipped = !record.skip_reason.empty();
  state.guard = guard.state();
  return record;
}

void Trainer::Run::count(const StepSums& sums, double seconds) {
  ++state.step;
  state.tokens += sums.tokens;
  state.supervised += sums.weight;
  state.seconds += seconds;
  const std::vector<std::string>& names = parts.source.languages;
  for (const auto& [id, tokens] : sums.language_tokens) {
    const bool known = id >= 0 && static_cast<std::size_t>(id) < names.size();
    const std::string name = known    ? names[static_cast<std::size_t>(id)]
                             : id < 0 ? std::string("unknown")
                                      : std::to_string(id);
    state.language_tokens[name] += tokens;
  }
}

/// Several ranks act on a signal only when all know of it: after the step in which one received it.
int Trainer::Run::received_signal() const {
  return parts.ranks->size() > 1 ? agreed_signal : SignalWatch::received();
}

/// What came after the last step, such as during a long evaluation, on any rank. A collective.
int Trainer::Run::late_signal() const {
  int late = SignalWatch::received();
  if (parts.ranks->size() > 1)
    for (const std::string& text : dist::gather_text(std::to_string(late), *parts.ranks, "late signals"))
      late = std::max(late, std::stoi(text));
  return late;
}

void Trainer::Run::report(StepRecord record) {
  record.total_tokens = state.tokens;
  record.tokens_per_second = record.seconds > 0 ? static_cast<double>(record.tokens) / record.seconds : 0;
  if (is_logged(record.step, options.log_every, total) || record.skipped) state.log.push_back(record);
  for (const auto& callback : callbacks) callback->on_step(record);
}

void Trainer::Run::finish() {
  if (parts.output_dir.empty() || parts.ranks->rank() > 0) return;
  const std::filesystem::path path = std::filesystem::path(parts.output_dir) / "trainer_state.json";
  io::write_json(path, trainer_state_json(state, options, total));
}

TrainResult Trainer::Run::train() {
  const SignalWatch signals;
  resume();
  callbacks = make_callbacks(options, parts);
  begin();
  while (true) {
    if (saving && saving->done()) finish_save();
    signal = received_signal();
    if (signal != 0) {
      SignalWatch::obey();
      if (!parts.output_dir.empty() && state.step > 0 && last_saved != state.step) save();
      break;
    }
    if (evaluation_due()) evaluate();
    if (!stopped_early && state.step < total && stops_early()) {
      stopped_early = true;
      total = state.step;
      log_info(parts.name, parts.name.empty() ? "" : ": ", "stopped early: no better ", options.best_metric,
               " in ", options.early_stopping_patience, " evaluations since step ", state.best_step);
    }
    if (checkpoint_due()) save();
    if (state.step >= total && agreed_signal == 0) agreed_signal = late_signal();
    if (received_signal() != 0) continue;
    if (state.step >= total) break;
    if (!train_step()) total = state.step;
  }
  finish_save();
  if (signal == 0) take_best();
  finish();
  TrainResult result = summarise_run(state);
  for (const optim::Parameter& parameter : parts.parameters) {
    result.trainable_parameters += parameter.tensor.numel();
  }
  result.resumed_from = resumed_from;
  result.traffic = traffic();
  result.saves = saves;
  result.save_seconds = save_seconds;
  result.peak_memory_bytes = peak_memory_bytes(device);
  result.signal = signal;
  result.kept_step = kept_step;
  result.stopped_early = stopped_early;
  for (const auto& callback : callbacks) callback->on_end(result);
  return result;
}

Trainer::Trainer(TrainOptions options, TrainParts parts)
    : run_(std::make_unique<Run>(std::move(options), std::move(parts))) {}

Trainer::~Trainer() = default;

TrainResult Trainer::run() {
  const CoresWatch watch;
  return run_->train();
}

}  // namespace bitrain::train
