#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace bitrain::io {

/// Longest line that is read; a longer one is a file without line ends, or damage.
inline constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;

/// Lines of a text file or pipe: plain, gzip or zstd, told apart by their first bytes rather than by name,
/// and unpacked as they are read.
class LineReader {
 public:
  /// Throws IoError when the file cannot be read or is a pointer of Git LFS, DataError when it is no UTF-8
  /// text but something that file_kind.h knows.
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  LineReader(LineReader&&) noexcept;
  LineReader& operator=(LineReader&&) noexcept;

  /// The first bytes, unpacked: ByteReader::head.
  [[nodiscard]] std::string_view head() const;

  /// The next line, without its "\n" or "\r\n" (or "\r", where no line of the file ends otherwise), nor a
  /// byte order mark in front, which files that were joined have inside. False at the end. Bytes are not
  /// checked to be UTF-8. Throws FormatError with file and line for damaged or truncated compression and for
  /// lines over kMaxLineBytes.
  bool next(std::string& line);
  /// All that was not read yet. Throws FormatError, with the file, for damaged or truncated compression.
  [[nodiscard]] std::string read_rest();
  /// Of the line that next() gave last, from 1.
  [[nodiscard]] std::int64_t line_number() const;
  /// "file:line", for messages.
  [[nodiscard]] std::string where() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitrain::io
