#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/recipe/content_hashes.h>
#include <bitrain/recipe/recipe.h>

/// What stages are made from: if that is the same, a finished folder is still right and unfinished work can
/// go on.
namespace bitrain::recipe {

/// Options and inputs of a stage. `before` has the hashes of the stages before it (hash_of).
[[nodiscard]] io::Json made_from(const Recipe& recipe, const Stage& stage, ContentHashes& contents,
                                 const std::map<std::string, std::string>& before);

/// made_from without the options that change neither a step nor a weight: how often is logged, evaluated and
/// saved, how many checkpoints are kept, whether activations are computed again.
[[nodiscard]] io::Json identity_of(const io::Json& made_from);

/// A short name of identity_of.
[[nodiscard]] std::string hash_of(const io::Json& made_from);

/// Looks whether what lies in the work folder of a stage can go on as `made_from`. Nothing is touched. Throws
/// StateError, which says what differs, for checkpoints (or other unfinished work) of another identity. Only
/// the length of a run may differ, where the steps taken so far would have been the same: the same learning
/// rates, the same mixture, and a step that is not past the new end.
void check_work(const Stage& stage, const std::filesystem::path& work,
                const io::Json& made_from);

/// After check_work: makes the work folder ready. What cannot go on and is worth nothing is removed.
void prepare_work(const Stage& stage, const std::filesystem::path& work, const io::Json& made_from);

}  // namespace bitrain::recipe
