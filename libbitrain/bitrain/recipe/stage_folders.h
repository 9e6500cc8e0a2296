#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/recipe/content_hashes.h>
#include <bitrain/recipe/recipe.h>

/// The folders of a run: of each stage one of its name, once it is finished, and "<name>.work" as long as it
/// is not.
namespace bitrain::recipe {

/// Throws StateError when the recipe has no such stage.
[[nodiscard]] std::filesystem::path stage_directory(const Recipe& recipe, const std::string& stage);

/// Where a stage keeps what an interruption must not lose.
[[nodiscard]] std::filesystem::path work_directory(const std::filesystem::path& stage_directory);

/// Writes stage.json, by which a folder is known as finished: what it was made from, the figures, and what
/// the files in it are, so that a file that is exchanged later is noticed.
void write_stage_file(const std::filesystem::path& folder, const Stage& stage, const io::Json& made_from,
                      const io::Json& result);

/// stage.json of a folder that was made from the same things, or nothing. A stage that runs again, or was
/// made with other options that do not matter, says so. Throws StateError for a folder that no stage wrote,
/// and for a file that is not as the stage wrote it: to go on from it would be another run, to replace it
/// could lose somebody's work.
[[nodiscard]] std::optional<io::Json> finished(const Stage& stage, const std::filesystem::path& folder,
                                               const io::Json& made_from, ContentHashes& contents);

/// Folders of stages in a run's folder that have no place in its recipe as it is now: of stages that were
/// renamed or taken out, and those that earlier versions made.
class StrayFolders {
 public:
  explicit StrayFolders(const Recipe& recipe);

  /// A finished one with that identity, which then is no stray any more.
  [[nodiscard]] std::optional<std::filesystem::path> take_finished(const io::Json& made_from);
  /// Unfinished work that can go on as `made_from`, likewise. Throws StateError where there is work of a
  /// stage of that name that cannot (check_work).
  [[nodiscard]] std::optional<std::filesystem::path> take_work(const Stage& stage, const io::Json& made_from);
  /// Says in the log what is left.
  void tell() const;

 private:
  struct Folder {
    std::filesystem::path path;
    std::string stage;
    bool work = false;
  };
  std::vector<Folder> folders_;
};

}  // namespace bitrain::recipe
