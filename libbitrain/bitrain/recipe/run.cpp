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

#include <bitrain/base/busy_cores.h>
#include <bitrain/base/cpu_count.h>
#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/base/version.h>
#include <bitrain/dist/gather_text.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/temporary_directory.h>
#include <bitrain/recipe/fingerprint.h>
#include <bitrain/recipe/memory_plan.h>
#include <bitrain/recipe/stage_context.h>
#include <bitrain/recipe/stage_folders.h>
#include <bitrain/train/peak_memory.h>
#include <bitrain/train/report.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

using Ranks = std::shared_ptr<dist::Communicator>;

constexpr const char* kFinished = "finished";

/// Whether a stage has steps that ranks can share.
bool trains(const Stage& stage) {
  return training_of(stage.options).has_value();
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
  /// Where the finished folder, or the unfinished work, lies until the run begins.
  std::optional<fs::path> found;
};

/// Looks for what each stage has left before: for results in their own places, then under other names, then
/// for unfinished work.
void look_for(const Recipe& recipe, ContentHashes& contents, std::vector<Plan>& plans) {
  RunFolders folders(recipe);
  const auto each = [&](const auto& act) {
    for (std::size_t i = 0; i < plans.size(); ++i)
      if (!plans[i].done && !plans[i].found)
        act(recipe.stages[i], stage_directory(recipe, recipe.stages[i].name), plans[i]);
  };
  each([&](const Stage& stage, const fs::path& directory, Plan& plan) {
    plan.done = finished(stage, directory, plan.made_from, contents);
    if (plan.done) folders.keep(directory);
  });
  each([&](const Stage& stage, const fs::path&, Plan& plan) {
    plan.found = folders.take_finished(plan.made_from);
    if (plan.found) plan.done = finished(stage, *plan.found, plan.made_from, contents);
  });
  each([&](const Stage& stage, const fs::path&, Plan& plan) {
    plan.found = folders.take_work(recipe, stage, plan.made_from);
  });
  each([&](const Stage& stage, const fs::path&, const Plan& plan) {
    folders.make_way(recipe, stage, plan.made_from);
  });
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const fs::path directory = stage_directory(recipe, recipe.stages[i].name);
    if (plans[i].done)
      folders.keep(work_directory(directory));  // Cleared below.
    else
      check_place(recipe.stages[i], directory);
  }
  folders.tell(recipe);
}

/// Puts what was found under another name in the place of the stage.
void move_found(const Recipe& recipe, const std::vector<Plan>& plans) {
  std::vector<FolderMove> moves;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const fs::path directory = stage_directory(recipe, recipe.stages[i].name);
    const fs::path to = plans[i].done ? directory : work_directory(directory);
    if (plans[i].found && *plans[i].found != to)
      moves.push_back({recipe.stages[i].name, *plans[i].found, to});
  }
  move_folders(std::move(moves));
  for (std::size_t i = 0; i < plans.size(); ++i)
    if (plans[i].done)
      clear_work(work_directory(stage_directory(recipe, recipe.stages[i].name)), plans[i].made_from);
}

/// Looks at all stages before any runs: what they are made from, which are finished, whether unfinished work
/// can go on and whether their folders can be written.
std::vector<Plan> plan_stages(const Recipe& recipe, ContentHashes& contents) {
  if (const auto own = reads_own_folders(recipe); !own.empty())
    throw ConfigError(own.front().first, ": ", own.front().second);
  std::map<std::string, std::string> hashes;
  std::vector<Plan> plans;
  for (const Stage& stage : recipe.stages) {
    Plan plan;
    plan.made_from = made_from(recipe, stage, contents, hashes);
    hashes[stage.name] = hash_of(plan.made_from);
    plans.push_back(std::move(plan));
  }
  look_for(recipe, contents, plans);
  move_found(recipe, plans);
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
  } catch (const std::exception& error) {  // Such as of memory, which says nothing of what it was for.
    const Failure failure = failure_of(error);
    if (!failure.kind) throw;
    throw Error(*failure.kind, "stage " + stage.name + ": " + failure.message);
  }
}

