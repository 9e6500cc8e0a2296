#include <bitrain/recipe/training.h>

#include <cmath>
#include <variant>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/dist/gather_text.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/train/checkpoint.h>
#include <bitrain/train/connect.h>
#include <bitrain/train/sharded_weights.h>
#include <bitrain/train/trainer.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

io::Json evaluations_json(const std::vector<train::Evaluation>& evaluations, const std::string& figures) {
  io::Json list = io::Json::array();
  for (const train::Evaluation& evaluation : evaluations)
    list.push_back({{"step", evaluation.step}, {figures, evaluation.languages}});
  return list;
}

/// Shares by language, or by source where these hold pairs of languages; asked for and realised, in the
/// mixture's unit.
io::Json shares_json(const std::vector<data::SourceShare>& shares, bool by_source) {
  io::Json json = io::Json::object();
  for (const data::SourceShare& share : shares) {
    io::Json& entry = json[by_source || share.language.empty() ? share.source : share.language];
    if (entry.is_null()) entry = io::Json::object();
    entry["asked"] = entry.value("asked", 0.0) + share.asked;
    entry["realised"] = entry.value("realised", 0.0) + share.realised;
    entry["tokens"] = entry.value("tokens", std::int64_t{0}) + share.tokens;
    entry["epochs"] = share.epochs;
  }
  return json;
}

void record(const train::TrainResult& result, const data::Loader& loader, const std::string& figures,
            io::Json& json) {
  json["trainable_parameters"] = result.trainable_parameters;
  json["steps"] = result.steps;
  json["tokens"] = result.tokens;
  json["supervised_tokens"] = result.supervised_tokens;
  json["train_seconds"] = result.seconds;
  json["tokens_per_second"] = result.tokens_per_second;
  json["train_loss"] = result.train_loss;
  json["skipped_steps"] = result.skipped_steps;
  if (result.stopped_early) json["stopped_early"] = true;
  if (result.kept_step != result.steps) json["kept_step"] = result.kept_step;
  if (result.saves > 0) json["saves"] = {{"count", result.saves}, {"seconds", result.save_seconds}};
  json["shares"] = shares_json(loader.shares(), figures != "languages");
  json["curve"] = {{"step", result.curve.step},
                   {"loss", result.curve.loss},
                   {"learning_rate", result.curve.learning_rate},
                   {"tokens_per_second", result.curve.tokens_per_second}};
  json["evaluations"] = evaluations_json(result.evaluations, figures);
}

/// What rank 0 moved in this stage, by kind of collective, and each rank's peak of memory.
void record_ranks(dist::Communicator& ranks, const train::TrainResult& result, io::Json& json) {
  if (ranks.size() == 1) return;
  json["traffic"] = traffic_json(result.traffic);
  json["peak_memory_bytes_of_ranks"] = io::Json::array();
  for (const std::string& peak :
       dist::gather_text(std::to_string(result.peak_memory_bytes), ranks, "peaks of memory"))
    json["peak_memory_bytes_of_ranks"].push_back(std::stoull(peak));
}

/// The logs of training get into the stage's folder, and the checkpoint that trainer_state.json names. They
/// stay in the work folder too, so that a run that is killed now can go on.
void keep_logs(const fs::path& work, const fs::path& out, const std::optional<std::string>& checkpoint) {
  std::vector<std::string> names = {"metrics.jsonl", "trainer_state.json", "tensorboard"};
  if (checkpoint) names.push_back(*checkpoint);
  for (const std::string& name : names)
    if (fs::exists(work / name)) io::link_or_copy(work / name, out / name);
}

/// Ends a run at the checkpoint after a file that it was made from has changed. The checkpoint itself is
/// right: rows of a file that was written to are not read any more, one that was replaced is read on.
class InputsWatch : public train::Callback {
 public:
  explicit InputsWatch(std::function<void()> check) : check_(std::move(check)) {}
  void on_save(std::int64_t, const std::string&) override { check_(); }

 private:
  std::function<void()> check_;
};

}  // namespace

io::Json traffic_json(const std::map<std::string, dist::Traffic>& traffic) {
  io::Json json = io::Json::object();
  for (const auto& [collective, moved] : traffic)
    json[collective] = {{"calls", moved.calls}, {"bytes", moved.bytes}, {"seconds", moved.seconds}};
  return json;
}

train::LanguageFigures language_figures(const io::Json& scores) {
  train::LanguageFigures figures;
  for (const auto& [language, values] : scores.items())
    for (const auto& [name, value] : values.items())
      figures[language][name] = value.is_number() ? value.get<double>() : std::nan("");
  return figures;
}

void run_training(StageContext& context, train::TrainOptions options, data::Loader& loader,
                  train::TrainParts parts, const std::string& figures,
                  const std::function<void(const fs::path&)>& save) {
  options.seed = context.recipe.seed;
  std::vector<std::string> languages = std::move(parts.source.languages);
  parts.source = train::make_source(loader);
  if (!languages.empty()) parts.source.languages = std::move(languages);
  parts.output_dir = context.work.string();
  parts.name = context.stage.name;
  parts.ranks = context.ranks;
  parts.parallel = context.recipe.parallel;
  parts.callbacks.push_back(std::make_shared<InputsWatch>(context.check_inputs));
  nn::Module* const model = parts.model;
  const train::TrainResult result = train::Trainer(options, std::move(parts)).run();
  if (result.interrupted()) {
    context.signal = result.signal;
    return;
  }
  record(result, loader, figures, context.result);
  record_ranks(*context.ranks, result, context.result);
  const auto write = [&] {
    if (context.ranks->rank() > 0) return;
    save(context.out);
    keep_logs(
        context.work, context.out,
        options.keep_best && result.best_step > 0
            ? std::optional(train::CheckpointStore(context.work).path(result.best_step).filename().string())
            : std::nullopt);
  };
  const auto weights = std::dynamic_pointer_cast<train::ShardedWeights>(nn::keeper_of(*model));
  if (weights)
    weights->lead(write);
  else
    write();
  context.ranks->await(0, "saving stage " + context.stage.name);
}

void train_stage(StageContext& context, const TrainingParts& parts) {
  models::LanguageModel& model = *parts.model.model;
  const StageData& data = parts.data;
  const std::int64_t tokens_per_step = data.loader.rows_per_step * data.loader.sequence_length;
  const objectives::Objective& objective = *data.objective;
  data::Loader loader(
      data.loader, data.sources,
      [&objective](const data::Example& example) { return objective.encode(example); },
      context.loader_run(train::total_steps(data.train, tokens_per_step)));

  train::TrainParts trainer_parts;
  trainer_parts.parameters = adapters::trainable_parameters(model);
  trainer_parts.model = &model;
  trainer_parts.loss = train::make_loss(model, objective);
  const bool random = std::holds_alternative<PretrainStage>(context.stage.options);
  trainer_parts.evaluate = [&, random](std::int64_t step) {
    if (parts.evaluate) return parts.evaluate();
    if (step == 0 && parts.at_start) return language_figures(*parts.at_start);
    const io::Json scores = score_held_out(context, model, *parts.model.tokenizer);
    if (step > 0 || !random) warn_of_scores(context, scores, to_text("at step ", step));
    return language_figures(scores);
  };
  context.result["parameters"] = adapters::count_parameters(model);
  run_training(context, data.train, loader, std::move(trainer_parts), parts.evaluate ? "sets" : "languages",
               parts.save);
  if (context.signal == 0)
    log_info(context.stage.name, ": ", data::describe(loader.shares(), data.loader.mixture.unit));
}

}  // namespace bitrain::recipe
