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
#include <bitrain/train/checkpoint.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

constexpr const char* kMarker = "made_from.json";
/// Options of `train` that change neither a step nor a weight.
constexpr const char* kFreeOfTrain[] = {
    "log_every", "eval_at_start", "save_every", "save_minutes", "save_in_background", "keep_last", "resume",
    "recompute", "tensorboard",   "progress",   "seed"};  // The recipe's is used.
/// Options of `train.guards` that only end a run: what was trained before is the same.
constexpr const char* kFreeOfGuards[] = {"max_skipped_steps"};
/// Options of a loader that change nothing but memory, time and the order of sums, as the number of ranks
/// does.
constexpr const char* kFreeOfLoader[] = {"micro_batch_rows", "prefetch_threads", "prefetch_steps"};
/// Those that change no step, but may choose which step's weights a stage ends with.
constexpr const char* kChoosing[] = {"keep_best", "early_stopping_patience", "best_metric", "eval_every",
                                     "eval_at_end"};
const std::set<std::string> kLength = {"options.train.max_steps", "options.train.max_tokens"};

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

/// The map under `key` in `parent`; null where there is none.
io::Json* map_in(io::Json* parent, const char* key) {
  if (parent == nullptr || !parent->is_object() || !parent->contains(key)) return nullptr;
  io::Json& inner = (*parent)[key];
  return inner.is_object() ? &inner : nullptr;
}

/// options.train, or null.
io::Json* train_of(io::Json& made_from) {
  return map_in(map_in(&made_from, "options"), "train");
}

/// options.loader or options.data.loader, or null.
io::Json* loader_of(io::Json& made_from) {
  io::Json* const options = map_in(&made_from, "options");
  io::Json* const loader = map_in(options, "loader");
  return loader != nullptr ? loader : map_in(map_in(options, "data"), "loader");
}

struct Work {
  std::optional<io::Json> made_from;
  std::vector<io::JsonDifference> differences;  ///< Of identities.
};

/// What a run does at losses that are no numbers; null where it does not say.
io::Json on_nonfinite(io::Json made_from) {
  const io::Json* const guards = map_in(train_of(made_from), "guards");
  return guards != nullptr && guards->contains("on_nonfinite") ? guards->at("on_nonfinite") : io::Json();
}

/// A run that stopped at such a loss has skipped none: it may go on and skip those to come.
void allow_skipping(const io::Json& was, const io::Json& is, std::vector<io::JsonDifference>& differences) {
  if (on_nonfinite(was) != "stop" || on_nonfinite(is) != "skip") return;
  const auto is_key = [](const io::JsonDifference& one) {
    return one.name == "options.train.guards.on_nonfinite";
  };
  differences.erase(std::remove_if(differences.begin(), differences.end(), is_key), differences.end());
}

Work look_at(const fs::path& work, const io::Json& made_from) {
  Work found;
  std::error_code ignored;
  if (!fs::exists(work / kMarker, ignored)) return found;
  found.made_from = io::read_json(work / kMarker);
  found.differences = io::differences(identity_of_steps(*found.made_from), identity_of_steps(made_from));
  allow_skipping(*found.made_from, made_from, found.differences);
  return found;
}

bool only_length(const std::vector<io::JsonDifference>& differences) {
  return std::all_of(differences.begin(), differences.end(),
                     [](const auto& one) { return kLength.count(one.name) != 0; });
}

/// Where an option stands in JSON: "/files/0/path" for "files[0].path".
io::Json::json_pointer pointer_to(std::string key) {
  key.erase(std::remove(key.begin(), key.end(), ']'), key.end());
  for (char& c : key)
    if (c == '.' || c == '[') c = '/';
  return io::Json::json_pointer("/" + key);
}

/// Of a name whose content is there, the ending stays: it may tell the format.
void forget_name(io::Json& parent, const std::string& key) {
  const io::Json::json_pointer pointer = pointer_to(key);
  if (!parent.contains(pointer) || !parent.at(pointer).is_string()) return;
  io::Json& name = parent.at(pointer);
  name = fs::path(name.get<std::string>()).extension().string();
}

void forget_names(io::Json& identity) {
  if (identity.contains("input")) identity.erase("from");
  for (const char* source : {"source", "target"})
    if (identity.contains(std::string(source) + "_file") && identity.contains(source))
      forget_name(identity[source], "path");
  if (identity.contains("reads") && identity.contains("options"))
    for (const auto& [key, content] : identity["reads"].items()) forget_name(identity["options"], key);
}

}  // namespace

bool counts_for_a_model(const fs::path& file) {
  static const std::set<std::string> kEndings = {".json", ".safetensors", ".model", ".txt", ".jinja"};
  // What a run writes beside its models says when they were made, not what they are.
  static const std::set<std::string> kOthers = {"stage.json", "trainer_state.json"};
  for (const fs::path& part : file)
    if (part.string().rfind("checkpoint-", 0) == 0) return false;
  return kEndings.count(file.extension().string()) != 0 && kOthers.count(file.filename().string()) == 0;
}

