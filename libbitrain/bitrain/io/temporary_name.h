#pragma once

#include <filesystem>

/// Names under which files and folders are written before they get their own, and what is left of them when a
/// process is killed.
namespace bitrain::io {

/// A new file or folder "<beside>.tmp-<random>", made exclusively: no other process, also none of the same
/// pid in another container, has it. While the object lives the entry is locked (flock), so that
/// remove_leftovers knows that it is in use; the system gives the lock back even after kill -9. The entry
/// itself stays.
class TemporaryName {
 public:
  enum class Kind { kFile, kFolder };
  /// Throws IoError.
  TemporaryName(const std::filesystem::path& beside, Kind kind);
  ~TemporaryName();
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Of a file, to write to.
  [[nodiscard]] int descriptor() const { return descriptor_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// "<beside><ending><random>", where nothing is.
[[nodiscard]] std::filesystem::path unused_name(const std::filesystem::path& beside, const char* ending);

/// Removes entries of `parent` that a killed process left under temporary names: those that nobody has
/// locked. Where the file system has no locks, all stay.
void remove_leftovers(const std::filesystem::path& parent);

/// Removes a file or folder, if it is there, in a way that leaves nothing half removed under its name: it
/// gets a temporary name first. Throws IoError.
void discard(const std::filesystem::path& path);

}  // namespace bitrain::io
