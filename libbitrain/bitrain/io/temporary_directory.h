#pragma once

#include <filesystem>
#include <string>

namespace bitrain::io {

/// A private folder (for this user alone) of a name that nobody can foresee, in TMPDIR or /tmp, which is
/// removed with all that is in it at the end of scope. What a process that was killed has left is removed by
/// the next one that makes such a folder for the same purpose.
class TemporaryDirectory {
 public:
  /// Makes "<purpose>.XXXXXX", by a `purpose` like "bitrain-launch". Throws IoError.
  explicit TemporaryDirectory(const std::string& purpose);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int lock_ = -1;  ///< The folder, locked: the system gives the lock back however this process ends.
};

}  // namespace bitrain::io