/// What each stage is planned to need, by name. Throws ConfigError where parts do not fit, so that no stage
/// runs in vain; what cannot be read has no plan, and the stage that reads it says so.
std::map<std::string, std::uint64_t> planned_memory(const Recipe& recipe) {
  std::map<std::string, std::uint64_t> planned;
  try {
    for (const MemoryPlan& plan : memory_plan(recipe)) planned[plan.stage] = plan.total();
  } catch (const ConfigError&) {
    throw;
  } catch (const std::exception&) {
    planned.clear();
  }
  return planned;
}

/// Runs one stage that is not finished; its figures, or nothing when a signal came.
std::optional<io::Json> run_one(const Recipe& recipe, const Stage& stage, const io::Json& made_from,
                                std::uint64_t planned, ContentHashes& contents,
                                const std::shared_ptr<HeldOutLines>& held_out, const Ranks& ranks,
                                int& signal) {
  const fs::path directory = stage_directory(recipe, stage.name);
  const fs::path work = work_directory(directory);
  prepare_work(stage, work, made_from);
  if (trains(stage)) ranks->await(0, "preparing stage " + stage.name);
  io::AtomicDirectory out(directory);
  StageContext context{recipe, stage, out.path(), work};
  context.ranks = trains(stage) ? ranks : std::make_shared<dist::Communicator>();
  context.held_out = held_out;
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
      {"planned_memory_bytes", planned},
      {"directory", directory.string()}};
  if (trains(stage) && ranks->size() > 1) result["ranks"] = ranks->size();
  result.update(context.result);
  write_stage_file(out.path(), stage, made_from, result);
  out.commit();
  io::discard(work);
  return result;
}

/// What a rank other than 0 does of a stage. The signal that ended it early, or 0.
int help_with(const Recipe& recipe, const Stage& stage, const std::shared_ptr<HeldOutLines>& held_out,
              const Ranks& ranks) {
  if (!trains(stage)) return 0;
  const fs::path directory = stage_directory(recipe, stage.name);
  ranks->await(0, "preparing stage " + stage.name);
  // What a stage writes besides its training is rank 0's; it must go somewhere.
  const io::TemporaryDirectory scratch("bitrain-rank");
  StageContext context{recipe, stage, scratch.path(), work_directory(directory)};
  context.ranks = ranks;
  context.held_out = held_out;
  train::reset_peak_memory(context.device());
  run_function(stage, context);
  return context.signal;
}

/// The other ranks follow rank 0 through the stages.
void follow(const Recipe& recipe, const Ranks& ranks, RunResult& result) {
  const auto held_out = std::make_shared<HeldOutLines>(recipe);
  for (const Stage& stage : recipe.stages) {
    ranks->await(0, "looking at stage " + stage.name);
    if (dist::broadcast_text({}, 0, *ranks, "whether a stage is finished") == kFinished) continue;
    result.signal = help_with(recipe, stage, held_out, ranks);
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

RunResult run(const Recipe& recipe, const Ranks& ranks) {
  if (!recipe.source.language.empty() && recipe.source.language == recipe.target.language)
    throw ConfigError("source.language and target.language are both '", recipe.source.language, "'");
  if (recipe.device == "cuda") require_cuda();
  if (recipe.threads > 0)
    at::set_num_threads(static_cast<int>(recipe.threads));
  else
    keep_threads_within_quota();
  const CoresWatch watch;
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
  const std::map<std::string, std::uint64_t> planned = planned_memory(recipe);
  const auto held_out = std::make_shared<HeldOutLines>(recipe);
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
    const auto memory = planned.find(stage.name);
    const std::optional<io::Json> figures =
        run_one(recipe, stage, plans[i].made_from, memory == planned.end() ? 0 : memory->second, contents,
                held_out, ranks, result.signal);
    lock.check();
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
