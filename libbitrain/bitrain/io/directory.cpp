#include <bitrain/io/directory.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <string>
#include <system_error>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/io/home.h>

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

/// The whole path behind links, "." and "..", also of what is not there yet.
fs::path resolved(const fs::path& path) {
  if (path.empty()) throw ConfigError("the name of a folder to write is empty");
  fs::path real = fs::absolute(expand_home(path.string()));
  std::error_code error;
  for (int links = 0; fs::is_symlink(real, error); ++links) {
    if (links > 40) throw ConfigError(path.string(), ": too many symbolic links");
    const fs::path target = fs::read_symlink(real, error);
    if (error) throw IoError("cannot read the link ", real.string(), ": ", error.message());
    real = target.is_absolute() ? target : real.parent_path() / target;
  }
  real = fs::weakly_canonical(real, error);
  if (error) throw IoError("cannot look at ", path.string(), ": ", error.message());
  return real.has_filename() ? real : real.parent_path();
}

/// The nearest folder that is there, of `path` and those above it.
fs::path nearest(fs::path path) {
  std::error_code error;
  while (!fs::exists(path, error) && path != path.parent_path()) path = path.parent_path();
  return path;
}

bool writable(const fs::path& folder) {
  return ::access(folder.c_str(), W_OK | X_OK) == 0;
}

