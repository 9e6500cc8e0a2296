#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <bitrain/dist/environment.h>
#include <bitrain/recipe/run.h>

namespace bitrain::recipe {

/// Loads a recipe, checks its inputs and runs it as one of the processes of `environment`: meets the others,
/// takes its share of the machine's threads where the recipe gives no number (torchrun's OMP_NUM_THREADS=1 is
/// no answer), and tells the others and torchrun's error file why where it fails. Ranks above 0 log warnings
/// and errors alone. Throws as load_recipe, check_inputs, dist::Session and run.
[[nodiscard]] RunResult run_as_rank(const std::filesystem::path& file,
                                    const std::vector<std::string>& overrides,
                                    const dist::Environment& environment);

}  // namespace bitrain::recipe
