#include <bitrain/io/file_identity.h>

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <bitrain/base/error.h>

namespace bitrain::io {
namespace fs = std::filesystem;

bool FileIdentity::State::is_same_file(const State& other) const {
  return inode == other.inode && device == other.device;
}

FileIdentity::State FileIdentity::state_of(const struct stat& status) {
  return {status.st_size, std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
          status.st_dev, status.st_ino};
}

std::optional<FileIdentity::State> FileIdentity::state_now(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return state_of(status);
  if (errno == ENOENT) return std::nullopt;
  throw IoError("cannot look at ", path.string(), ": ", std::strerror(errno));
}

FileIdentity::FileIdentity(fs::path path, const struct stat& status)
    : path_(std::move(path)), state_(state_of(status)) {}

FileIdentity FileIdentity::of(const fs::path& path) {
  const std::optional<State> now = state_now(path);
  if (!now) throw IoError("cannot open ", path.string(), ": ", std::strerror(ENOENT));
  FileIdentity identity;
  identity.path_ = path;
  identity.state_ = *now;
  return identity;
}

std::optional<std::string> FileIdentity::difference_to(const State& now) const {
  if (now.size != state_.size) return to_text("it had ", state_.size, " bytes and has ", now.size);
  if (!now.is_same_file(state_)) return "another file has taken its place";
  if (now.modified != state_.modified) return "it was written to";
  return std::nullopt;
}

std::optional<std::string> FileIdentity::difference() const {
  const std::optional<State> now = state_now(path_);
  return now ? difference_to(*now) : std::nullopt;
}

void FileIdentity::check_unchanged() const {
  if (const std::optional<std::string> found = difference()) fail(*found);
}

void FileIdentity::check_not_written() const {
  if (path_.empty()) return;
  const std::optional<State> now = state_now(path_);
  if (!now || !now->is_same_file(state_)) return;
  if (const std::optional<std::string> found = difference_to(*now)) fail(*found);
}

void FileIdentity::fail(const std::string& difference) const {
  throw IoError(path_.string(), ": changed while it was in use: ", difference,
                "; run again once nothing writes to it");
}

}  // namespace bitrain::io
