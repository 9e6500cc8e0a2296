#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
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

/// The folders of stages that lie in a run's folder, under any name: a stage may have been renamed, have
/// changed names with another one, or been numbered by an earlier version. Links are nobody's, and so is a
/// folder whose stage.json names another: somebody's copy.
class RunFolders {
 public:
  explicit RunFolders(const Recipe& recipe);

  /// Says that a folder is in use as it is.
  void keep(const std::filesystem::path& folder);
  /// A finished one with that identity, which nobody else takes then.
  [[nodiscard]] std::optional<std::filesystem::path> take_finished(const io::Json& made_from);
  /// Unfinished work that can go on as `made_from`, likewise; first that of the stage's own name.
  [[nodiscard]] std::optional<std::filesystem::path> take_work(const Recipe& recipe, const Stage& stage,
                                                               const io::Json& made_from);
  /// For a stage that begins anew: throws StateError where there is work of its name that nobody has taken
  /// (check_work), and says whether its folder will be replaced.
  void make_way(const Recipe& recipe, const Stage& stage, const io::Json& made_from) const;
  /// Says in the log what no stage has taken.
  void tell(const Recipe& recipe) const;

 private:
  struct Folder {
    std::filesystem::path path;
    std::string stage;
    bool work = false;
  };
  [[nodiscard]] bool has(const std::filesystem::path& path) const;
  std::optional<std::filesystem::path> take(std::vector<Folder>::iterator found);

  std::vector<Folder> folders_;
};

/// A folder that takes the place of another in a run's folder.
struct FolderMove {
  std::string stage;
  std::filesystem::path from;
  std::filesystem::path to;
};
/// Puts all of them in their places, which may be each other's, and has stage.json name the stage. What lies
/// there, and is not moved itself, is removed. Throws IoError.
void move_folders(std::vector<FolderMove> moves);

/// What a recipe reads and a stage of it would write over: keys, and what is wrong with them.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> reads_own_folders(const Recipe& recipe);

/// Throws StateError for a folder in the stage's place that no stage wrote, and as
/// io::check_output_directory.
void check_place(const Stage& stage, const std::filesystem::path& folder);

}  // namespace bitrain::recipe
