#include <bitrain/recipe/run.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <set>
#include <thread>

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
#include <bitrain/recipe/decode.h>
#include <bitrain/recipe/references.h>
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
  return is_one_of<PretrainStage, CptStage, SftStage, MaskedLmStage, ContrastiveStage, LateInteractionStage,
                   CrossEncoderStage, ContextPredictionStage, DocumentEncoderStage, SimilarityStage>(
      stage.options);
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (starts_with(line, "model name")) return std::string(trim(line.substr(line.find(':') + 1)));
  return "unknown CPU";
}

/// FNV-1a over the text, for names of states; equality is checked on the text itself.
std::string short_hash(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3;
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(hash));
  return hex;
}

/// Who a file is, without reading it.
io::Json file_identity(const fs::path& path) {
  std::error_code ignored;
  return {{"path", path.string()},
          {"size", fs::file_size(path, ignored)},
          {"modified", fs::last_write_time(path, ignored).time_since_epoch().count()}};
}

/// What a stage names besides the text: the hash of a stage, the identity of a file or of all in a folder.
io::Json identity_of(const Recipe& recipe, const Reference& reference) {
  if (reference.kind == Refers::kStage && reference.name != "base")
    return io::read_json(stage_directory(recipe, reference.name) / kStageFile).at("hash");
  if (reference.kind == Refers::kStage) return file_identity(fs::path(recipe.base) / "config.json");
  const fs::path path = resolve(recipe, reference.name);
  if (reference.kind == Refers::kFile) return file_identity(path);
  std::set<fs::path> files;
  std::error_code ignored;
  for (const auto& entry : fs::recursive_directory_iterator(path, ignored))
    if (entry.is_regular_file(ignored)) files.insert(entry.path());
  io::Json all = io::Json::array();
  for (const fs::path& file : files) all.push_back(file_identity(file));
  return all;
}

/// What a stage is made from: if this is the same, its folder is still right.
io::Json fingerprint(const Recipe& recipe, const Stage& stage) {
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
    json["source_file"] = file_identity(resolve(recipe, recipe.source.path));
    json["target_file"] = file_identity(resolve(recipe, recipe.target.path));
  }
  json["options"] = std::visit([](const auto& options) { return to_json(options); }, stage.options);
  for (const Reference& reference :
       std::visit([](const auto& options) { return references_of(options); }, stage.options))
    json["reads"][reference.key] = identity_of(recipe, reference);
  if (stage.from == "base")
    json["input"] = file_identity(fs::path(recipe.base) / "config.json");
  else if (!stage.from.empty())
    json["input"] = io::read_json(stage_directory(recipe, stage.from) / kStageFile).at("hash");
  return json;
}

/// stage.json when the folder is there and made from the same things, else nothing.
std::optional<io::Json> finished(const fs::path& directory, const io::Json& made_from) {
  std::error_code ignored;
  if (!fs::exists(directory / kStageFile, ignored)) return std::nullopt;
  io::Json stage = io::read_json(directory / kStageFile);
  if (!stage.is_object() || !stage.contains("made_from") || stage["made_from"] != made_from)
    return std::nullopt;
  return stage;
}

/// Makes the work folder fit for `made_from`: what another set of options left there is removed.
void prepare_work(const fs::path& work, const io::Json& made_from) {
  std::error_code ignored;
  const fs::path marker = work / "made_from.json";
  if (fs::exists(marker, ignored) && io::read_json(marker) == made_from) return;
  io::remove_tree(work);
  io::make_directories(work);
  io::write_json(marker, made_from);
}

/// Runs a stage's function, with its name in what it throws.
void run_function(const Stage& stage, StageContext& context) {
  try {
    std::visit([&](const auto& options) { run_stage(options, context); }, stage.options);
  } catch (Error& error) {
    error.add_context("stage " + stage.name);
    throw;
  }
}

/// Runs one stage that is not finished; its figures, or nothing when a signal came.
std::optional<io::Json> run_one(const Recipe& recipe, const Stage& stage, const io::Json& made_from,
                                const Ranks& ranks, int& signal) {
  const fs::path directory = stage_directory(recipe, stage.name);
  const fs::path work = directory.string() + ".work";
  prepare_work(work, made_from);
  if (trains(stage)) ranks->await(0, "preparing stage " + stage.name);
  io::AtomicDirectory out(directory);
  StageContext context{recipe, stage, out.path(), work};
  context.ranks = trains(stage) ? ranks : std::make_shared<dist::Communicator>();
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
  const io::Json file = {{"name", stage.name},
                         {"hash", short_hash(made_from.dump())},
                         {"made_from", made_from},
                         {"result", result}};
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
  StageContext context{recipe, stage, scratch.path(), directory.string() + ".work"};
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
  if (recipe.source.language == recipe.target.language)
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
  if (recipe.skip_invalid) result.summary["invalid_rows"] = count_invalid_rows(recipe);
  for (std::size_t i = 0; i < recipe.stages.size(); ++i) {
    const Stage& stage = recipe.stages[i];
    const std::string title =
        std::to_string(i + 1) + "/" + std::to_string(recipe.stages.size()) + " " + stage.name;
    const io::Json made_from = fingerprint(recipe, stage);
    const std::optional<io::Json> done = finished(stage_directory(recipe, stage.name), made_from);
    ranks->await(0, "looking at stage " + stage.name);
    (void)dist::broadcast_text(done ? kFinished : "", 0, *ranks, "whether a stage is finished");
    if (done) {
      log_info("stage ", title, ": finished before, skipped");
      add_stage(result.summary, stage.name, done->at("result"));
      continue;
    }
    log_info("stage ", title, " (", stage.type, ")");
    const std::optional<io::Json> figures = run_one(recipe, stage, made_from, ranks, result.signal);
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
