#pragma once

#include <vector>

#include <bitrain/recipe/document.h>
#include <bitrain/recipe/recipe.h>

namespace bitrain::recipe {

/// Rules between the options of a stage, and between them and what `recipe` says besides its stages. `node`
/// is the stage's.
void check_stage(const Recipe& recipe, const Stage& stage, const Node& node, Problems& problems);

}  // namespace bitrain::recipe
