#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/io/json_difference.h>
#include <bitrain/recipe/content_hashes.h>
#include <bitrain/recipe/recipe.h>

/// What stages are made from: if that is the same, a finished folder is still right and unfinished work can
/// go on.
namespace bitrain::recipe {

/// In a work folder: figures that the stage took before it trained (base_score.h).
inline constexpr const char* kFiguresBefore = "before.json";

/// Options and inputs of a stage. `before` has the hashes of the stages before it (hash_of).
[[nodiscard]] io::Json made_from(const Recipe& recipe, const Stage& stage, ContentHashes& contents,
                                 const std::map<std::string, std::string>& before);

/// made_from without what changes nothing of what a stage ends with: how often is logged and saved, how many
/// checkpoints are kept, whether activations are computed again, what is in memory at a time; the names of
/// stages and files whose content is there.
[[nodiscard]] io::Json identity_of(const io::Json& made_from);

/// identity_of without the options that only choose which step's weights a stage ends with (keep_best, early
/// stopping and the evaluations they look at): what two runs must have in common for one to go on with the
/// checkpoints of the other.
[[nodiscard]] io::Json identity_of_steps(const io::Json& made_from);

/// A short name of identity_of.
[[nodiscard]] std::string hash_of(const io::Json& made_from);

/// Differences of two identities as a text for people; a hash of what the stage before leaves says nothing to
/// them.
[[nodiscard]] std::string describe_change(const Stage& stage, std::vector<io::JsonDifference> differences);

/// Looks whether what lies in the work folder of a stage can go on as `made_from`. Nothing is touched. Throws
/// StateError, which says what differs, for checkpoints (or other unfinished work) of another identity. Only
/// the length of a run may differ, where the steps taken so far would have been the same: the same learning
/// rates, the same mixture, and a step that is not past the new end. And a run that stopped at a loss that is
/// no number may go on and skip such steps.
void check_work(const Stage& stage, const std::filesystem::path& work, const io::Json& made_from);

/// After check_work: makes the work folder ready. What cannot go on and is worth nothing is removed.
void prepare_work(const Stage& stage, const std::filesystem::path& work, const io::Json& made_from);

/// Whether a work folder has something that somebody would miss: checkpoints, lines that were mined.
[[nodiscard]] bool holds_work(const std::filesystem::path& work);

/// Whether a work folder holds work that can go on as `made_from` (check_work).
[[nodiscard]] bool is_work_of(const Stage& stage, const std::filesystem::path& work,
                              const io::Json& made_from);

/// Whether a reader of models looks at a file: weights, configurations, tokenizers.
[[nodiscard]] bool counts_for_a_model(const std::filesystem::path& file);

/// Removes the work folder of a stage that was finished as `made_from`: a kill right after the stage was put
/// in its place leaves it. Unfinished work of another identity stays.
void clear_work(const std::filesystem::path& work, const io::Json& made_from);

}  // namespace bitrain::recipe
