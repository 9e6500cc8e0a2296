#pragma once

#include <string>
#include <utility>

namespace bitrain::dist {

/// Owns an open file of the system and closes it.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int number) : number_(number) {}
  ~FileDescriptor() { reset(); }
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    if (this != &other) {
      reset();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  /// -1 when none is open.
  [[nodiscard]] int get() const { return number_; }
  [[nodiscard]] bool is_open() const { return number_ >= 0; }
  void reset();
  /// Gives the file away: the caller closes it.
  [[nodiscard]] int release() { return std::exchange(number_, -1); }

 private:
  int number_ = -1;
};

struct Pipe {
  FileDescriptor read;
  FileDescriptor write;
};

// What these open is closed by exec, and never is 0, 1 or 2, even where a program began without those.
// They throw IoError.
[[nodiscard]] Pipe open_pipe();
/// `flags` are those of open(2); new files get mode 0666 less the umask.
[[nodiscard]] FileDescriptor open_file(const std::string& path, int flags);

}  // namespace bitrain::dist
