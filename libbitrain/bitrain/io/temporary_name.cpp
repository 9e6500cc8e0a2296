#include <bitrain/io/temporary_name.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>

namespace bitrain::io {
namespace fs = std::filesystem;
namespace {

constexpr const char* kEnding = ".tmp-";

std::string random_digits() {
  std::uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) != sizeof bits)
    throw IoError("cannot draw a random name: ", std::strerror(errno));
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(bits));
  return digits.data();
}

/// Makes the entry and opens it; -1 and errno where that fails.
int make(const fs::path& path, TemporaryName::Kind kind) {
  if (kind == TemporaryName::Kind::kFile)
    return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (::mkdir(path.c_str(), 0777) != 0) return -1;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0 && errno == ENOENT) errno = EEXIST;  // Removed by somebody who tidies up: another name.
  return descriptor;
}

/// Whether `path` is still the entry that was opened: somebody who tidies up may have come first.
bool is_entry(const fs::path& path, int descriptor) {
  struct stat named {};
  struct stat opened {};
  return ::fstat(descriptor, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

/// Whether a name ends as TemporaryName makes it: ".tmp-" and sixteen digits. Others are somebody's own.
bool is_temporary(const std::string& name) {
  constexpr std::size_t kDigits = 16;
  const std::size_t mark = name.rfind(kEnding);
  if (mark == std::string::npos || name.size() - mark != std::strlen(kEnding) + kDigits) return false;
  return name.find_first_not_of("0123456789abcdef", name.size() - kDigits) == std::string::npos;
}

/// Whether a process holds the entry, or might.
bool in_use(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) return true;
  const bool free = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0;
  ::close(descriptor);
  return !free;
}

}  // namespace

TemporaryName::TemporaryName(const fs::path& beside, Kind kind) {
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    path_ = unused_name(beside, kEnding);
    descriptor_ = make(path_, kind);
    if (descriptor_ < 0) {
      if (errno == EEXIST) continue;
      throw_io_error("create", path_, errno);
    }
    (void)::flock(descriptor_, LOCK_EX | LOCK_NB);  // Without locks, remove_leftovers removes nothing.
    if (is_entry(path_, descriptor_)) return;
    ::close(descriptor_);
    descriptor_ = -1;
  }
  throw_io_error("create", path_, EEXIST);
}

TemporaryName::~TemporaryName() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

fs::path unused_name(const fs::path& beside, const char* ending) {
  fs::path path = beside;
  path += ending + random_digits();
  return path;
}

void remove_leftovers(const fs::path& parent) {
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!is_temporary(name) || in_use(entry->path())) continue;
    remove_tree(entry->path());
  }
}

void discard(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(path, error))) return;
  const fs::path doomed = unused_name(path, kEnding);
  fs::rename(path, doomed, error);
  remove_tree(error ? path : doomed);
}

}  // namespace bitrain::io
