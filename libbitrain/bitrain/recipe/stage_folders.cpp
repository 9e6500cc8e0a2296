#include <bitrain/recipe/stage_folders.h>

#include <algorithm>
#include <set>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json_difference.h>
#include <bitrain/recipe/fingerprint.h>
#include <bitrain/recipe/sources.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

constexpr const char* kStageFile = "stage.json";
constexpr std::string_view kWork = ".work";
constexpr std::string_view kMoving = ".moving-";

/// Whether a later stage, or another program, reads the file: logs and texts for people are not of that kind.
bool is_result(const fs::path& file) {
  static const std::set<std::string> kLogs = {kStageFile, "metrics.jsonl", "trainer_state.json"};
  static const std::set<std::string> kTexts = {".md", ".html"};
  for (const fs::path& part : file)
    if (part == "tensorboard" || starts_with(part.string(), "checkpoint-")) return false;
  return kLogs.count(file.filename().string()) == 0 && kTexts.count(file.extension().string()) == 0;
}

/// Nothing for a folder without one, or with one that says too little.
std::optional<io::Json> read_stage_file(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder / kStageFile, ignored)) return std::nullopt;
  io::Json file = io::read_json(folder / kStageFile);
  if (!file.is_object() || !file.contains("made_from") || !file.contains("result")) return std::nullopt;
  return file;
}

