#pragma once

#include <string_view>

namespace bitrain::text {

/// Whether PCRE2 (with UTF and UCP) finds what Oniguruma finds: true only where every construct of the
/// expression is known to mean the same to both, and where it matches no empty text. The common expressions
/// (GPT-2's, Llama 3's, Qwen2's, DeepSeek's) are such; whatever is not understood is not.
[[nodiscard]] bool is_plain_expression(std::string_view expression);

}  // namespace bitrain::text
