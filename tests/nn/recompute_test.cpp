#include <bitrain/nn/recompute.h>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>

#include <bitrain/nn/functional.h>

#include "support/gradcheck.h"

namespace bitrain::nn {
namespace {

using testing::expect_gradients;
using testing::random_tensor;

TEST(Recompute, GradientsReachInputsAndParametersBitForBit) {
  at::Tensor weight = random_tensor({6, 6}, 2).set_requires_grad(true);
  int runs = 0;
  const Piece piece = [&](const std::vector<at::Tensor>& inputs) {
    ++runs;
    const at::Tensor y = dropout(at::matmul(inputs[0], weight), 0.5, {.seed = 1, .step = 2}, 3).tanh();
    return std::vector<at::Tensor>{y + inputs[1], y * inputs[1]};
  };
  const auto gradients = [&](bool again) {
    std::vector<at::Tensor> inputs{random_tensor({5, 6}, 3).set_requires_grad(true),
                                   random_tensor({5, 6}, 4).set_requires_grad(true)};
    const std::vector<at::Tensor> outputs = again ? recompute(piece, inputs) : piece(inputs);
    (outputs[0] * random_tensor({5, 6}, 5) + outputs[1].square()).sum().backward();
    std::vector<at::Tensor> result{outputs[0].detach(), outputs[1].detach(), inputs[0].grad(),
                                   inputs[1].grad(), weight.grad().clone()};
    weight.mutable_grad() = at::Tensor();
    return result;
  };
  const auto plain = gradients(false);
  EXPECT_EQ(runs, 1);
  const auto recomputed = gradients(true);
  EXPECT_EQ(runs, 3);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(at::equal(plain[i], recomputed[i])) << i;
}

TEST(Recompute, ParametersAreReachedWhereNoInputRequiresGrad) {
  at::Tensor weight = random_tensor({3, 3}, 2).set_requires_grad(true);
  const Piece piece = [&](const std::vector<at::Tensor>& inputs) {
    return std::vector<at::Tensor>{at::matmul(inputs[0], weight)};
  };
  recompute(piece, {random_tensor({2, 3}, 1)})[0].sum().backward();
  EXPECT_TRUE(weight.grad().defined());
}

TEST(Recompute, OutputsThatTheLossIgnoresAreAllowed) {
  at::Tensor x = random_tensor({2, 3}, 1).set_requires_grad(true);
  const Piece piece = [](const std::vector<at::Tensor>& inputs) {
    return std::vector<at::Tensor>{inputs[0] * 2, inputs[0] * 3};
  };
  recompute(piece, {x})[1].sum().backward();
  EXPECT_TRUE(x.grad().eq(3).all().item<bool>());
}

TEST(Recompute, WithoutGradientsThePieceRunsOnceAndNothingIsKept) {
  const at::NoGradGuard no_grad;
  int runs = 0;
  const Piece piece = [&](const std::vector<at::Tensor>& inputs) {
    ++runs;
    return std::vector<at::Tensor>{inputs[0] * 2};
  };
  EXPECT_FALSE(recompute(piece, {random_tensor({2, 3}, 1)})[0].requires_grad());
  EXPECT_EQ(runs, 1);
}

TEST(Recompute, NumericGradients) {
  const Piece piece = [](const std::vector<at::Tensor>& inputs) {
    return std::vector<at::Tensor>{at::matmul(inputs[0], inputs[1]).tanh()};
  };
  expect_gradients([&](const std::vector<at::Tensor>& values) { return recompute(piece, values)[0]; },
                   {random_tensor({3, 4}, 1, at::kDouble).set_requires_grad(true),
                    random_tensor({4, 2}, 2, at::kDouble).set_requires_grad(true)});
}

}  // namespace
}  // namespace bitrain::nn
