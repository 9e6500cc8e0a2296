#pragma once

#include <string>

#include <bitrain/io/json.h>

namespace bitrain::recipe {

/// Every key a recipe may have, with type, default, bounds and one line: of one stage type, or of all and the
/// recipe's own keys when `type` is empty. As plain text, or as Markdown (docs/recipe.md). Throws ConfigError
/// naming the nearest type for one that does not exist.
[[nodiscard]] std::string explain(const std::string& type, bool markdown);

/// The JSON schema (draft 2020-12) of recipes, for editors.
[[nodiscard]] io::Json schema();

}  // namespace bitrain::recipe
