#include <bitrain/recipe/run.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include <ATen/Parallel.h>

#include <bitrain/base/cpu_count.h>
#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/base/version.h>
#include <bitrain/dist/gather_text.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json_difference.h>
#include <bitrain/recipe/fingerprint.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/train/peak_memory.h>
#include <bitrain/train/report.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

using Ranks = std::shared_ptr<dist::Communicator>;

constexpr const char* kStageFile = "stage.json";
constexpr const char* kFinished = "finished";

/// Whether a stage has steps that ranks can share.
bool trains(const Stage& stage) {
  return training_of(stage.options).has_value();
}

/// Where a stage keeps what an interruption must not lose.
fs::path work_directory(const fs::path& stage_directory) {
  return stage_directory.string() + ".work";
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (starts_with(line, "model name")) return std::string(trim(line.substr(line.find(':') + 1)));
  return "unknown CPU";
}

/// What a run will do with a stage.
struct Plan {
  io::Json made_from;
  std::optional<io::Json> done;  ///< stage.json of a folder that is right as it is.
};

/// stage.json when the folder is there and made from the same things, else nothing. A stage that runs again,
/// or was made with other options that do not matter, says so.
std::optional<io::Json> finished(const Stage& stage, const fs::path& directory, const io::Json& made_from) {
  std::error_code ignored;
  if (!fs::exists(directory / kStageFile, ignored)) return std::nullopt;
  io::Json there = io::read_json(directory / kStageFile);
  if (!there.is_object() || !there.contains("made_from") || !there.contains("result")) return std::nullopt;
  const io::Json& before = there["made_from"];
  if (const auto differences = io::differences(identity_of(before), identity_of(made_from));
      !differences.empty()) {
    log_info("stage ", stage.name, ": ", directory.string(),
             " was made otherwise and will be replaced: ", io::describe(differences));
    return std::nullopt;
  }
  if (const auto differences = io::differences(before, made_from); !differences.empty())
    log_info("stage ", stage.name,
             ": stays as it was made, with other values that change no step: ", io::describe(differences));
  return there;
}

/// Looks at all stages before any runs: what they are made from, which are finished, whether unfinished work
/// can go on and whether their folders can be written.
std::vector<Plan> plan_stages(const Recipe& recipe, ContentHashes& contents) {
  std::map<std::string, std::string> hashes;
  std::vector<Plan> plans;
  for (const Stage& stage : recipe.stages) {
    const fs::path directory = stage_directory(recipe, stage.name);
    Plan plan;
    plan.made_from = made_from(recipe, stage, contents, hashes);
    hashes[stage.name] = hash_of(plan.made_from);
    plan.done = finished(stage, directory, plan.made_from);
    if (!plan.done) {
      io::check_output_directory(directory);
      check_work(stage, work_directory(directory), plan.made_from);
    }
    plans.push_back(std::move(plan));
  }
  contents.remember();
  return plans;
}

/// Runs a stage's function, with its name in what it throws.
void run_function(const Stage& stage, StageContext& context) {
  try {
    context.check_inputs();
    std::visit([&](const auto& options) { run_stage(options, context); }, stage.options);
    context.check_inputs();
  } catch (Error& error) {
    error.add_context("stage " + stage.name);
    throw;
  }
}

/// Runs one stage that is not finished; its figures, or nothing when a signal came.
std::optional<io::Json> run_one(const Recipe& recipe, const Stage& stage, const io::Json& made_from,
                                ContentHashes& contents, const Ranks& ranks, int& signal) {
  const fs::path directory = stage_directory(recipe, stage.name);
  const fs::path work = work_directory(directory);
  prepare_work(stage, work, made_from);
  if (trains(stage)) ranks->await(0, "preparing stage " + stage.name);
  io::AtomicDirectory out(directory);
  StageContext context{recipe, stage, out.path(), work};
  context.ranks = trains(stage) ? ranks : std::make_shared<dist::Communicator>();
  context.check_inputs = [&contents] { contents.check_unchanged(); };
  train::reset_peak_memory(context.device());
  const auto begin = std::chrono::steady_clock::now();
  run_function(stage, context);
  if (context.signal != 0) {
    signal = context.signal;
    return std::nullopt;
  }
  io::Json result = {
      {"type", stage.type},
      {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()},
      {"peak_memory_bytes", train::peak_memory_bytes(context.device())},
      {"directory", directory.string()}};
  if (trains(stage) && ranks->size() > 1) result["ranks"] = ranks->size();
  result.update(context.result);
  const io::Json file = {
      {"name", stage.name}, {"hash", hash_of(made_from)}, {"made_from", made_from}, {"result", result}};
  io::write_json(out.path() / kStageFile, file);
  out.commit();
  io::remove_tree(work);
  return result;
}

