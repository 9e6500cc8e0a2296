#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/io/json.h>

/// What values of JSON rows say, and how messages name them.
namespace bitrain::data {

/// "a list", "null", "a number", ..., for messages.
[[nodiscard]] const char* kind_of_json(const io::Json& value);

/// Whether a value says nothing: null, a blank text or one that writes an empty value ("[]", "{}", "null"),
/// or a list or object of such values alone.
[[nodiscard]] bool says_nothing(const io::Json& value);

[[nodiscard]] bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words);

/// A key in a jq filter between single quotes of a shell: .name, or ."other name".
[[nodiscard]] std::string jq_key(const std::string& key);

/// A key in small letters, without what only parts words: "System-Prompt" is "systemprompt".
[[nodiscard]] std::string plain_name(std::string_view key);

/// All texts in a value, numbers among them; of messages their contents alone.
[[nodiscard]] std::vector<std::string> texts_in(const io::Json& value);

/// Whether `part` is in `whole`, as words of it rather than within one.
[[nodiscard]] bool has_words(std::string_view whole, std::string_view part);

/// What a mark such as `weight` or `train` says of a turn: true for "learn it" (true, 1, "1", null), false
/// for "do not" (false, 0, "no"), nothing for anything else (0.5, a list).
[[nodiscard]] std::optional<bool> mark_of(const io::Json& value);

}  // namespace bitrain::data
