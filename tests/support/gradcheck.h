#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>

#include <bitrain/base/rng.h>

namespace bitrain::testing {

/// Standard normal draws from a counter-based stream: the same on every machine.
inline at::Tensor random_tensor(at::IntArrayRef sizes, std::uint64_t seed,
                                at::ScalarType dtype = at::kFloat) {
  at::Tensor draws = at::empty(sizes, at::TensorOptions().dtype(at::kDouble));
  RandomStream stream(seed, "test tensor");
  auto* values = draws.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < draws.numel(); ++i) values[i] = stream.normal();
  return draws.to(dtype);
}

/// Largest absolute difference, relative to the largest magnitude of `expected` (at least `floor`).
inline double relative_difference(const at::Tensor& actual, const at::Tensor& expected,
                                  double floor = 1e-12) {
  EXPECT_EQ(actual.sizes(), expected.sizes());
  if (expected.numel() == 0) return 0;
  const at::Tensor wanted = expected.detach().to(at::kDouble);
  const double size = std::max(wanted.abs().max().item<double>(), floor);
  const double difference = (actual.detach().to(at::kDouble) - wanted).abs().max().item<double>();
  return std::isnan(difference) ? INFINITY : difference / size;
}

/// Expects autograd's gradient of `f` (a scalar or any tensor, reduced by a fixed random weighting) at
/// `inputs` (float64) to equal central differences: every element of every input that requires grad.
inline void expect_gradients(const std::function<at::Tensor(const std::vector<at::Tensor>&)>& f,
                             const std::vector<at::Tensor>& inputs, double tolerance = 1e-6,
                             double step = 1e-5) {
  const auto reduced = [&](const std::vector<at::Tensor>& values) {
    const at::Tensor y = f(values);
    return (y.to(at::kDouble) * random_tensor(y.sizes(), 977, at::kDouble)).sum();
  };
  std::vector<at::Tensor> wanted;
  for (const at::Tensor& input : inputs) {
    ASSERT_TRUE(!input.requires_grad() || input.scalar_type() == at::kDouble);
    if (input.requires_grad()) wanted.push_back(input);
  }
  const auto gradients =
      torch::autograd::grad({reduced(inputs)}, wanted, {}, std::nullopt, false, /*allow_unused=*/true);
  std::size_t next = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    const at::Tensor& gradient = gradients[next++];
    ASSERT_TRUE(gradient.defined()) << "no gradient for input " << i;
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> moved = inputs;
    moved[i] = inputs[i].detach().clone();
    const at::Tensor flat = moved[i].view({-1});
    auto* value = flat.mutable_data_ptr<double>();
    at::Tensor numeric = at::empty({flat.numel()}, flat.options());
    for (std::int64_t j = 0; j < flat.numel(); ++j) {
      const double centre = value[j];
      value[j] = centre + step;
      const double above = reduced(moved).item<double>();
      value[j] = centre - step;
      const double below = reduced(moved).item<double>();
      value[j] = centre;
      numeric.mutable_data_ptr<double>()[j] = (above - below) / (2 * step);
    }
    EXPECT_LT(relative_difference(gradient.reshape({-1}), numeric, 1.0), tolerance) << "input " << i;
  }
}

}  // namespace bitrain::testing
