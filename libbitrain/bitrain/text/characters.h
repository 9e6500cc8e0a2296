#pragma once

#include <cstdint>

/// Classes of Unicode characters.
namespace bitrain::text {

enum class CharacterClass { kLetter, kMark, kDigit, kPunctuation, kSymbol, kSpace, kOther };

/// By general category; kDigit is every number (Nd, Nl, No), kSpace what has the property White_Space.
[[nodiscard]] CharacterClass class_of(std::uint32_t code);

}  // namespace bitrain::text
