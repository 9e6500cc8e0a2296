#pragma once

#include <cstdint>

#include <bitrain/base/error.h>

namespace bitrain::models {

// Far beyond any model, and small enough that the bytes of all weights can be counted in 63 bits.
inline constexpr std::int64_t kMostRows = std::int64_t{1} << 26;  ///< Of a vocabulary.
/// Of hidden states and feed-forward layers.
inline constexpr std::int64_t kMostWidth = std::int64_t{1} << 20;
inline constexpr std::int64_t kMostLayers = std::int64_t{1} << 12;     ///< Layers, and heads.
inline constexpr std::int64_t kMostHeadWidth = std::int64_t{1} << 14;  ///< Of one head.
inline constexpr std::int64_t kMostPositions = std::int64_t{1} << 31;  ///< Positions of a text.

/// Throws ConfigError for a size below 1 or above `most`.
inline void check_size(const char* key, std::int64_t value, std::int64_t most) {
  if (value < 1) throw ConfigError(key, " must be at least 1, not ", value);
  if (value > most) throw ConfigError(key, " must be at most ", most, ", not ", value);
}

}  // namespace bitrain::models
