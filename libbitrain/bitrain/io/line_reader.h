#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace bitrain::io {

/// Longest line that is read; a longer one is a file without line ends, or damage.
inline constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;

/// Lines of a text file: plain, gzip or zstd, told apart by their first bytes rather than by name, and
/// decompressed as they are read.
class LineReader {
 public:
  /// Throws IoError when the file cannot be read.
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  LineReader(LineReader&&) noexcept;
  LineReader& operator=(LineReader&&) noexcept;

  /// The next line, without its "\n" or "\r\n" (nor a byte order mark at the start of the file). False at the
  /// end. Bytes are not checked to be UTF-8. Throws FormatError with file and line for damaged or truncated
  /// compression and for lines over kMaxLineBytes.
  bool next(std::string& line);
  /// Of the line that next() gave last, from 1.
  [[nodiscard]] std::int64_t line_number() const;
  /// "file:line", for messages.
  [[nodiscard]] std::string where() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitrain::io
