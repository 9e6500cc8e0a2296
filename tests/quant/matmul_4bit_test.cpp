#include <string>
#include <thread>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <bitrain/base/cuda_library.h>
#include <bitrain/base/error.h>
#include <bitrain/quant/matmul_4bit.h>
#include <support/gradcheck.h>

namespace bitrain::quant {
namespace {

at::Tensor gradient_of(const at::Tensor& y, const at::Tensor& x, const at::Tensor& direction,
                       bool keep_graph = false) {
  return torch::autograd::grad({y}, {x}, {direction}, keep_graph, keep_graph)[0];
}

TEST(Linear4bit, IsTheDenseProductAndItsGradient) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    for (const bool double_quant : {false, true}) {
      SCOPED_TRACE(c10::toString(dtype));
      const QuantizedTensor weight = quantize(at::randn({37, 50}), {QuantType::kNf4, 64, double_quant});
      const at::Tensor dense = dequantize(weight, dtype == at::kDouble ? at::kFloat : dtype).to(dtype);
      const at::Tensor x = at::randn({3, 5, 50}).to(dtype).requires_grad_();
      const at::Tensor direction = at::randn({3, 5, 37}).to(dtype);
      const at::Tensor y = linear_4bit(x, weight);
      const at::Tensor expected = at::linear(x, dense);
      EXPECT_EQ(y.scalar_type(), dtype);
      EXPECT_EQ(y.sizes(), expected.sizes());
      // Of 16-bit types either the weight or only the sum is rounded, as the machine multiplies best.
      const double rounding = dtype == at::kBFloat16 ? 1.6e-2 : dtype == at::kHalf ? 2e-3 : 1e-5;
      EXPECT_LT(testing::relative_difference(y, expected), rounding);
      EXPECT_LT(
          testing::relative_difference(gradient_of(y, x, direction), gradient_of(expected, x, direction)),
          rounding);
    }
  }
}

TEST(Linear4bit, GradientMatchesDifferencesInFloat64) {
  const QuantizedTensor weight = quantize(at::randn({9, 16}));
  const at::Tensor x = at::randn({4, 16}, at::kDouble).requires_grad_();
  const at::Tensor direction = at::randn({4, 9}, at::kDouble);
  const at::Tensor gradient = gradient_of(linear_4bit(x, weight), x, direction);
  const at::NoGradGuard no_grad;
  const double step = 1e-6;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    at::Tensor moved = x.detach().clone();
    moved.view({-1})[i] += step;
    const auto difference = ((linear_4bit(moved, weight) - linear_4bit(x, weight)) * direction).sum();
    EXPECT_NEAR(gradient.reshape({-1})[i].item<double>(), difference.item<double>() / step, 1e-7);
  }
}

TEST(Linear4bit, CanBeDifferentiatedTwice) {
  const QuantizedTensor weight = quantize(at::randn({8, 12}));
  const at::Tensor dense = dequantize(weight, at::kFloat).to(at::kDouble);
  const auto second = [](const at::Tensor& y, const at::Tensor& x) {
    const at::Tensor first = gradient_of(y * y, x, y.detach(), true);
    return gradient_of(first, x, first.detach());
  };
  const at::Tensor x = at::randn({5, 12}, at::kDouble).requires_grad_();
  EXPECT_TRUE(at::allclose(second(linear_4bit(x, weight), x), second(at::linear(x, dense), x)));
}

TEST(Linear4bit, TakesVectorsAndEmptyInputs) {
  const QuantizedTensor weight = quantize(at::randn({8, 12}));
  EXPECT_EQ(linear_4bit(at::randn({12}), weight).sizes(), at::IntArrayRef({8}));
  EXPECT_EQ(linear_4bit(at::empty({0, 12}), weight).sizes(), at::IntArrayRef({0, 8}));
  const at::Tensor x = at::zeros({2, 0, 12}).requires_grad_();
  EXPECT_EQ(gradient_of(linear_4bit(x, weight), x, at::zeros({2, 0, 8})).sizes(), x.sizes());
}

TEST(Linear4bit, RefusesWhatDoesNotFit) {
  const QuantizedTensor weight = quantize(at::randn({8, 12}));
  EXPECT_THROW((void)linear_4bit(at::randn({2, 8}), weight), StateError);
  EXPECT_THROW((void)linear_4bit(at::Tensor(), weight), StateError);
  EXPECT_THROW((void)linear_4bit(at::zeros({2, 12}, at::kLong), weight), StateError);
  EXPECT_THROW((void)linear_4bit(at::randn({2, 12}), quantize(at::randn({4, 8, 12}))), StateError);
}

TEST(Linear4bit, SeesThatAWeightChangedBetweenForwardAndBackward) {
  QuantizedTensor weight = quantize(at::randn({8, 12}));
  const at::Tensor x = at::randn({2, 12}).requires_grad_();
  const at::Tensor y = linear_4bit(x, weight);
  weight.codes.zero_();
  EXPECT_THROW((void)gradient_of(y, x, at::randn({2, 8})), c10::Error);
}

TEST(ScratchWeight, IsReusedAndFreed) {
  release_scratch();
  const QuantizedTensor weight = quantize(at::randn({64, 64}));
  const void* address = nullptr;
  {
    const ScratchWeight first(weight, at::kFloat);
    const ScratchWeight second(weight, at::kFloat);  // Two at once are two buffers.
    address = first.tensor().const_data_ptr();
    EXPECT_NE(address, second.tensor().const_data_ptr());
    EXPECT_TRUE(at::equal(first.tensor(), dequantize(weight, at::kFloat)));
    EXPECT_TRUE(at::equal(first.tensor(), second.tensor()));
  }
  const std::uint64_t bytes = 64 * 64 * sizeof(float);
  for (int i = 0; i < 5; ++i) {
    const at::Tensor x = at::randn({3, 64}).requires_grad_();
    (void)gradient_of(linear_4bit(x, weight), x, at::randn({3, 64}));
  }
  EXPECT_EQ(release_scratch(), 2 * bytes);  // No more was ever needed.
  EXPECT_EQ(release_scratch(), 0U);
}

TEST(ScratchWeight, GivesThreadsTheirOwnMemory) {
  const QuantizedTensor weights[] = {quantize(at::randn({32, 64})), quantize(at::randn({32, 64}))};
  std::vector<std::thread> threads;
  std::vector<int> failures(4);
  for (std::size_t t = 0; t < failures.size(); ++t) {
    threads.emplace_back([&weights, &failures, t] {
      const at::NoGradGuard no_grad;
      const at::Tensor expected = dequantize(weights[t % 2], at::kFloat);
      for (int i = 0; i < 200; ++i)
        failures[t] += at::equal(ScratchWeight(weights[t % 2], at::kFloat).tensor(), expected) ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : failures) EXPECT_EQ(count, 0);
}

}  // namespace
}  // namespace bitrain::quant
