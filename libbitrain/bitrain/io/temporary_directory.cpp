#include <bitrain/io/temporary_directory.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::io {
namespace fs = std::filesystem;
namespace {

constexpr const char* kUnique = ".XXXXXX";

/// Opens a folder of this user, locked; -1 when it is another's, another process has the lock, or it is gone.
int lock_own(const fs::path& folder) {
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return -1;
  struct stat status {};
  // Between its making and its locking another process may take a folder for a dead one's and remove it.
  if (::fstat(file, &status) == 0 && status.st_uid == ::geteuid() && ::flock(file, LOCK_EX | LOCK_NB) == 0 &&
      ::fstat(file, &status) == 0 && status.st_nlink > 0)
    return file;
  ::close(file);
  return -1;
}

/// Removes folders of this purpose whose process has died.
void remove_abandoned(const fs::path& parent, const std::string& purpose) {
  const std::string begin = purpose + ".";
  const std::size_t length = purpose.size() + std::strlen(kUnique);
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.size() != length || !starts_with(name, begin)) continue;
    const int file = lock_own(entry->path());
    if (file < 0) continue;
    std::error_code ignored;
    fs::remove_all(entry->path(), ignored);
    ::close(file);
  }
}

}  // namespace

TemporaryDirectory::TemporaryDirectory(const std::string& purpose) {
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  if (error) throw IoError("no temporary folder can be made in TMPDIR or /tmp: ", error.message());
  remove_abandoned(parent, purpose);
  constexpr int kTries = 8;
  for (int i = 0; i < kTries && lock_ < 0; ++i) {
    std::string name = (parent / (purpose + kUnique)).string();
    if (::mkdtemp(name.data()) == nullptr)
      throw IoError("no temporary folder can be made in ", parent.string(), ": ", std::strerror(errno));
    path_ = name;
    lock_ = lock_own(path_);
  }
  if (lock_ < 0) throw IoError("the temporary folder ", path_.string(), " cannot be locked");
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  ::close(lock_);
}

}  // namespace bitrain::io
