#include <bitrain/models/llama/rotary.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <ATen/ops/empty.h>

namespace bitrain::models {
namespace {

std::int64_t original_length(const LlamaConfig& config) {
  const std::int64_t given = config.rope_parameters.original_max_position_embeddings;
  return given > 0 ? given : config.max_position_embeddings;
}

// Wavelengths much longer than the original context are stretched, much shorter ones kept, those between
// mixed.
void scale_llama3(std::vector<double>& frequencies, const LlamaConfig& config) {
  const RopeParameters& rope = config.rope_parameters;
  const auto length = static_cast<double>(original_length(config));
  for (double& frequency : frequencies) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    const double kept =
        (length / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    const double share = std::clamp(kept, 0.0, 1.0);
    frequency *= share + (1 - share) / rope.factor;
  }
}

void scale_yarn(std::vector<double>& frequencies, const LlamaConfig& config) {
  const RopeParameters& rope = config.rope_parameters;
  const auto dim = static_cast<double>(config.head_width());
  const auto length = static_cast<double>(original_length(config));
  // The dimension that turns `rotations` times over the original context.
  const auto dimension = [&](double rotations) {
    return dim * std::log(length / (rotations * 2 * std::numbers::pi)) / (2 * std::log(rope.rope_theta));
  };
  double low = dimension(rope.beta_fast);
  double high = dimension(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] *= stretched / rope.factor + 1 - stretched;
  }
}

double yarn_attention_factor(const RopeParameters& rope) {
  if (rope.attention_factor) return *rope.attention_factor;
  const auto magnitude = [&](double scale) {
    return rope.factor <= 1 ? 1.0 : 0.1 * scale * std::log(rope.factor) + 1;
  };
  const double numerator = rope.mscale.value_or(0);
  const double denominator = rope.mscale_all_dim.value_or(0);
  if (numerator != 0 && denominator != 0) return magnitude(numerator) / magnitude(denominator);
  return magnitude(1);
}

}  // namespace

RotaryFrequencies rotary_frequencies(const LlamaConfig& config) {
  const RopeParameters& rope = config.rope_parameters;
  const std::int64_t half = config.head_width() / 2;
  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (std::int64_t i = 0; i < half; ++i) {
    frequencies[static_cast<std::size_t>(i)] =
        std::pow(rope.rope_theta, -static_cast<double>(i) / static_cast<double>(half));
  }
  RotaryFrequencies result;
  if (rope.rope_type == "linear") {
    for (double& frequency : frequencies) frequency /= rope.factor;
  } else if (rope.rope_type == "llama3") {
    scale_llama3(frequencies, config);
  } else if (rope.rope_type == "yarn") {
    scale_yarn(frequencies, config);
    result.attention_factor = yarn_attention_factor(rope);
  }
  result.frequencies = at::empty({half}, at::TensorOptions().dtype(at::kFloat));
  std::copy(frequencies.begin(), frequencies.end(), result.frequencies.mutable_data_ptr<float>());
  return result;
}

RotaryTables rotary_tables(const RotaryFrequencies& rotary, std::int64_t positions, at::Device device) {
  const std::int64_t half = rotary.frequencies.size(0);
  const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat);
  RotaryTables tables{at::empty({positions, half}, options), at::empty({positions, half}, options)};
  const float* frequencies = rotary.frequencies.const_data_ptr<float>();
  auto* cosine = tables.cos.mutable_data_ptr<float>();
  auto* sine = tables.sin.mutable_data_ptr<float>();
  for (std::int64_t position = 0; position < positions; ++position) {
    for (std::int64_t i = 0; i < half; ++i) {
      // The product is rounded to float32 as transformers rounds it: at late positions that matters.
      const float angle = static_cast<float>(position) * frequencies[i];
      *cosine++ = static_cast<float>(std::cos(static_cast<double>(angle)) * rotary.attention_factor);
      *sine++ = static_cast<float>(std::sin(static_cast<double>(angle)) * rotary.attention_factor);
    }
  }
  return {tables.cos.to(device), tables.sin.to(device)};
}

}  // namespace bitrain::models
