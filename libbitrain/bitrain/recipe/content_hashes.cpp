#include <bitrain/recipe/content_hashes.h>

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <optional>
#include <set>
#include <vector>

#include <ATen/Parallel.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/io/file.h>
#include <bitrain/train/crc32c.h>

namespace bitrain::recipe {
namespace fs = std::filesystem;
namespace {

/// Of every block its CRC, and of these one hash.
std::string hash_of(const fs::path& path) {
  constexpr std::int64_t kBlock = 4 << 20;
  const io::MappedFile file = io::MappedFile::open(path);
  const auto size = static_cast<std::int64_t>(file.size());
  std::vector<std::uint32_t> blocks(static_cast<std::size_t>((size + kBlock - 1) / kBlock));
  at::parallel_for(0, static_cast<std::int64_t>(blocks.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      blocks[static_cast<std::size_t>(i)] = train::crc32c(
          file.view().substr(static_cast<std::size_t>(i * kBlock), static_cast<std::size_t>(kBlock)));
  });
  std::string text;
  for (const std::uint32_t crc : blocks) text += std::to_string(crc) + " ";
  return short_hash(text);
}

std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

std::string short_hash(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3;
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(hash));
  return hex;
}

ContentHashes::ContentHashes(fs::path memory) : memory_(std::move(memory)) {
  std::error_code ignored;
  if (!fs::exists(memory_, ignored)) return;
  try {
    known_ = io::read_json(memory_);
  } catch (const Error&) {  // It only saves time.
  }
  if (!known_.is_object()) known_ = io::Json::object();
}

io::Json ContentHashes::of_file(const fs::path& path) {
  const io::FileIdentity before = io::FileIdentity::of(path);
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0)
    throw IoError("cannot look at ", path.string(), ": ", std::strerror(errno));
  const io::Json identity = {{"size", status.st_size},
                             {"inode", status.st_ino},
                             {"device", status.st_dev},
                             {"modified", nanoseconds(status.st_mtim)},
                             {"changed", nanoseconds(status.st_ctim)}};
  const std::string key = fs::absolute(path).lexically_normal().string();
  if (const auto found = known_.find(key); found != known_.end() && found->is_object() &&
                                           found->contains("hash") &&
                                           found->value("file", io::Json()) == identity) {
    seen_.try_emplace(path, Seen{before, found->at("hash")});
    return {{"size", status.st_size}, {"hash", found->at("hash")}};
  }
  const std::string hash = hash_of(path);
  before.check_unchanged();
  seen_.try_emplace(path, Seen{before, hash});
  // What changed within the clock's grain could change again and look the same.
  if (std::time(nullptr) - status.st_ctim.tv_sec > 2) {
    known_[key] = {{"file", identity}, {"hash", hash}};
    grown_ = true;
  }
  return {{"size", status.st_size}, {"hash", hash}};
}

io::Json ContentHashes::of_folder(const fs::path& folder,
                                  const std::function<bool(const fs::path&)>& counts) {
  std::set<fs::path> files;
  std::error_code error;
  const auto options = fs::directory_options::follow_directory_symlink;
  for (fs::recursive_directory_iterator entry(folder, options, error), end; !error && entry != end;
       entry.increment(error)) {
    const bool hidden = entry->path().filename().string().front() == '.';
    if (entry->is_directory()) {
      if (hidden || entry.depth() > 8) entry.disable_recursion_pending();
    } else if (!hidden && entry->is_regular_file() && counts(entry->path().lexically_relative(folder))) {
      files.insert(entry->path());
    }
  }
  if (error) throw IoError("cannot look into ", folder.string(), ": ", error.message());
  io::Json all = io::Json::object();
  for (const fs::path& file : files) all[file.lexically_relative(folder).generic_string()] = of_file(file);
  return all;
}

void ContentHashes::check_unchanged() {
  for (auto& [path, seen] : seen_) {
    const std::optional<std::string> difference = seen.identity.difference();
    if (!difference) continue;
    const io::FileIdentity now = io::FileIdentity::of(path);
    if (now.size() != seen.identity.size() || hash_of(path) != seen.hash) seen.identity.fail(*difference);
    now.check_unchanged();  // While it was read.
    log_info(path.string(), ": ", *difference, ", but the content is the same");
    seen.identity = now;
  }
}

void ContentHashes::remember() {
  if (grown_) io::write_json(memory_, known_);
  grown_ = false;
}

}  // namespace bitrain::recipe
