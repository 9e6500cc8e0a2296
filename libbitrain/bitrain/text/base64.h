#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bitrain::text {

[[nodiscard]] std::string to_base64(std::string_view bytes);
/// Nothing for text that is not base64.
[[nodiscard]] std::optional<std::string> from_base64(std::string_view text);

}  // namespace bitrain::text
