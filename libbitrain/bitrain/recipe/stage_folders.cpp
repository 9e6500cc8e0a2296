#include <bitrain/recipe/stage_folders.h>

#include <algorithm>
#include <set>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json_difference.h>
#include <bitrain/recipe/fingerprint.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

constexpr const char* kStageFile = "stage.json";
constexpr std::string_view kWork = ".work";

/// Whether a later stage, or another program, reads the file: logs and texts for people are not of that kind.
bool is_result(const fs::path& file) {
  static const std::set<std::string> kLogs = {kStageFile, "metrics.jsonl", "trainer_state.json"};
  static const std::set<std::string> kTexts = {".md", ".html"};
  for (const fs::path& part : file)
    if (part == "tensorboard" || starts_with(part.string(), "checkpoint-")) return false;
  return kLogs.count(file.filename().string()) == 0 && kTexts.count(file.extension().string()) == 0;
}

std::optional<io::Json> read_stage_file(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder / kStageFile, ignored)) return std::nullopt;
  io::Json file = io::read_json(folder / kStageFile);
  if (!file.is_object() || !file.contains("made_from") || !file.contains("result")) return std::nullopt;
  return file;
}

/// What happened to the files of a folder since its stage wrote them; "" if nothing did.
std::string find_change(const fs::path& folder, const io::Json& wrote, ContentHashes& contents) {
  const io::Json is = contents.of_folder(folder, is_result);
  for (const auto& [file, content] : wrote.items()) {
    if (!is.contains(file)) return file + " is missing";
    if (is.at(file) != content) return file + " is not as the stage wrote it";
  }
  for (const auto& [file, content] : is.items())
    if (!wrote.contains(file) && counts_for_a_model(file)) return file + " was added";
  return "";
}

/// The stage that a folder, or its unfinished work, is named after. Earlier versions put the stage's number
/// before it: "2-" and the name.
std::string stage_of(std::string name, bool& work) {
  work = ends_with(name, kWork);
  if (work) name.resize(name.size() - kWork.size());
  const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  const bool numbered = digits > 0 && digits + 1 < name.size() && name[digits] == '-';
  return numbered ? name.substr(digits + 1) : name;
}

}  // namespace

fs::path stage_directory(const Recipe& recipe, const std::string& stage) {
  if (recipe.find(stage) == nullptr) throw StateError("there is no stage '", stage, "'");
  return fs::path(recipe.dir) / stage;
}

fs::path work_directory(const fs::path& stage_directory) {
  return stage_directory.string() + std::string(kWork);
}

void write_stage_file(const fs::path& folder, const Stage& stage, const io::Json& made_from,
                      const io::Json& result) {
  // Names of a folder that is not in its place yet are not worth remembering.
  ContentHashes contents{fs::path()};
  io::write_json(folder / kStageFile, {{"name", stage.name},
                                       {"hash", hash_of(made_from)},
                                       {"made_from", made_from},
                                       {"contents", contents.of_folder(folder, is_result)},
                                       {"result", result}});
}

std::optional<io::Json> finished(const Stage& stage, const fs::path& folder, const io::Json& made_from,
                                 ContentHashes& contents) {
  std::optional<io::Json> there = read_stage_file(folder);
  std::error_code ignored;
  if (!there && fs::is_directory(folder, ignored) && !fs::is_empty(folder, ignored))
    throw StateError("stage ", stage.name, ": ", folder.string(),
                     " is there, and no stage wrote it (it has no ", kStageFile,
                     "): move it away, or give the stage another name");
  if (!there) return std::nullopt;
  const io::Json& before = there->at("made_from");
  if (const auto differences = io::differences(identity_of(before), identity_of(made_from));
      !differences.empty()) {
    log_info("stage ", stage.name, ": ", folder.string(),
             " was made otherwise and will be replaced: ", describe_change(stage, differences));
    return std::nullopt;
  }
  if (there->contains("contents"))
    if (const std::string change = find_change(folder, there->at("contents"), contents); !change.empty())
      throw StateError("stage ", stage.name, ": ", folder.string(),
                       " was changed after the stage was finished: ", change,
                       ". Put it back as it was, or remove the folder, so that the stage runs again. To "
                       "train on from the changed files, copy them to another folder and name that as base");
  if (const auto differences = io::differences(before, made_from); !differences.empty())
    log_info("stage ", stage.name,
             ": stays as it was made, with other values that change no step: ", io::describe(differences));
  return there;
}

StrayFolders::StrayFolders(const Recipe& recipe) {
  std::set<fs::path> places;
  for (const Stage& stage : recipe.stages) {
    const fs::path directory = stage_directory(recipe, stage.name);
    places.insert(directory.filename());
    places.insert(work_directory(directory).filename());
  }
  std::error_code error;
  for (fs::directory_iterator entry(recipe.dir, error), end; !error && entry != end; entry.increment(error)) {
    Folder folder{entry->path(), "", false};
    folder.stage = stage_of(folder.path.filename().string(), folder.work);
    if (!entry->is_directory(error) || places.count(folder.path.filename()) != 0) continue;
    if (folder.work ? holds_work(folder.path) : read_stage_file(folder.path).has_value())
      folders_.push_back(std::move(folder));
  }
  // The order of a listing is nobody's choice.
  std::sort(folders_.begin(), folders_.end(),
            [](const Folder& a, const Folder& b) { return a.path < b.path; });
}

std::optional<fs::path> StrayFolders::take_finished(const io::Json& made_from) {
  const io::Json identity = identity_of(made_from);
  const auto found = std::find_if(folders_.begin(), folders_.end(), [&](const Folder& folder) {
    return !folder.work && identity_of(read_stage_file(folder.path)->at("made_from")) == identity;
  });
  if (found == folders_.end()) return std::nullopt;
  fs::path path = found->path;
  folders_.erase(found);
  return path;
}

std::optional<fs::path> StrayFolders::take_work(const Stage& stage, const io::Json& made_from) {
  auto found = std::find_if(folders_.begin(), folders_.end(), [&](const Folder& folder) {
    return folder.work && is_work_of(stage, folder.path, made_from);
  });
  if (found == folders_.end()) {
    found = std::find_if(folders_.begin(), folders_.end(),
                         [&](const Folder& folder) { return folder.work && folder.stage == stage.name; });
    if (found == folders_.end()) return std::nullopt;
    check_work(stage, found->path, made_from);
  }
  fs::path path = found->path;
  folders_.erase(found);
  return path;
}

void StrayFolders::tell() const {
  for (const Folder& folder : folders_) {
    if (folder.work)
      log_warn(folder.path.string(),
               ": unfinished work that is of no stage of this recipe as it is now. It stays; remove it where "
               "it is "
               "not needed");
    else
      log_info(folder.path.string(), ": the result of no stage of this recipe as it is now. It stays");
  }
}

}  // namespace bitrain::recipe