/// The same where anybody may have written it.
std::optional<io::Json> identity_in(const fs::path& folder, const std::string& stage) {
  try {
    const std::optional<io::Json> file = read_stage_file(folder);
    if (!file || file->value("name", "") != stage) return std::nullopt;
    return identity_of(file->at("made_from"));
  } catch (const Error&) {
    return std::nullopt;
  } catch (const io::Json::exception&) {
    return std::nullopt;
  }
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
/// before it, "2-" and the name; a move that was interrupted leaves ".moving-" there.
std::string stage_of(std::string name, bool& work) {
  work = ends_with(name, kWork);
  if (work) name.resize(name.size() - kWork.size());
  if (starts_with(name, kMoving)) name.erase(0, kMoving.size());
  const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
  const bool numbered = digits > 0 && digits <= 2 && digits + 1 < name.size() && name[digits] == '-';
  return numbered ? name.substr(digits + 1) : name;
}

/// Whether there is more in a folder than what a run or a file system leaves behind.
bool holds_files(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!starts_with(name, ".tmp-") && name != "lost+found") return true;
  }
  return false;
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
  if (!there) return std::nullopt;
  const io::Json& before = there->at("made_from");
  try {
    if (identity_of(before) != identity_of(made_from)) return std::nullopt;
  } catch (const io::Json::exception& error) {
    throw FormatError((folder / kStageFile).string(), ": is not as a stage writes it: ", error.what());
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

RunFolders::RunFolders(const Recipe& recipe) {
  std::error_code error;
  for (fs::directory_iterator entry(recipe.dir, error), end; !error && entry != end; entry.increment(error)) {
    if (!fs::is_directory(entry->symlink_status(error))) continue;
    Folder folder{entry->path(), "", false};
    folder.stage = stage_of(folder.path.filename().string(), folder.work);
    if (folder.work ? holds_work(folder.path) : identity_in(folder.path, folder.stage).has_value())
      folders_.push_back(std::move(folder));
  }
  // The order of a listing is nobody's choice.
  std::sort(folders_.begin(), folders_.end(),
            [](const Folder& a, const Folder& b) { return a.path < b.path; });
}

bool RunFolders::has(const fs::path& path) const {
  return std::any_of(folders_.begin(), folders_.end(),
                     [&](const Folder& folder) { return folder.path == path; });
}

void RunFolders::keep(const fs::path& path) {
  folders_.erase(std::remove_if(folders_.begin(), folders_.end(),
                                [&](const Folder& folder) { return folder.path == path; }),
                 folders_.end());
}

std::optional<fs::path> RunFolders::take(std::vector<Folder>::iterator found) {
  if (found == folders_.end()) return std::nullopt;
  fs::path path = found->path;
  folders_.erase(found);
  return path;
}

std::optional<fs::path> RunFolders::take_finished(const io::Json& made_from) {
  const io::Json identity = identity_of(made_from);
  return take(std::find_if(folders_.begin(), folders_.end(), [&](const Folder& folder) {
    return !folder.work && identity_in(folder.path, folder.stage) == identity;
  }));
}

std::optional<fs::path> RunFolders::take_work(const Recipe& recipe, const Stage& stage,
                                              const io::Json& made_from) {
  const auto is_work = [&](const Folder& folder) {
    return folder.work && is_work_of(stage, folder.path, made_from);
  };
  const fs::path own = work_directory(stage_directory(recipe, stage.name));
  const auto found = std::find_if(folders_.begin(), folders_.end(), [&](const Folder& folder) {
    return folder.path == own && is_work(folder);
  });
  return take(found != folders_.end() ? found : std::find_if(folders_.begin(), folders_.end(), is_work));
}

void RunFolders::make_way(const Recipe& recipe, const Stage& stage, const io::Json& made_from) const {
  const fs::path directory = stage_directory(recipe, stage.name);
  for (const Folder& folder : folders_)
    if (folder.work && folder.stage == stage.name) check_work(stage, folder.path, made_from);
  if (!has(directory)) return;
  const io::Json before = read_stage_file(directory)->at("made_from");
  log_info("stage ", stage.name, ": ", directory.string(), " was made otherwise and will be replaced: ",
           describe_change(stage, io::differences(identity_of(before), identity_of(made_from))));
}

void RunFolders::tell(const Recipe& recipe) const {
  for (const Folder& folder : folders_) {
    if (recipe.find(folder.path.filename().string()) != nullptr) continue;  // It will be replaced.
    if (folder.work)
      log_warn(folder.path.string(),
               ": unfinished work that is of no stage of this recipe as it is now. It stays; remove it where "
               "it is "
               "not needed");
    else
      log_info(folder.path.string(), ": the result of no stage of this recipe as it is now. It stays");
  }
}

void move_folders(std::vector<FolderMove> moves) {
  const auto rename = [](const fs::path& from, const fs::path& to) {
    std::error_code error;
    fs::rename(from, to, error);
    if (error) throw IoError("cannot rename ", from.string(), " to ", to.string(), ": ", error.message());
  };
  while (!moves.empty()) {
    const auto free = std::find_if(moves.begin(), moves.end(), [&](const FolderMove& move) {
      return std::none_of(moves.begin(), moves.end(),
                          [&](const FolderMove& other) { return other.from == move.to; });
    });
    if (free == moves.end()) {  // They change places: one steps aside.
      fs::path& from = moves.front().from;
      const fs::path aside = from.parent_path() / (std::string(kMoving) + from.filename().string());
      rename(from, aside);
      from = aside;
      continue;
    }
    io::discard(free->to);
    rename(free->from, free->to);
    if (io::Json file = read_stage_file(free->to).value_or(io::Json()); file.is_object()) {
      file["name"] = free->stage;
      io::write_json(free->to / kStageFile, file);
    }
    log_info("stage ", free->stage, ": ", free->from.string(), " was made from the same things; it is ",
             free->to.string(), " now");
    moves.erase(free);
  }
}

std::vector<std::pair<std::string, std::string>> reads_own_folders(const Recipe& recipe) {
  std::vector<std::pair<std::string, std::string>> found;
  const auto look = [&](const std::string& key, const fs::path& path) {
    std::error_code error;
    const fs::path place = fs::weakly_canonical(path, error);
    if (path.empty() || error) return;
    for (const Stage& stage : recipe.stages) {
      const fs::path folder = fs::weakly_canonical(stage_directory(recipe, stage.name), error);
      const auto ends = std::mismatch(folder.begin(), folder.end(), place.begin(), place.end());
      if (!error && ends.first == folder.end())
        found.emplace_back(key, to_text(path.string(), " lies in the folder that stage '", stage.name,
                                        "' of this run writes over: give the run another dir"));
    }
  };
  look("base", recipe.base);
  for (const InputFile& file : input_files(recipe)) look(file.key, file.options.path);
  for (const Stage& stage : recipe.stages)
    for (const Reference& reference : references_of(stage))
      if (reference.kind == Refers::kFile || reference.kind == Refers::kFolder)
        look("stages." + stage.name + "." + reference.key, resolve(recipe, reference.name));
  return found;
}

void check_place(const Stage& stage, const fs::path& folder) {
  io::check_output_directory(folder);
  std::error_code ignored;
  if (fs::is_directory(folder, ignored) && holds_files(folder) && !read_stage_file(folder))
    throw StateError("stage ", stage.name, ": ", folder.string(),
                     " is there, and no stage wrote it (it has no ", kStageFile,
                     "): move it away, or give the stage another name");
}

}  // namespace bitrain::recipe
