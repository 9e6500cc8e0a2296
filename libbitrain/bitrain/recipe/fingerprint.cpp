#include <bitrain/recipe/fingerprint.h>

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/version.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json_difference.h>
#include <bitrain/optim/schedule.h>
#include <bitrain/recipe/decode.h>
#include <bitrain/recipe/references.h>
#include <bitrain/train/checkpoint.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

constexpr const char* kMarker = "made_from.json";
/// Options of `train` that change neither a step nor a weight.
constexpr const char* kFreeOfTrain[] = {
    "log_every",          "eval_every",  "eval_at_start", "eval_at_end", "save_every",
    "save_in_background", "keep_last",   "keep_best",     "best_metric", "resume",
    "recompute",          "tensorboard", "progress",      "seed"};  // The recipe's seed is used.
const std::set<std::string> kLength = {"options.train.max_steps", "options.train.max_tokens"};

/// Whether a reader of models looks at a file: weights, configurations, tokenizers.
bool counts_for_a_model(const fs::path& file) {
  static const std::set<std::string> kEndings = {".json", ".safetensors", ".model", ".txt", ".jinja"};
  // What a run writes beside its models says when they were made, not what they are.
  static const std::set<std::string> kOthers = {"stage.json", "trainer_state.json"};
  for (const fs::path& part : file)
    if (part.string().rfind("checkpoint-", 0) == 0) return false;
  return kEndings.count(file.extension().string()) != 0 && kOthers.count(file.filename().string()) == 0;
}

/// What a stage names besides the text: the hash of a stage, the content of a file or of all in a folder.
io::Json content_of(const Recipe& recipe, const Reference& reference, ContentHashes& contents,
                    const std::map<std::string, std::string>& before) {
  if (reference.kind == Refers::kStage)
    return reference.name == "base" ? contents.of_folder(recipe.base, counts_for_a_model)
                                    : io::Json(before.at(reference.name));
  const fs::path path = resolve(recipe, reference.name);
  return reference.kind == Refers::kFile ? contents.of_file(path)
                                         : contents.of_folder(path, [](const fs::path&) { return true; });
}

/// Files that somebody would miss: checkpoints, lines that were mined. Logs alone are none.
bool holds_work(const fs::path& work) {
  static const std::set<std::string> kLogs = {kMarker, "metrics.jsonl", "trainer_state.json", "tensorboard"};
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(work, error)) {
    const std::string name = entry.path().filename().string();
    if (kLogs.count(name) != 0 || name.find(".tmp-") != std::string::npos) continue;
    if (entry.is_regular_file() && entry.file_size() > 0) return true;
    for (const fs::directory_entry& inside : fs::recursive_directory_iterator(entry.path(), error))
      if (inside.is_regular_file()) return true;
  }
  return false;
}

/// The steps of a run of the length that `made_from` has, or nothing where it cannot be told.
std::optional<std::int64_t> steps_of(const StageTraining& training, const io::Json& made_from) {
  train::TrainOptions train = training.train;
  try {
    const io::Json& there = made_from.at("options").at("train");
    train.max_steps = there.at("max_steps").get<std::int64_t>();
    train.max_tokens = there.at("max_tokens").get<std::int64_t>();
  } catch (const io::Json::exception&) {
    return std::nullopt;
  }
  return StageTraining{train, training.loader}.steps();
}

/// Why a run of another length would not have taken the same steps so far; "" if it would.
std::string cannot_change_length(const StageTraining& training, const io::Json& was, std::int64_t taken) {
  const std::optional<std::int64_t> before = steps_of(training, was);
  if (!before) return "its length there cannot be told";
  const std::int64_t now = training.steps();
  if (now < taken) return to_text("step ", taken, " is past the end of this run");
  const optim::ScheduleOptions& schedule = training.train.schedule;
  for (std::int64_t step = 0; step < taken; ++step)
    if (optim::schedule_factor(schedule, step, *before) != optim::schedule_factor(schedule, step, now))
      return to_text("with the schedule ", schedule.type,
                      " the learning rates of the steps taken depend on it");
  const data::MixtureOptions& mixture = training.loader.mixture;
  if (!mixture.stages.empty() || mixture.kind == "unimax") return "the mixture depends on it";
  return "";
}

