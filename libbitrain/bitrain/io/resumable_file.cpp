#include <bitrain/io/resumable_file.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json_difference.h>

namespace bitrain::io {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const char* what, const fs::path& path) {
  const int error = errno;
  throw IoError("cannot ", what, " ", path.string(), ": ", std::strerror(error),
                error == ENOSPC ? "; free some space and run again" : "");
}

fs::path with_ending(fs::path path, const char* ending) {
  path += ending;
  return path;
}

}  // namespace

ResumableFile::ResumableFile(fs::path final_path, const Json& made_from)
    : final_(std::move(final_path)),
      partial_(with_ending(final_, ".partial")),
      description_(with_ending(final_, ".partial.json")) {
  std::error_code ignored;
  if (fs::is_directory(final_, ignored))
    throw ConfigError("cannot write the file ", final_.string(), ": a folder of that name is there");
  open_partial();
  try {
    resume(made_from);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

ResumableFile::~ResumableFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void ResumableFile::open_partial() {
  descriptor_ = ::open(partial_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("open", partial_);
  struct stat held {};
  struct stat named {};
  // The other process may have renamed the file since it was opened here.
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 && ::fstat(descriptor_, &held) == 0 &&
      ::stat(partial_.c_str(), &named) == 0 && held.st_ino == named.st_ino)
    return;
  ::close(std::exchange(descriptor_, -1));
  throw StateError(partial_.string(),
                   " is being written by another process: wait for it, stop it, or choose ", "another file");
}

void ResumableFile::resume(const Json& made_from) {
  const MappedFile there = MappedFile::open(partial_);
  const std::string_view text = there.view();
  // Of no text rfind gives npos, and npos + 1 is 0.
  const std::size_t whole = text.rfind('\n') + 1;
  if (whole == 0) {
    write_json(description_, made_from);
  } else {
    std::error_code ignored;
    if (!fs::exists(description_, ignored))
      throw StateError(partial_.string(), " is there, but not ", description_.filename().string(),
                       ", which would say what it was made from; remove it to begin anew");
    if (const Json earlier = read_json(description_); earlier != made_from)
      throw StateError(partial_.string(),
                       " was made from something else: ", describe(differences(earlier, made_from)),
                       "; run with what it was made from to go on, or remove it to begin anew");
  }
  lines_ = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(whole), '\n');
  if (whole < text.size() && ::ftruncate(descriptor_, static_cast<off_t>(whole)) != 0)
    fail("shorten", partial_);
}

void ResumableFile::append(std::string_view lines) {
  if (lines.empty()) return;
  if (lines.back() != '\n') throw StateError(partial_.string(), ": only whole lines may be appended");
  for (std::string_view rest = lines; !rest.empty();) {
    const ssize_t wrote = ::write(descriptor_, rest.data(), std::min<std::size_t>(rest.size(), 1 << 30));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail("write", partial_);
    rest.remove_prefix(static_cast<std::size_t>(wrote));
  }
  if (::fdatasync(descriptor_) != 0) fail("write", partial_);
  lines_ += std::count(lines.begin(), lines.end(), '\n');
}

void ResumableFile::commit() {
  if (::fsync(descriptor_) != 0) fail("write", partial_);
  if (::rename(partial_.c_str(), final_.c_str()) != 0) fail("rename to", final_);
  ::close(std::exchange(descriptor_, -1));
  remove_tree(description_);
  sync_directory(final_.has_parent_path() ? final_.parent_path() : fs::path("."));
}

}  // namespace bitrain::io
