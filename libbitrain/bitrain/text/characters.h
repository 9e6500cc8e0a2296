#pragma once

#include <cstdint>

/// Classes and case of Unicode characters.
namespace bitrain::text {

enum class CharacterClass { kLetter, kMark, kDigit, kPunctuation, kSymbol, kSpace, kOther };

/// By general category; kDigit is every number (Nd, Nl, No), kSpace what has the property White_Space.
[[nodiscard]] CharacterClass class_of(std::uint32_t code);

/// Whether `\w` of Rust's regex crate matches it: letters, marks, decimal and letter numbers, connecting
/// punctuation, the joiners and letters in circles and squares.
[[nodiscard]] bool is_word_character(std::uint32_t code);

/// Whether it is a small letter (Ll). Letters of scripts without case are not.
[[nodiscard]] bool is_small_letter(std::uint32_t code);

/// The lower case that is one character; U+0130 alone has one of two ("i" and U+0307) and stays.
[[nodiscard]] std::uint32_t lower_case(std::uint32_t code);

}  // namespace bitrain::text