struct Work {
  std::optional<io::Json> made_from;
  std::vector<io::JsonDifference> differences;  ///< Of identities.
};

Work look_at(const fs::path& work, const io::Json& made_from) {
  Work found;
  std::error_code ignored;
  if (!fs::exists(work / kMarker, ignored)) return found;
  found.made_from = io::read_json(work / kMarker);
  found.differences = io::differences(identity_of(*found.made_from), identity_of(made_from));
  return found;
}

bool only_length(const std::vector<io::JsonDifference>& differences) {
  return std::all_of(differences.begin(), differences.end(),
                     [](const auto& one) { return kLength.count(one.name) != 0; });
}

}  // namespace

io::Json made_from(const Recipe& recipe, const Stage& stage, ContentHashes& contents,
                   const std::map<std::string, std::string>& before) {
  io::Json json = {{"version", kVersion},
                   {"type", stage.type},
                   {"from", stage.from},
                   {"seed", recipe.seed},
                   {"device", recipe.device},
                   {"dtype", recipe.dtype},
                   {"held_out", to_json(recipe.held_out)},
                   {"skip_invalid", recipe.skip_invalid},
                   {"source", to_json(recipe.source)},
                   {"target", to_json(recipe.target)}};
  if (has_lines(recipe)) {
    json["source_file"] = contents.of_file(resolve(recipe, recipe.source.path));
    json["target_file"] = contents.of_file(resolve(recipe, recipe.target.path));
  }
  json["options"] = std::visit([](const auto& options) { return to_json(options); }, stage.options);
  for (const Reference& reference :
       std::visit([](const auto& options) { return references_of(options); }, stage.options))
    json["reads"][reference.key] = content_of(recipe, reference, contents, before);
  if (!stage.from.empty())
    json["input"] = content_of(recipe, {"", Refers::kStage, stage.from}, contents, before);
  return json;
}

io::Json identity_of(const io::Json& made_from) {
  io::Json identity = made_from;
  if (!identity.is_object() || !identity.contains("options")) return identity;
  io::Json& options = identity["options"];
  if (options.is_object() && options.contains("train") && options["train"].is_object())
    for (const char* key : kFreeOfTrain) options["train"].erase(key);
  return identity;
}

std::string hash_of(const io::Json& made_from) {
  return short_hash(identity_of(made_from).dump());
}

void check_work(const Stage& stage, const fs::path& work, const io::Json& made_from) {
  if (!holds_work(work)) return;
  const std::string remedy = "; to begin anew, remove or rename that folder, or give the run another dir";
  const Work there = look_at(work, made_from);
  const std::string where = "stage " + stage.name + ": there is unfinished work in " + work.string();
  if (!there.made_from) throw StateError(where, " that does not say what it was made from", remedy);
  if (there.differences.empty()) return;
  const std::optional<std::int64_t> step = train::CheckpointStore(work).newest();
  std::string why;
  if (const auto training = training_of(stage.options); training && only_length(there.differences)) {
    why = cannot_change_length(*training, *there.made_from, step.value_or(0));
    if (why.empty()) return;
  }
  throw StateError(where, step ? to_text(" (a checkpoint of step ", *step, ")") : std::string(),
                   ", made otherwise than this run would: ", io::describe(there.differences),
                   why.empty() ? "" : "; " + why, ". To go on from it, set that back as it was", remedy);
}

void prepare_work(const Stage& stage, const fs::path& work, const io::Json& made_from) {
  const Work there = look_at(work, made_from);
  if (there.made_from && *there.made_from == made_from) return;
  const bool goes_on = there.made_from && (there.differences.empty() || holds_work(work));
  if (!goes_on) io::remove_tree(work);
  if (goes_on)
    log_info("stage ", stage.name, ": goes on with ",
             io::describe(io::differences(*there.made_from, made_from)));
  io::make_directories(work);
  io::write_json(work / kMarker, made_from);
}

}  // namespace bitrain::recipe
