#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include <bitrain/io/file_identity.h>
#include <bitrain/io/temporary_name.h>

/// Files as they should be handled: mapped to read, written aside, fsynced and renamed.
namespace bitrain::io {

/// A mapping of a whole file, copied on write: what is changed in memory never reaches the file. Empty files
/// map to no bytes.
class MappedFile {
 public:
  /// Throws IoError when the file cannot be opened or mapped, is no regular file (pipes are not waited for),
  /// or is a pointer of Git LFS. Reading what somebody cuts off later ends the process: guard_mapping.
  [[nodiscard]] static MappedFile open(const std::filesystem::path& path);
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::uint8_t* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::string_view view() const { return {reinterpret_cast<const char*>(data_), size_}; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Of the file when it was opened. Its check_not_written tells whether the bytes are still those.
  [[nodiscard]] const FileIdentity& identity() const { return identity_; }

  /// Takes the pages that lie wholly in bytes [begin, end) out of the process's memory. What was read of them
  /// is read from the file again when it is needed; what was written over them is lost.
  void forget(std::size_t begin, std::size_t end) const;

 private:
  std::filesystem::path path_;
  FileIdentity identity_;
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Throws IoError when `bytes`, the content of `path`, are a pointer of Git LFS: the file itself was not
/// fetched.
void refuse_lfs_pointer(std::string_view bytes, const std::filesystem::path& path);

/// The bytes of a file. Throws IoError, also for a pointer of Git LFS.
[[nodiscard]] std::string read_file(const std::filesystem::path& path);

/// Throws IoError "cannot <what> <path>: <error>", with advice where space or a limit is the matter.
[[noreturn]] void throw_io_error(const char* what, const std::filesystem::path& path, int error);

/// A file that appears under its name only when it is whole: bytes go to a TemporaryName beside it.
class AtomicFile {
 public:
  /// Throws IoError when the file cannot be created.
  explicit AtomicFile(std::filesystem::path final_path);
  /// Removes what was written when commit was not reached.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends `size` bytes. Throws IoError, which says so when the disk is full.
  void write(const void* data, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// fsync, rename over the final name, fsync of the folder.
  void commit();

 private:
  std::filesystem::path final_path_;
  std::unique_ptr<TemporaryName> temporary_;  ///< Null: committed.
};

/// Replaces or creates `path` with `contents` through an AtomicFile.
void write_file_atomic(const std::filesystem::path& path, std::string_view contents);

/// Makes a folder and its parents. Throws IoError.
void make_directories(const std::filesystem::path& path);

/// Puts a file or a whole folder at `to`, where nothing is: by hard links where the file system has them,
/// else as copies. Throws IoError.
void link_or_copy(const std::filesystem::path& from, const std::filesystem::path& to);

/// Flushes a folder's entries to disk. Throws IoError.
void sync_directory(const std::filesystem::path& path);

/// Removes a file or a whole folder, if it is there. Throws IoError.
void remove_tree(const std::filesystem::path& path);

}  // namespace bitrain::io
