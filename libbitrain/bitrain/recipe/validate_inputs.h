#pragma once

#include <bitrain/recipe/document.h>
#include <bitrain/recipe/recipe.h>
#include <bitrain/recipe/validate.h>

/// What validate finds by looking into files.
namespace bitrain::recipe {

/// Where a key stands in the file, for problems that only the values together show. `document` may be null.
[[nodiscard]] Mark mark_of(const Recipe& recipe, const Node* document, const std::string& key);

/// The base must be a folder whose config.json, weights and tokenizer fit each other. Of weights only the
/// headers are read; where a tokenizer is all that is needed, who opens it looks at it.
void check_base(const Recipe& recipe, const Node* document, BaseFiles base, Problems& problems);

/// The first rows of every file that is there must be readable in the way that the recipe says.
void check_first_rows(const Recipe& recipe, const Node* document, Problems& problems);

}  // namespace bitrain::recipe
