#pragma once

#include <cstdint>
#include <filesystem>

namespace bitrain::io {

/// Bytes of a file as a reader unpacks it. Of .zst and .gz it is what their headers and trailers say, without
/// unpacking; where they do not say it, four times the size, as text packs. Of others their size. Throws
/// IoError when the file cannot be read.
[[nodiscard]] std::uint64_t unpacked_size(const std::filesystem::path& path);

}  // namespace bitrain::io
