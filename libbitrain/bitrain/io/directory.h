#pragma once

#include <filesystem>

namespace bitrain::io {

/// A folder that appears under its name only when everything in it is on disk. Files are written into
/// `path()`, "<name>.tmp-<pid>-<n>" beside the final name.
class AtomicDirectory {
 public:
  /// Throws IoError when the folder cannot be made.
  explicit AtomicDirectory(std::filesystem::path final_path);
  /// Removes the unfinished folder when commit was not reached.
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit.
  [[nodiscard]] const std::filesystem::path& path() const { return temporary_; }
  /// Flushes every file and folder, then swaps the folder with what was under the final name (in one system
  /// call where the file system can), and removes that.
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path temporary_;
};

/// Removes what an interrupted AtomicDirectory or AtomicFile left in `parent`: entries named
/// "*.tmp-<pid>-<n>" of processes that no longer live.
void remove_leftovers(const std::filesystem::path& parent);

/// Exclusive use of a folder: two runs in one folder would destroy each other's work. Held by a lock on
/// "<folder>/.lock", which the system gives back even after kill -9.
class DirectoryLock {
 public:
  /// Makes the folder where needed. Throws StateError naming the other process when it is taken, IoError when
  /// the file cannot be made.
  explicit DirectoryLock(const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace bitrain::io
