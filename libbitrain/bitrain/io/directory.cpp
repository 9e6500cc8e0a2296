#include <bitrain/io/directory.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>

namespace bitrain::io {
namespace fs = std::filesystem;
namespace {

void sync_tree(const fs::path& root) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    if (entry.is_directory()) {
      sync_directory(entry.path());
      continue;
    }
    if (!entry.is_regular_file()) continue;
    const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    const bool synced = file >= 0 && ::fsync(file) == 0;
    const int error = errno;
    if (file >= 0) ::close(file);
    if (!synced) throw IoError("cannot flush ", entry.path().string(), ": ", std::strerror(error));
  }
  sync_directory(root);
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

AtomicDirectory::AtomicDirectory(fs::path final_path) : final_path_(std::move(final_path)) {
  if (!final_path_.has_filename()) final_path_ = final_path_.parent_path();
  static std::atomic<int> counter{0};
  temporary_ = final_path_;
  temporary_ += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
  make_directories(temporary_);
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  try {
    sync_tree(temporary_);
  } catch (const fs::filesystem_error& error) {
    throw IoError("cannot flush ", temporary_.string(), ": ", error.code().message());
  }
  if (::rename(temporary_.c_str(), final_path_.c_str()) == 0) {
    temporary_.clear();
  } else if (errno == EEXIST || errno == ENOTEMPTY) {
    // Something is there: exchange the two, so that at every moment a whole folder has the name.
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) != 0) {
      if (errno != EINVAL && errno != ENOSYS)
        throw IoError("cannot replace ", final_path_.string(), ": ", std::strerror(errno));
      remove_tree(final_path_);
      if (::rename(temporary_.c_str(), final_path_.c_str()) != 0)
        throw IoError("cannot rename to ", final_path_.string(), ": ", std::strerror(errno));
      temporary_.clear();
    }
  } else {
    throw IoError("cannot rename to ", final_path_.string(), ": ", std::strerror(errno));
  }
  sync_directory(parent_of(final_path_));
}

void remove_leftovers(const fs::path& parent) {
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const std::size_t mark = name.rfind(".tmp-");
    if (mark == std::string::npos) continue;
    const long pid = std::strtol(name.c_str() + mark + 5, nullptr, 10);
    if (pid <= 0 || ::kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH) continue;
    remove_tree(entry->path());
  }
}

DirectoryLock::DirectoryLock(const fs::path& directory) {
  make_directories(directory);
  const fs::path path = directory / ".lock";
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw IoError("cannot open ", path.string(), ": ", std::strerror(errno));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    char text[32] = {};
    const ssize_t got = ::read(descriptor_, text, sizeof text - 1);
    ::close(descriptor_);
    descriptor_ = -1;
    throw StateError(
        directory.string(), " is in use by another run",
        got > 0 ? " (process " + std::string(text, std::strcspn(text, "\n")) + ")" : std::string(),
        ": wait for it, stop it, or choose another folder");
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(descriptor_, 0) != 0 || ::write(descriptor_, pid.data(), pid.size()) < 0) {
    // The pid is only for the other run's message; the lock holds without it (as on a full disk).
  }
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace bitrain::io
