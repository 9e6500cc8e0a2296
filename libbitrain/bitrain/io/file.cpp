#include <bitrain/io/file.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/io/mapping_guard.h>

namespace bitrain::io {
namespace fs = std::filesystem;
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

/// To read. Does not wait for somebody to write, as opening a pipe would.
constexpr int kReadOnly = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

/// The state of an open file. Throws IoError, naming it, for what is no regular file.
struct stat status_of_regular(const Descriptor& file, const fs::path& path) {
  // Opening a socket gives ENXIO.
  if (file.get() < 0 && errno != ENXIO) throw_io_error("open", path, errno);
  struct stat status {};
  if (file.get() >= 0 && ::fstat(file.get(), &status) != 0) throw_io_error("examine", path, errno);
  if (S_ISREG(status.st_mode)) return status;
  throw IoError("cannot read ", path.string(), ": it is ",
                S_ISDIR(status.st_mode)    ? "a folder"
                : S_ISFIFO(status.st_mode) ? "a pipe, and this must be a file; write it to one and name that"
                                           : "a device or socket, and this must be a file");
}

}  // namespace

void throw_io_error(const char* what, const fs::path& path, int error) {
  const char* advice = error == ENOSPC || error == EDQUOT ? "; free some space and run again"
                       : error == EFBIG                   ? "; the size limit of files (ulimit -f) is reached"
                       : error == ENOMEM ? "; the limit of memory (ulimit -v, or the machine's) is reached"
                                         : "";
  throw IoError("cannot ", what, " ", path.string(), ": ", std::strerror(error), advice);
}

MappedFile MappedFile::open(const fs::path& path) {
  MappedFile mapped;
  mapped.path_ = path;
  const Descriptor file(::open(path.c_str(), kReadOnly));
  const struct stat status = status_of_regular(file, path);
  mapped.identity_ = FileIdentity(path, status);
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return mapped;
  // Private and writable: a tensor over the mapping that is changed in place gets pages of its own. Few are,
  // so that no memory is set aside for all: files may be larger than that.
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
  if (data == MAP_FAILED) throw_io_error("map", path, errno);
  mapped.data_ = static_cast<const std::uint8_t*>(data);
  mapped.size_ = size;
  guard_mapping(data, size, path);
  refuse_lfs_pointer(mapped.view(), path);
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  release_mapping(data_);
  ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

void MappedFile::forget(std::size_t begin, std::size_t end) const {
  static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  begin = (begin + page - 1) / page * page;
  end = std::min(end, size_) / page * page;
  if (begin >= end) return;
  // Only memory is at stake: where the system refuses, the pages stay.
  (void)::madvise(const_cast<std::uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      identity_(std::move(other.identity_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(identity_, other.identity_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::string read_file(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), kReadOnly));
  std::string contents;
  contents.reserve(static_cast<std::size_t>(status_of_regular(file, path).st_size) + 1);
  char buffer[1 << 16];
  while (true) {
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_io_error("read", path, errno);
    if (got == 0) break;
    contents.append(buffer, static_cast<std::size_t>(got));
  }
  refuse_lfs_pointer(contents, path);
  return contents;
}

void refuse_lfs_pointer(std::string_view bytes, const fs::path& path) {
  if (bytes.substr(0, 34) != "version https://git-lfs.github.com" || bytes.size() > 1024) return;
  throw IoError(path.string(),
                ": is a pointer of Git LFS, not the file itself; fetch it with 'git lfs pull'");
}

AtomicFile::AtomicFile(fs::path final_path)
    : final_path_(std::move(final_path)),
      temporary_(std::make_unique<TemporaryName>(final_path_, TemporaryName::Kind::kFile)) {}

AtomicFile::~AtomicFile() {
  if (temporary_) ::unlink(temporary_->path().c_str());
}

void AtomicFile::write(const void* data, std::size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t wrote = ::write(temporary_->descriptor(), from, std::min<std::size_t>(size, 1 << 30));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) throw_io_error("write", final_path_, errno);
    from += wrote;
    size -= static_cast<std::size_t>(wrote);
  }
}

void AtomicFile::commit() {
  if (::fsync(temporary_->descriptor()) != 0) throw_io_error("write", final_path_, errno);
  if (::rename(temporary_->path().c_str(), final_path_.c_str()) != 0)
    throw_io_error("rename to", final_path_, errno);
  temporary_.reset();
  sync_directory(final_path_.has_parent_path() ? final_path_.parent_path() : fs::path("."));
}

void write_file_atomic(const fs::path& path, std::string_view contents) {
  AtomicFile file(path);
  file.write(contents);
  file.commit();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::path real = path;
  // A link to a folder that is not there yet: the folder is made, the link stays.
  for (int links = 0; links < 40 && fs::is_symlink(real, error) && !fs::exists(real, error); ++links)
    real = real.parent_path() / fs::read_symlink(real, error);
  fs::create_directories(real, error);
  if (error) throw_io_error("create the folder", path, error.value());
}

void link_or_copy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::create_hard_links, error);
  if (!error) return;
  remove_tree(to);
  fs::copy(from, to, fs::copy_options::recursive, error);
  if (error) throw_io_error("copy", from, error.value());
}

void sync_directory(const fs::path& path) {
  const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) throw_io_error("open the folder", path, errno);
  // Some file systems (network, overlay) cannot fsync folders: they say EINVAL, and there is nothing to do.
  if (::fsync(folder.get()) != 0 && errno != EINVAL) throw_io_error("flush the folder", path, errno);
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw_io_error("remove", path, error.value());
}

}  // namespace bitrain::io
