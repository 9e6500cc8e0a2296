#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <bitrain/models/llama/config.h>

namespace bitrain::models {

/// Angular frequencies [head_dim / 2] (float32) of a config, and the factor its cos and sin carry: 1 but for
/// yarn. Sources: Su et al. 2021 (default), position interpolation (Chen et al. 2023, linear), Llama 3's
/// ramp (llama3), YaRN (Peng et al. 2023).
struct RotaryFrequencies {
  at::Tensor frequencies;
  double attention_factor = 1.0;
};
[[nodiscard]] RotaryFrequencies rotary_frequencies(const LlamaConfig& config);

/// cos and sin of position * frequency, [positions, head_dim / 2] float32 each.
struct RotaryTables {
  at::Tensor cos;
  at::Tensor sin;
};
[[nodiscard]] RotaryTables rotary_tables(const RotaryFrequencies& rotary, std::int64_t positions,
                                         at::Device device);

}  // namespace bitrain::models