bool is_mount_point(const fs::path& folder) {
  struct statx found {};
  if (::statx(AT_FDCWD, folder.c_str(), 0, STATX_BASIC_STATS, &found) == 0 &&
      (found.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0)
    return (found.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
  struct stat own {};
  struct stat above {};
  return ::stat(folder.c_str(), &own) == 0 && ::stat(parent_of(folder).c_str(), &above) == 0 &&
         own.st_dev != above.st_dev;
}

/// Whether the working directory is this folder or inside it: replaced, it would be gone under a shell's
/// feet.
bool holds_working_directory(const fs::path& folder) {
  std::error_code error;
  const fs::path here = fs::current_path(error);
  if (error) return false;
  const auto [end, unused] = std::mismatch(folder.begin(), folder.end(), here.begin(), here.end());
  return end == folder.end();
}

bool must_be_filled(const fs::path& folder) {
  std::error_code error;
  return fs::is_directory(folder, error) &&
         (is_mount_point(folder) || holds_working_directory(folder) || !writable(parent_of(folder)));
}

/// What readers of Hugging Face folders look for by its name.
bool is_part_of_a_model(const fs::path& name) {
  static const std::set<std::string> kNames = {"config.json",
                                               "generation_config.json",
                                               "tokenizer.json",
                                               "tokenizer_config.json",
                                               "special_tokens_map.json",
                                               "added_tokens.json",
                                               "tokenizer.model",
                                               "sentencepiece.bpe.model",
                                               "spiece.model",
                                               "vocab.txt",
                                               "vocab.json",
                                               "merges.txt",
                                               "chat_template.jinja",
                                               "chat_template.json",
                                               "adapter_config.json",
                                               "modules.json",
                                               "sentence_bert_config.json",
                                               "config_sentence_transformers.json"};
  return kNames.count(name.string()) != 0 || name.extension() == ".safetensors" ||
         ends_with(name.string(), ".safetensors.index.json");
}

/// Renames, or copies where the two are on different file systems.
int move_into_place(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return 0;
  std::error_code error;
  if (errno == ENOTEMPTY || errno == EEXIST || errno == EISDIR || errno == ENOTDIR) {
    fs::remove_all(to, error);
    if (error) return error.value();
    if (::rename(from.c_str(), to.c_str()) == 0) return 0;
  }
  if (errno != EXDEV) return errno;
  const fs::path beside = unused_name(to, ".tmp-");
  fs::copy(from, beside, fs::copy_options::recursive, error);
  if (error) return error.value();
  fs::remove_all(to, error);
  if (::rename(beside.c_str(), to.c_str()) != 0) return errno;
  fs::remove_all(from, error);
  return 0;
}

}  // namespace

void check_output_directory(const fs::path& path) {
  const fs::path real = resolved(path);
  const fs::path there = nearest(real);
  std::error_code error;
  const std::string asked = path == real ? "" : " (asked for: " + path.string() + ")";
  if (!fs::is_directory(there, error))
    throw ConfigError("cannot write the folder ", real.string(), asked, ": ",
                      there == real ? "a file of that name is there" : there.string() + " is a file",
                      "; remove it or choose another name");
  const fs::path writes_into = there != real || must_be_filled(real) ? there : parent_of(real);
  if (!writable(writes_into))
    throw IoError("cannot write the folder ", real.string(), asked, ": ", writes_into.string(),
                  " may not be written to: ", std::strerror(errno));
  // Some file systems (/proc, full ones) give no folder though they allow to write.
  fs::path probe;
  try {
    probe = TemporaryName(writes_into / "", TemporaryName::Kind::kFolder).path();
  } catch (IoError& problem) {
    problem.add_context("cannot write the folder " + real.string() + asked);
    throw;
  }
  remove_tree(probe);
}

AtomicDirectory::AtomicDirectory(fs::path final_path) {
  check_output_directory(final_path);
  final_path_ = resolved(final_path);
  inside_ = must_be_filled(final_path_);
  if (inside_) remove_leftovers(final_path_);
  make_directories(inside_ ? final_path_ : parent_of(final_path_));
  made_ =
      std::make_unique<TemporaryName>(inside_ ? final_path_ / "" : final_path_, TemporaryName::Kind::kFolder);
  temporary_ = made_->path();
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::keep(int error, bool partly_moved) {
  // remove_leftovers would take the temporary name for rubbish.
  fs::path kept = unused_name(inside_ ? final_path_ / "" : final_path_, ".finished-");
  if (::rename(temporary_.c_str(), kept.c_str()) != 0) kept = temporary_;
  temporary_.clear();
  throw IoError("cannot put the folder ", final_path_.string(), " in its place: ", std::strerror(error),
                "; what was computed is in ", kept.string(),
                partly_moved ? ", but for the files that are in their places already" : "");
}

void AtomicDirectory::replace() {
  if (::rename(temporary_.c_str(), final_path_.c_str()) == 0) {
    temporary_.clear();
    return;
  }
  if (errno == EBUSY || errno == EXDEV) {  // A mount that did not look like one.
    fill();
    return;
  }
  if (errno != EEXIST && errno != ENOTEMPTY) keep(errno);
  // Something is there: exchange the two, so that at every moment a whole folder has the name.
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno == EBUSY || errno == EXDEV) {
    fill();
    return;
  }
  if (errno != EINVAL && errno != ENOSYS) keep(errno);
  std::error_code error;
  fs::remove_all(final_path_, error);
  if (error) keep(error.value());
  if (::rename(temporary_.c_str(), final_path_.c_str()) != 0) keep(errno);
  temporary_.clear();
}

void AtomicDirectory::fill() {
  std::error_code error;
  std::set<fs::path> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(temporary_))
    names.insert(entry.path().filename());
  for (const fs::directory_entry& entry : fs::directory_iterator(final_path_)) {
    const fs::path name = entry.path().filename();
    if (names.count(name) == 0 && is_part_of_a_model(name)) fs::remove(entry.path(), error);
    if (error) keep(error.value());
  }
  for (const fs::path& name : names)
    if (const int problem = move_into_place(temporary_ / name, final_path_ / name); problem != 0)
      keep(problem, true);
  sync_directory(final_path_);
}

void AtomicDirectory::commit() {
  try {
    sync_tree(temporary_);
  } catch (const fs::filesystem_error& error) {
    throw IoError("cannot flush ", temporary_.string(), ": ", error.code().message());
  }
  if (inside_)
    fill();
  else
    replace();
  sync_directory(parent_of(final_path_));
}

DirectoryLock::DirectoryLock(const fs::path& directory) : path_(directory / ".lock") {
  make_directories(directory);
  const fs::path& path = path_;
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

void DirectoryLock::check() const {
  struct stat named {};
  struct stat held {};
  if (::fstat(descriptor_, &held) == 0 && ::stat(path_.c_str(), &named) == 0 && named.st_ino == held.st_ino &&
      named.st_dev == held.st_dev)
    return;
  throw IoError(path_.parent_path().string(),
                ": this folder was removed, renamed or replaced while it was being written to");
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace bitrain::io
