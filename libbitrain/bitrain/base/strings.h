#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitrain {

[[nodiscard]] std::string join(const std::vector<std::string>& parts, std::string_view separator);
[[nodiscard]] std::vector<std::string> split(std::string_view text, char separator);
[[nodiscard]] std::string_view trim(std::string_view text);
[[nodiscard]] bool starts_with(std::string_view text, std::string_view prefix);
[[nodiscard]] bool ends_with(std::string_view text, std::string_view suffix);

/// A to Z in lower case, in any locale; other bytes as they are.
[[nodiscard]] std::string lower_ascii(std::string text);

/// Levenshtein distance over bytes.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `name`, or "" when none is close enough to be a likely slip.
[[nodiscard]] std::string closest_name(std::string_view name, const std::vector<std::string>& candidates);

/// " (did you mean 'x'?)" or "", for the end of an error message.
[[nodiscard]] std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

/// Byte offset of the first byte that is not valid UTF-8 (overlong forms and surrogates included), or npos.
[[nodiscard]] std::size_t find_invalid_utf8(std::string_view text);

/// "1,234,567".
[[nodiscard]] std::string with_thousands(std::int64_t number);
/// "1.5 GiB", "312 KiB".
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);
/// "1:02:03", "4:05", "12.3 s".
[[nodiscard]] std::string human_seconds(double seconds);

}  // namespace bitrain
