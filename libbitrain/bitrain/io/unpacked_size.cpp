#include <bitrain/io/unpacked_size.h>

#include <optional>
#include <string_view>

#include <zstd.h>

#include <bitrain/io/file.h>

namespace bitrain::io {
namespace {

constexpr std::uint64_t kUsualRatio = 4;
constexpr std::uint64_t kMost = std::uint64_t{1} << 50U;  // A header that says more lies.

/// The sum over all frames, or nothing where one does not say.
std::optional<std::uint64_t> zstd_size(std::string_view bytes) {
  std::uint64_t sum = 0;
  while (!bytes.empty()) {
    const unsigned long long size = ZSTD_getFrameContentSize(bytes.data(), bytes.size());
    const std::size_t packed = ZSTD_findFrameCompressedSize(bytes.data(), bytes.size());
    if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR || ZSTD_isError(packed) != 0 ||
        size > kMost - sum)
      return std::nullopt;
    sum += size;
    bytes.remove_prefix(packed);
  }
  return sum;
}

/// The last four bytes of a member are its size modulo 2^32; files of several members, and of more than
/// 4 GiB, say less than they hold.
std::optional<std::uint64_t> gzip_size(std::string_view bytes) {
  if (bytes.size() < 18) return std::nullopt;
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < 4; ++i)
    size |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[bytes.size() - 4 + i])) << (8 * i);
  if (size < bytes.size()) return std::nullopt;
  return size;
}

}  // namespace

std::uint64_t unpacked_size(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  const std::string_view bytes = file.view();
  if (bytes.substr(0, 4) == "\x28\xb5\x2f\xfd") return zstd_size(bytes).value_or(kUsualRatio * bytes.size());
  if (bytes.substr(0, 2) == "\x1f\x8b") return gzip_size(bytes).value_or(kUsualRatio * bytes.size());
  return bytes.size();
}

}  // namespace bitrain::io
