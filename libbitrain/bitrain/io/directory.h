#pragma once

#include <filesystem>
#include <memory>

#include <bitrain/io/temporary_name.h>

namespace bitrain::io {

/// A folder that appears under its name only when everything in it is on disk. Files are written into
/// `path()`, a TemporaryName beside the final name, which then takes the place of what was there.
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
  std::unique_ptr<TemporaryName> made_;
  std::filesystem::path temporary_;  ///< Of made_; empty when it is gone.
  bool inside_ = false;              ///< Whether the folder is filled rather than replaced.
};

/// Looks whether a folder of this name can be written, so that hours of work do not end in an error. Throws
/// ConfigError for "", a file of that name or above it, a broken user's home ("~nobody-there"); IoError for a
/// folder that may not be written to. Leaves nothing behind.
void check_output_directory(const std::filesystem::path& path);

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

  /// Throws IoError when the folder is no longer the one that was locked: somebody removed or replaced it.
  void check() const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace bitrain::io
