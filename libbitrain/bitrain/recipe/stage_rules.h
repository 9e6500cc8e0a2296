#pragma once

#include <vector>

#include <bitrain/recipe/document.h>
#include <bitrain/recipe/recipe.h>

namespace bitrain::recipe {

/// Rules between the options of a stage, which no single field can check. `node` is the stage's.
void check_stage(const Stage& stage, const Node& node, Problems& problems);

/// Mined files and rerankers must come of stages that write them. That the stages are there is checked
/// elsewhere.
void check_kinds(const Stage& stage, const std::vector<Stage>& before, const Node& node, Problems& problems);

}  // namespace bitrain::recipe
