#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>

namespace bitrain::adapters {

/// More would drop all of nearly every input; 1 leaves nothing to learn from.
inline constexpr double kHighestLoraDropout = 0.999;
/// More than the width of any model.
inline constexpr std::int64_t kHighestRank = 65536;

/// LoRA (Hu et al. 2021), with PEFT's names and meanings.
struct LoraOptions {
  std::int64_t r = 8;
  double lora_alpha = 8.0;
  double lora_dropout = 0.0;
  std::vector<std::string> target_modules;
  std::vector<std::string> exclude_modules;
  bool use_rslora = false;
  std::map<std::string, std::int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<std::int64_t> layers_to_transform;
  std::vector<std::string> modules_to_save;
  std::map<std::string, std::vector<std::int64_t>> trainable_token_indices;
  std::string init_lora_weights = "true";
};
template <class Visitor>
void visit_fields(Visitor& v, LoraOptions& o) {
  v.field("r", o.r, in_range(1, kHighestRank), "Rank of the update matrices.");
  v.field("lora_alpha", o.lora_alpha, above(0), "Numerator of the scale lora_alpha / r.");
  v.field("lora_dropout", o.lora_dropout, in_range(0, kHighestLoraDropout),
          "Dropout on the input of adapted linear maps.");
  v.field("target_modules", o.target_modules, any(),
          "Modules to adapt: ends of their paths (q_proj), regular expressions for whole paths, in Python's "
          "language "
          "(.*layers.[0-3].mlp.*), or all-linear for every linear map but the head.");
  v.field("exclude_modules", o.exclude_modules, any(), "Modules to leave out, written likewise.");
  v.field("use_rslora", o.use_rslora, any(), "Scale by lora_alpha / sqrt(r) instead.");
  v.field("rank_pattern", o.rank_pattern, in_range(1, kHighestRank),
          "Ranks of single modules, by end of path or pattern; the first in alphabetical order wins.");
  v.field("alpha_pattern", o.alpha_pattern, any(), "lora_alpha of single modules, likewise.");
  v.field("layers_to_transform", o.layers_to_transform, any(),
          "Layers to adapt, counted from 0; empty means all.");
  v.field("modules_to_save", o.modules_to_save, any(), "Modules to train in full and save with the adapter.");
  v.field("trainable_token_indices", o.trainable_token_indices, any(),
          "For an embedding or head (by end of path): ids of the rows to train in full.");
  v.field(
      "init_lora_weights", o.init_lora_weights, one_of({"true", "gaussian", "false"}),
      "true: A Kaiming-uniform, B zero; gaussian: A normal(1 / r), B zero; false: both random, for tests.");
}

/// The scale of an update of rank `r`.
[[nodiscard]] double lora_scale(double lora_alpha, std::int64_t r, bool use_rslora);

}  // namespace bitrain::adapters