bool holds_work(const fs::path& work) {
  static const std::set<std::string> kLogs = {kMarker, kFiguresBefore, "metrics.jsonl", "trainer_state.json",
                                              "tensorboard"};
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
  StageOptions options = stage.options;
  json["options"] = json_of(fields_of_stage(options));
  // Stages of earlier versions did not have it.
  if (is_one_of<CptStage, SftStage>(options) && json["options"]["freeze"].empty())
    json["options"].erase("freeze");
  for (const Reference& reference : references_of(stage))
    json["reads"][reference.key] = content_of(recipe, reference, contents, before);
  if (!stage.from.empty())
    json["input"] = content_of(recipe, {"", Refers::kStage, stage.from}, contents, before);
  return json;
}

io::Json identity_of(const io::Json& made_from) {
  io::Json identity = made_from;
  if (!identity.is_object()) return identity;
  forget_names(identity);
  if (io::Json* loader = loader_of(identity))
    for (const char* key : kFreeOfLoader) loader->erase(key);
  io::Json* train = train_of(identity);
  if (train == nullptr) return identity;
  for (const char* key : kFreeOfTrain) train->erase(key);
  if (io::Json* guards = map_in(train, "guards"))
    for (const char* key : kFreeOfGuards) guards->erase(key);
  if (!train->value("keep_best", false) && train->value("early_stopping_patience", 0) == 0)
    for (const char* key : kChoosing) train->erase(key);
  return identity;
}

io::Json identity_of_steps(const io::Json& made_from) {
  io::Json identity = identity_of(made_from);
  if (io::Json* train = train_of(identity))
    for (const char* key : kChoosing) train->erase(key);
  return identity;
}

std::string hash_of(const io::Json& made_from) {
  return short_hash(identity_of(made_from).dump());
}

std::string describe_change(const Stage& stage, std::vector<io::JsonDifference> differences) {
  std::string inputs;
  const auto is_input = [](const io::JsonDifference& one) { return one.name == "input"; };
  if (std::any_of(differences.begin(), differences.end(), is_input) && stage.from != "base") {
    differences.erase(std::remove_if(differences.begin(), differences.end(), is_input), differences.end());
    inputs = "what stage '" + stage.from + "' leaves is another now";
  }
  const std::string others = io::describe(differences);
  return inputs + (inputs.empty() || others.empty() ? "" : "; ") + others;
}

namespace {

/// Whether a run may go on with unfinished work; where only its length stands in the way, `why` says how.
bool can_go_on(const Stage& stage, const Work& there, std::optional<std::int64_t> step, std::string& why) {
  if (!there.made_from) return false;
  if (there.differences.empty()) return true;
  const std::optional<StageTraining> training = training_of(stage.options);
  if (!training || !only_length(there.differences)) return false;
  why = cannot_change_length(*training, *there.made_from, step.value_or(0));
  return why.empty();
}

}  // namespace

bool is_work_of(const Stage& stage, const fs::path& work, const io::Json& made_from) {
  std::string why;
  return can_go_on(stage, look_at(work, made_from), train::CheckpointStore(work).newest(), why);
}

void check_work(const Stage& stage, const fs::path& work, const io::Json& made_from) {
  if (!holds_work(work)) return;
  const std::string remedy = "; to begin anew, remove or rename that folder, or give the run another dir";
  const Work there = look_at(work, made_from);
  const std::string where = "stage " + stage.name + ": there is unfinished work in " + work.string();
  if (!there.made_from) throw StateError(where, " that does not say what it was made from", remedy);
  const std::optional<std::int64_t> step = train::CheckpointStore(work).newest();
  std::string why;
  if (can_go_on(stage, there, step, why)) return;
  throw StateError(where, step ? to_text(" (a checkpoint of step ", *step, ")") : std::string(),
                   ", made otherwise than this run would: ", describe_change(stage, there.differences),
                   why.empty() ? "" : "; " + why, ". To go on from it, set that back as it was", remedy);
}

void prepare_work(const Stage& stage, const fs::path& work, const io::Json& made_from) {
  const Work there = look_at(work, made_from);
  if (there.made_from && *there.made_from == made_from) return;
  const bool goes_on = there.made_from && (there.differences.empty() || holds_work(work));
  if (!goes_on) io::discard(work);
  if (goes_on)
    log_info("stage ", stage.name, ": goes on with ",
             io::describe(io::differences(*there.made_from, made_from)));
  io::make_directories(work);
  io::write_json(work / kMarker, made_from);
}

void clear_work(const fs::path& work, const io::Json& made_from) {
  const Work there = look_at(work, made_from);
  if ((there.made_from && there.differences.empty()) || !holds_work(work)) io::discard(work);
}

}  // namespace bitrain::recipe
