#pragma once

#include <cstdint>
#include <string_view>

namespace bitrain::train {

/// CRC-32C (Castagnoli polynomial, reflected) of `bytes`; `crc` continues an earlier part.
[[nodiscard]] std::uint32_t crc32c(std::string_view bytes, std::uint32_t crc = 0);

}  // namespace bitrain::train
