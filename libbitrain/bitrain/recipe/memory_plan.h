#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/recipe/recipe.h>
#include <bitrain/recipe/stage_shapes.h>

namespace bitrain::recipe {

/// Bytes a stage will need at its peak, worked out from shapes alone.
struct MemoryPlan {
  std::string stage;
  std::string type;
  std::int64_t parameters = 0;    ///< Of the model.
  std::int64_t trained = 0;       ///< Of them, or of its adapters.
  std::uint64_t weights = 0;      ///< Of the model as the stage holds it: 4-bit parts as packed.
  std::uint64_t adapters = 0;     ///< LoRA matrices and trained rows.
  std::uint64_t optimizer = 0;    ///< Gradients, moments and master weights.
  std::uint64_t activations = 0;  ///< Of one micro-batch, with the chunk of logits.

  [[nodiscard]] std::uint64_t total() const { return weights + adapters + optimizer + activations; }
};

/// For each stage that holds a model. Nothing is loaded but the config.json of a base. Vocabularies of
/// tokenizers that are not learned yet are taken at the size asked for. Throws ConfigError, with the stage's
/// name, for adapters that do not fit their model (target_modules that match nothing, rows that are not
/// there); with `on_fault`, such a stage is told and left out.
[[nodiscard]] std::vector<MemoryPlan> memory_plan(const Recipe& recipe, const ShapeFault& on_fault = {});

/// As a table of text.
[[nodiscard]] std::string describe(const std::vector<MemoryPlan>& plans);

}  // namespace bitrain::recipe
