#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/autograd/autograd.h>

#include <bitrain/base/cuda_library.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>

#include "support/gradcheck.h"

/// What the library gives on CUDA beside what it gives on the CPU.
namespace bitrain::testing {

using Tensors = std::vector<at::Tensor>;
using Function = std::function<Tensors(const Tensors&)>;

inline const at::Device kCuda(at::kCUDA, 0);

/// Skipped, with the reason, where there is no GPU.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::vector<std::string> missing = missing_for_cuda();
    if (!missing.empty()) GTEST_SKIP() << missing.front();
    require_cuda();
  }
};

/// One function with its inputs.
struct Case {
  std::string name;
  Function f;
  Tensors inputs;
};

inline at::Tensor leaf(at::IntArrayRef sizes, std::uint64_t seed) {
  return random_tensor(sizes, seed, at::kDouble).requires_grad_();
}
inline at::Tensor constant(at::IntArrayRef sizes, std::uint64_t seed) {
  return random_tensor(sizes, seed, at::kDouble);
}
inline at::Tensor numbers(const std::vector<std::int64_t>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong));
}

inline double tolerance_of(at::ScalarType dtype) {
  return dtype == at::kFloat ? 1e-5 : dtype == at::kBFloat16 ? 1.5e-2 : 3e-3;
}

/// |actual - expected| / |expected|, or over `floor` where that is more; infinity where anything is NaN or
/// the shapes differ.
inline double distance(const at::Tensor& actual, const at::Tensor& expected, double floor = 0) {
  constexpr double kFar = std::numeric_limits<double>::infinity();
  if (actual.sizes() != expected.sizes()) return kFar;
  const auto size_of = [](const at::Tensor& x) { return at::linalg_vector_norm(x).item<double>(); };
  const at::Tensor wanted = expected.detach().to(at::kCPU, at::kDouble);
  const double gap = size_of(actual.detach().to(at::kCPU, at::kDouble) - wanted);
  const double size = std::max(size_of(wanted), floor);
  if (gap == 0) return 0;
  return gap > 0 && size > 0 ? gap / size : kFar;
}

struct Evaluation {
  Tensors outputs;
  Tensors gradients;  ///< Of the outputs, weighted at random; undefined where none is asked for.
};

/// `f` on `device`. float64 inputs are rounded to `rounded` and then are of `dtype`; others only move.
inline Evaluation evaluate(const Function& f, const Tensors& inputs, at::ScalarType rounded,
                           at::ScalarType dtype, at::Device device) {
  Tensors moved;
  for (const at::Tensor& input : inputs) {
    at::Tensor value = input.detach();
    if (value.scalar_type() == at::kDouble) value = value.to(rounded).to(dtype);
    moved.push_back(value.to(device).set_requires_grad(input.requires_grad()));
  }
  Evaluation result;
  result.outputs = f(moved);
  Tensors roots;
  Tensors slopes;
  for (std::size_t i = 0; i < result.outputs.size(); ++i) {
    const at::Tensor& y = result.outputs[i];
    if (!y.requires_grad()) continue;
    roots.push_back(y);
    slopes.push_back(random_tensor(y.sizes(), 900 + i, rounded).to(y.options()));
  }
  if (!roots.empty()) torch::autograd::backward(roots, slopes);
  for (const at::Tensor& input : moved) result.gradients.push_back(input.grad());
  return result;
}

/// Outputs and gradients of `f` on CUDA in `dtype` against those on the CPU in float64 at the same values.
inline void expect_same(const Function& f, const Tensors& inputs, at::ScalarType dtype, double tolerance) {
  const Evaluation expected = evaluate(f, inputs, dtype, at::kDouble, at::kCPU);
  const Evaluation actual = evaluate(f, inputs, dtype, dtype, kCuda);
  ASSERT_EQ(actual.outputs.size(), expected.outputs.size());
  for (std::size_t i = 0; i < actual.outputs.size(); ++i) {
    EXPECT_TRUE(actual.outputs[i].is_cuda()) << "output " << i;
    EXPECT_LT(distance(actual.outputs[i], expected.outputs[i]), tolerance) << "output " << i;
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_EQ(actual.gradients[i].defined(), expected.gradients[i].defined()) << "input " << i;
    if (!actual.gradients[i].defined()) continue;
    EXPECT_LT(distance(actual.gradients[i], expected.gradients[i]), tolerance) << "gradient of input " << i;
  }
}

/// Moves all weights of a model, 4-bit ones, adapters and trained rows included.
inline void move(nn::Module& model, at::Device device) {
  const auto to_device = [&](at::Tensor& tensor) {
    tensor = tensor.detach().to(device).set_requires_grad(tensor.requires_grad());
  };
  const auto move_added = [&](auto& map) {
    for (nn::LowRank& adapter : map.adapters) {
      to_device(adapter.a);
      to_device(adapter.b);
    }
    if (!map.trainable_rows) return;
    to_device(map.trainable_rows->indices);
    to_device(map.trainable_rows->rows);
  };
  model.visit_tensors([&](const std::string&, at::Tensor& tensor) { to_device(tensor); });
  model.visit_modules([&](const std::string&, nn::Module& module) {
    if (auto* embedding = dynamic_cast<nn::Embedding*>(&module)) move_added(*embedding);
    auto* linear = dynamic_cast<nn::Linear*>(&module);
    if (linear == nullptr) return;
    move_added(*linear);
    if (linear->quantized) linear->quantized = linear->quantized->to(device);
  });
}

}  // namespace bitrain::testing
