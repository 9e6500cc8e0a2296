#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/recipe/recipe.h>
#include <bitrain/recipe/stage_shapes.h>

namespace bitrain::recipe {

/// Bytes a stage will need at its peak. A CPU's are resident memory of the process as
/// train::peak_memory_bytes counts it; a GPU's are of its tensors alone.
struct MemoryPlan {
  std::string stage;
  std::string type;
  std::int64_t parameters = 0;    ///< Of the model; 0 where it has none.
  std::int64_t trained = 0;       ///< Of them, or of its adapters.
  std::uint64_t program = 0;      ///< The program and its libraries, before any stage and once all is in use.
  std::uint64_t data = 0;         ///< Texts, what is learned of them, tokenizers.
  std::uint64_t weights = 0;      ///< Of the model as the stage holds it: 4-bit parts as packed.
  std::uint64_t models = 0;       ///< Of other models beside it: a teacher, a reranker.
  std::uint64_t adapters = 0;     ///< LoRA matrices and trained rows.
  std::uint64_t optimizer = 0;    ///< Gradients, moments and master weights.
  std::uint64_t activations = 0;  ///< Of one micro-batch, with logits and gradients on their way.
  std::uint64_t scoring = 0;      ///< Evaluation, comparison and saving, in the memory that activations left.

  [[nodiscard]] std::uint64_t total() const {
    return program + data + weights + models + adapters + optimizer + std::max(activations, scoring);
  }
};

/// For each stage. Read are the config.json and the tokenizer of a base, and the first rows of files: texts
/// that are not packed are taken to be as long as those. What a file is too broken to say is taken from
/// loader.sequence_length. Vocabularies of tokenizers that are not learned yet are taken at the size asked
/// for. The program is measured: call it before models are opened. Throws ConfigError, with the stage's name,
/// for adapters that do not fit their model (target_modules that match nothing, rows that are not
/// there); with `on_fault`, such a stage is told, and planned without its model.
[[nodiscard]] std::vector<MemoryPlan> memory_plan(const Recipe& recipe, const ShapeFault& on_fault = {});

/// As a table of text.
[[nodiscard]] std::string describe(const std::vector<MemoryPlan>& plans);

}  // namespace bitrain::recipe
