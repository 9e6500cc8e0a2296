#pragma once

#include <string>
#include <vector>

#include <bitrain/recipe/recipe.h>

namespace bitrain::recipe {

/// What a stage leaves in its folder for others to read.
enum class Leaves {
  kNothing,
  kTokenizer,
  kLanguageModel,
  kAdapter,  ///< Of a language model: read together with its base.
  kEncoder,
  kCrossEncoder,
  kLateInteraction,
  kDocumentEncoder,
  kNegatives
};

[[nodiscard]] Leaves leaves(const StageOptions& options);

/// What a stage can read from, any of these; empty: it reads from no stage.
[[nodiscard]] std::vector<Leaves> reads(const StageOptions& options);

/// What it reads where `from` is left out: the last stage before it that leaves what it can read, else the
/// base where there is one, else "".
[[nodiscard]] std::string default_input(const StageOptions& options, const std::vector<Stage>& before,
                                        bool base);

/// Checks that `from` and the other stages that a stage names leave what it can read. That they are there is
/// checked elsewhere, and a base is looked at when its files are. `node` is the stage's.
void check_kinds(const Stage& stage, const std::vector<Stage>& before, const Node& node, Problems& problems);

/// "a language model or an adapter".
[[nodiscard]] std::string describe(const std::vector<Leaves>& kinds);

}  // namespace bitrain::recipe
