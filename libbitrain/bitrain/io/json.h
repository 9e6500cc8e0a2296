#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace bitrain::io {

/// JSON that keeps the order of its keys, so that files are written as they were built.
using Json = nlohmann::ordered_json;

/// Deepest nesting of arrays and objects that is accepted.
inline constexpr int kMaxJsonDepth = 128;

/// Parses one JSON document. Throws FormatError, with `name` (where it is not empty) and the byte where it
/// went wrong, for anything that is not JSON: bad UTF-8, a key used twice in one object, nesting deeper than
/// kMaxJsonDepth, text after the end.
[[nodiscard]] Json parse_json(std::string_view text, const std::string& name);

/// Parses the file at `path`. Throws IoError when it cannot be read, else as parse_json.
[[nodiscard]] Json read_json(const std::filesystem::path& path);

/// Writes `value` with an indent of two and a final newline, aside and renamed. Bytes that are not UTF-8
/// become U+FFFD.
void write_json(const std::filesystem::path& path, const Json& value);

}  // namespace bitrain::io
