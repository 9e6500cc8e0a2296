#pragma once

#include <string>
#include <string_view>

namespace bitrain {

/// The text as it may be written to a terminal, whoever wrote it: control characters, which could move the
/// cursor, clear the screen or type commands, and those that change the direction of all that follows or
/// break lines unseen are spelt out ("\x1b", "\u202e"), and so are bytes that are not UTF-8. New lines and
/// tabs stay, as does every other character.
[[nodiscard]] std::string printable(std::string_view text);

/// The text, or its beginning and how much more there is: "abc... (97 bytes more)". Cuts between characters.
[[nodiscard]] std::string shortened(std::string_view text, std::size_t most_bytes);

}  // namespace bitrain