/// What a rank other than 0 does of a stage. The signal that ended it early, or 0.
int help_with(const Recipe& recipe, const Stage& stage, const Ranks& ranks) {
  if (!trains(stage)) return 0;
  const fs::path directory = stage_directory(recipe, stage.name);
  ranks->await(0, "preparing stage " + stage.name);
  // What a stage writes besides its training is rank 0's; it must go somewhere.
  const io::AtomicDirectory scratch(fs::temp_directory_path() / ("bitrain-" + stage.name));
  StageContext context{recipe, stage, scratch.path(), work_directory(directory)};
  context.ranks = ranks;
  run_function(stage, context);
  return context.signal;
}

/// The other ranks follow rank 0 through the stages.
void follow(const Recipe& recipe, const Ranks& ranks, RunResult& result) {
  for (const Stage& stage : recipe.stages) {
    ranks->await(0, "looking at stage " + stage.name);
    if (dist::broadcast_text({}, 0, *ranks, "whether a stage is finished") == kFinished) continue;
    result.signal = help_with(recipe, stage, ranks);
    if (result.signal != 0) return;
    ranks->await(0, "stage " + stage.name);
  }
}

io::Json empty_summary(const Recipe& recipe) {
  return {{"schema", 1},
          {"name", recipe.name},
          {"version", kVersion},
          {"machine",
           {{"cpu", cpu_name()},
            {"threads", at::get_num_threads()},
            {"device", recipe.device},
            {"dtype", recipe.dtype}}},
          {"languages", {{"source", recipe.source.language}, {"target", recipe.target.language}}},
          {"seconds", 0.0},
          {"peak_memory_bytes", 0},
          {"stages", io::Json::object()}};
}

void add_stage(io::Json& summary, const std::string& name, const io::Json& result) {
  summary["stages"][name] = result;
  summary["seconds"] = summary["seconds"].get<double>() + result.value("seconds", 0.0);
  summary["peak_memory_bytes"] = std::max(summary["peak_memory_bytes"].get<std::uint64_t>(),
                                          result.value("peak_memory_bytes", std::uint64_t{0}));
}

void write_summary(const fs::path& dir, const io::Json& summary) {
  io::write_json(dir / "summary.json", summary);
  io::write_file_atomic(dir / "report.html", train::render_report(summary));
}

}  // namespace

fs::path stage_directory(const Recipe& recipe, const std::string& stage) {
  for (std::size_t i = 0; i < recipe.stages.size(); ++i)
    if (recipe.stages[i].name == stage) return fs::path(recipe.dir) / (std::to_string(i + 1) + "-" + stage);
  throw StateError("there is no stage '", stage, "'");
}

RunResult run(const Recipe& recipe, const Ranks& ranks) {
  if (!recipe.source.language.empty() && recipe.source.language == recipe.target.language)
    throw ConfigError("source.language and target.language are both '", recipe.source.language, "'");
  if (recipe.device == "cuda") require_cuda();
  if (recipe.threads > 0)
    at::set_num_threads(static_cast<int>(recipe.threads));
  else
    keep_threads_within_quota();
  RunResult result;
  result.dir = recipe.dir;
  if (ranks->rank() > 0) {
    follow(recipe, ranks, result);
    return result;
  }
  const io::DirectoryLock lock(result.dir);
  io::remove_leftovers(result.dir);
  result.summary = empty_summary(recipe);
  ContentHashes contents(fs::path(recipe.dir) / ".contents.json");
  const std::vector<Plan> plans = plan_stages(recipe, contents);
  const std::map<std::string, std::int64_t> invalid_rows = count_invalid_rows(recipe);
  if (!invalid_rows.empty()) result.summary["invalid_rows"] = invalid_rows;
  for (std::size_t i = 0; i < recipe.stages.size(); ++i) {
    const Stage& stage = recipe.stages[i];
    const std::string title =
        std::to_string(i + 1) + "/" + std::to_string(recipe.stages.size()) + " " + stage.name;
    const std::optional<io::Json>& done = plans[i].done;
    ranks->await(0, "looking at stage " + stage.name);
    (void)dist::broadcast_text(done ? kFinished : "", 0, *ranks, "whether a stage is finished");
    if (done) {
      log_info("stage ", title, ": finished before, skipped");
      add_stage(result.summary, stage.name, done->at("result"));
      continue;
    }
    log_info("stage ", title, " (", stage.type, ")");
    const std::optional<io::Json> figures =
        run_one(recipe, stage, plans[i].made_from, contents, ranks, result.signal);
    if (!figures) return result;
    log_info("stage ", title, ": done in ", human_seconds(figures->at("seconds").get<double>()));
    add_stage(result.summary, stage.name, *figures);
    write_summary(result.dir, result.summary);
    ranks->await(0, "stage " + stage.name);
  }
  if (!recipe.claims.empty())
    result.summary["claims"] = check_claims(recipe.claims, result.summary["stages"]);
  write_summary(result.dir, result.summary);
  return result;
}

}  // namespace bitrain::recipe
