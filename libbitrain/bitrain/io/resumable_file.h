#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include <bitrain/io/json.h>

namespace bitrain::io {

/// A text file that a long run writes line by line and goes on with after an interruption or kill. Until it
/// is whole its lines stand in "<name>.partial", and what they are made from in "<name>.partial.json".
class ResumableFile {
 public:
  /// Opens what an earlier run left and cuts off an unfinished last line, or begins anew. `made_from`:
  /// options and inputs, whatever the lines depend on. Throws StateError, naming what differs, when the
  /// earlier run was made from something else, or when another process writes the file now; IoError.
  ResumableFile(std::filesystem::path final_path, const Json& made_from);
  /// Leaves the lines for the next run, unless commit was reached.
  ~ResumableFile();
  ResumableFile(const ResumableFile&) = delete;
  ResumableFile& operator=(const ResumableFile&) = delete;

  /// Where the lines are until commit.
  [[nodiscard]] const std::filesystem::path& partial_path() const { return partial_; }
  /// Whole lines so far, those of earlier runs included.
  [[nodiscard]] std::int64_t lines() const { return lines_; }
  /// Appends whole lines, each with its "\n", and flushes them to disk. Throws IoError.
  void append(std::string_view lines);
  /// Renames to the final name, replacing what is there.
  void commit();

 private:
  void open_partial();
  void resume(const Json& made_from);

  std::filesystem::path final_;
  std::filesystem::path partial_;
  std::filesystem::path description_;
  std::int64_t lines_ = 0;
  int descriptor_ = -1;
};

}  // namespace bitrain::io
