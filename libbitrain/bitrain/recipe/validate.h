#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <bitrain/data/inspect.h>
#include <bitrain/recipe/memory_plan.h>
#include <bitrain/recipe/recipe.h>

namespace bitrain::recipe {

/// What can be said about a recipe before anything is run.
struct Validation {
  Recipe recipe;
  Problems problems;
  std::vector<MemoryPlan> plans;  ///< Empty when there are problems.
};

/// Reads the recipe with its overrides and looks at everything it names: files that are missing, empty or not
/// of the form that is said (their first rows), a base whose configuration, weights (their headers) and
/// tokenizer do not fit each other, stages that leave nothing to read from, mixtures that name unknown
/// sources, a GPU that is not there. All problems at once. Throws only when the file cannot be read or is no
/// YAML.
[[nodiscard]] Validation validate(const std::filesystem::path& file,
                                  const std::vector<std::string>& overrides = {});

/// What of a base must be there: what only looks at data needs no weights.
enum class BaseFiles { kAll, kTokenizer };

/// The same looks for a recipe that was read; throws ConfigError with all problems,
/// or DataError where only first rows of files are bad.
void check_inputs(const Recipe& recipe, BaseFiles base = BaseFiles::kAll);

/// The first step of a training stage as a person can check it. Throws ConfigError for a stage that trains
/// nothing, IoError when the stage it reads from has not run.
[[nodiscard]] std::string inspect_stage(const Recipe& recipe, const std::string& stage,
                                        const data::InspectOptions& options);

}  // namespace bitrain::recipe
