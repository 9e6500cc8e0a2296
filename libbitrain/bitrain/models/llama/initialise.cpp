#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/rng.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/llama/model.h>

namespace bitrain::models {
namespace {

/// Draws of one row by Box and Muller (1958), in float32: filling a model is most of what a run's start
/// costs.
void normal_row(float* out, std::int64_t width, float deviation, std::uint64_t key, std::uint64_t row) {
  constexpr float kToUnit = 0x1p-32F;
  constexpr float kToAngle = 2 * std::numbers::pi_v<float> * kToUnit;
  for (std::int64_t i = 0; i < width; i += 4) {
    const std::array<std::uint32_t, 4> bits = philox4x32(key, row, static_cast<std::uint64_t>(i / 4));
    std::array<float, 4> draws{};
    for (std::size_t pair = 0; pair < 4; pair += 2) {
      const float uniform = (static_cast<float>(bits[pair]) + 0.5F) * kToUnit;  // In (0, 1].
      const float radius = deviation * std::sqrt(-2 * std::log(uniform));
      const float angle = static_cast<float>(bits[pair + 1]) * kToAngle;
      draws[pair] = radius * std::cos(angle);
      draws[pair + 1] = radius * std::sin(angle);
    }
    std::copy_n(draws.begin(), std::min<std::int64_t>(4, width - i), out + i);
  }
}

void fill_normal(at::Tensor& weight, double deviation, std::uint64_t key) {
  const std::int64_t rows = weight.size(0);
  const std::int64_t width = weight.numel() / rows;
  const at::Tensor draws = at::empty(weight.sizes(), at::TensorOptions().dtype(at::kFloat));
  auto* values = draws.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 1 + 16384 / width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      normal_row(values + row * width, width, static_cast<float>(deviation), key,
                 static_cast<std::uint64_t>(row));
  });
  weight.copy_(draws);
}

}  // namespace

void initialise(LanguageModel& model, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  const double deviation = model.config().initializer_range;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (ends_with(name, ".bias")) {
      tensor.zero_();
    } else if (tensor.dim() == 1) {
      tensor.fill_(1);
    } else {
      fill_normal(tensor, deviation, stream_key(seed, "initialise " + name));
    }
  });
}

}  // namespace bitrain::models
