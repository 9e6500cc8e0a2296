#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bitrain::text {

/// Words of a text for lexical search: runs of letters, marks and digits, in lower case; Han, Hiragana and
/// Katakana characters stand alone. Bytes that are not UTF-8 part words.
[[nodiscard]] std::vector<std::string> lexical_words(std::string_view text);

}  // namespace bitrain::text
