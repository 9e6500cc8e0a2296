#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include <bitrain/io/file_identity.h>
#include <bitrain/io/json.h>

namespace bitrain::recipe {

/// What is in files, as short texts that differ when the content does. Files are read whole: a copy that
/// keeps size and time, or a training that moved a few weights, is another content. What was read is
/// remembered in a file, by size, inode and the time of the last change (ctime, which nobody can set), so
/// that a recipe that is run again does not read gigabytes for nothing.
class ContentHashes {
 public:
  /// `memory`: where to remember. A file that is not there, or damaged, is an empty memory.
  explicit ContentHashes(std::filesystem::path memory);

  /// {"size": .., "hash": ..}. Throws IoError for a file that cannot be read.
  [[nodiscard]] io::Json of_file(const std::filesystem::path& path);
  /// The same for the files below a folder that `counts` takes, by their paths in it. Hidden ones are left
  /// out.
  [[nodiscard]] io::Json of_folder(const std::filesystem::path& folder,
                                   const std::function<bool(const std::filesystem::path&)>& counts);
  /// Throws IoError, naming the file, when one that was asked for has another content than it had then. Looks
  /// at sizes and times, and reads again only what differs in them: who copies a file anew, or mounts its
  /// disk again, has not changed it.
  void check_unchanged();
  /// Writes the memory, where it has grown.
  void remember();

 private:
  struct Seen {
    io::FileIdentity identity;
    std::string hash;
  };

  std::filesystem::path memory_;
  io::Json known_ = io::Json::object();
  std::map<std::filesystem::path, Seen> seen_;
  bool grown_ = false;
};

/// FNV-1a over the text, in hexadecimal.
[[nodiscard]] std::string short_hash(const std::string& text);

}  // namespace bitrain::recipe
