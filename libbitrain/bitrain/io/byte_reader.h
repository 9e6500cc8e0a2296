#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string_view>

namespace bitrain::io {

/// What a path leads to, as far as readers care.
enum class PathKind { kFile, kPipe, kFolder, kDevice, kMissing };
[[nodiscard]] PathKind kind_of(const std::filesystem::path& path);

/// Whether a file that begins with `first` is to be unpacked: its bytes are those of gzip or zstd (a
/// skippable frame of zstd too), or all there is of them in a file of such a name.
[[nodiscard]] bool is_packed(const std::filesystem::path& path, std::string_view first);

/// The bytes of a file or pipe, unpacked while they are read where they are gzip or zstd, which is told by
/// the first bytes rather than by the name. Gzip members and zstd frames one after the other are one text;
/// zeros behind a gzip member and skippable frames of zstd are passed over; windows of zstd go up to 2 GiB.
class ByteReader {
 public:
  /// Throws IoError for what cannot be read: nothing there, a folder, a device.
  explicit ByteReader(const std::filesystem::path& path);
  ~ByteReader();
  ByteReader(ByteReader&&) noexcept;
  ByteReader& operator=(ByteReader&&) noexcept;

  /// The first kHeadBytes (file_kind.h) unpacked, or all where there are fewer; reading begins with them too.
  /// Where the data are damaged within them, those before.
  [[nodiscard]] std::string_view head() const;

  /// Fills up to `size` bytes; 0 at the end. Throws FormatError, without file and line, for damaged and for
  /// truncated data and for what follows them, UnsupportedError where there is too little memory to unpack
  /// them; IoError where the system refuses.
  std::size_t read(char* to, std::size_t size);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitrain::io
