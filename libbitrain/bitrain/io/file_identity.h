#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

struct stat;

namespace bitrain::io {

/// What tells one state of a file from another without reading it: size, time of the last modification, and
/// which file it is (device and inode).
class FileIdentity {
 public:
  /// Of no file, which never changes.
  FileIdentity() = default;
  /// As `status` has it, of the file that was opened under `path`.
  FileIdentity(std::filesystem::path path, const struct stat& status);
  /// Of the file now. Throws IoError.
  [[nodiscard]] static FileIdentity of(const std::filesystem::path& path);

  [[nodiscard]] std::int64_t size() const { return state_.size; }

  /// What differs where the path leads to another state now ("it had 3 bytes and has 4"). A file that is gone
  /// has not changed: who holds it open reads on, and who opens it again learns that it is gone.
  [[nodiscard]] std::optional<std::string> difference() const;
  /// Throws IoError, naming the file and the difference, where there is one.
  void check_unchanged() const;
  /// The same for who has the file mapped or open: another file in its place does not matter to them.
  void check_not_written() const;
  /// Throws the IoError of check_unchanged.
  [[noreturn]] void fail(const std::string& difference) const;

 private:
  struct State {
    std::int64_t size = 0;
    std::int64_t modified = 0;  ///< Nanoseconds since 1970.
    std::uint64_t device = 0;
    std::uint64_t inode = 0;

    [[nodiscard]] bool is_same_file(const State& other) const;
  };
  [[nodiscard]] static State state_of(const struct stat& status);
  /// Nothing where there is no file.
  [[nodiscard]] static std::optional<State> state_now(const std::filesystem::path& path);
  [[nodiscard]] std::optional<std::string> difference_to(const State& now) const;

  std::filesystem::path path_;
  State state_;
};

}  // namespace bitrain::io
