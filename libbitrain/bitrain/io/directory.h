#pragma once

#include <filesystem>

namespace bitrain::io {

/// A folder that appears under its name only when everything in it is on disk. Files are written into
/// `path()`, "<name>.tmp-<pid>-<n>" beside the final name, which then takes the place of what was there.
///
/// A symbolic link is followed, so that it stays and what it names is replaced. A folder that cannot be
/// replaced, since it is a mount point, holds the working directory ("."), or its parent is not writable, is
/// filled: `path()` is then inside it, and each file is moved to its place. Files of other names stay, but
/// for those that a reader of model folders would take for a part of the new one (other shards, another
/// tokenizer).
class AtomicDirectory {
 public:
  /// Makes the temporary folder, after check_output_directory. A "~" is the home folder.
  explicit AtomicDirectory(std::filesystem::path final_path);
  /// Removes the unfinished folder when commit was not reached.
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// Where to write until commit.
  [[nodiscard]] const std::filesystem::path& path() const { return temporary_; }
  /// Flushes every file and folder, then swaps the folder with what was under the final name (in one system
  /// call where the file system can), and removes that. Throws IoError; where all was written and only could
  /// not take its place, it stays, and the error says under which name.
  void commit();

 private:
  void replace();
  void fill();
  [[noreturn]] void keep(int error, bool partly_moved = false);

  std::filesystem::path final_path_;
  std::filesystem::path temporary_;
  bool inside_ = false;  ///< Whether the folder is filled rather than replaced.
};

/// Looks whether a folder of this name can be written, so that hours of work do not end in an error. Throws
/// ConfigError for "", a file of that name or above it, a broken user's home ("~nobody-there"); IoError for a
/// folder that may not be written to. Makes nothing.
void check_output_directory(const std::filesystem::path& path);

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
