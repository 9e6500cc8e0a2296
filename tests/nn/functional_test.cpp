#include <bitrain/nn/functional.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/functional_reference.h>

#include "support/gradcheck.h"

namespace bitrain::nn {
namespace {

using bitrain::testing::expect_gradients;
using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;
using Tensors = std::vector<at::Tensor>;

at::Tensor ids_of(std::vector<std::int64_t> values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong));
}

at::Tensor leaf(at::IntArrayRef sizes, std::uint64_t seed) {
  return random_tensor(sizes, seed, at::kDouble).requires_grad_();
}

struct Tables {
  at::Tensor cos, sin;
};
Tables rotary_tables(std::int64_t positions, std::int64_t dim) {
  const at::Tensor half = random_tensor({positions, dim / 2}, 50);
  const at::Tensor angles = at::cat({half, half}, 1);
  return {angles.cos(), angles.sin()};
}

// Value and gradients of `f` at `inputs` in `dtype` against `plain` at the same values in float64.
void expect_same(const std::function<at::Tensor(const Tensors&)>& f,
                 const std::function<at::Tensor(const Tensors&)>& plain, const Tensors& inputs,
                 at::ScalarType dtype) {
  const double tolerance = dtype == at::kFloat ? 1e-5 : 1.2e-2;
  Tensors narrow;
  Tensors wide;
  for (const at::Tensor& input : inputs) {
    narrow.push_back(input.detach().to(dtype).requires_grad_());
    wide.push_back(narrow.back().detach().to(at::kDouble).requires_grad_());
  }
  const at::Tensor y = f(narrow);
  const at::Tensor expected = plain(wide);
  EXPECT_EQ(y.scalar_type(), dtype);
  EXPECT_LT(relative_difference(y, expected), tolerance);
  const at::Tensor slope = random_tensor(y.sizes(), 99, dtype);
  const auto gradients = torch::autograd::grad({y}, narrow, {slope});
  const auto wanted = torch::autograd::grad({expected}, wide, {slope.to(at::kDouble)});
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(gradients[i].scalar_type(), dtype);
    EXPECT_LT(relative_difference(gradients[i], wanted[i], 0.1), tolerance) << "input " << i;
  }
}

class FunctionalTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(FunctionalTest, NormsMatchPlainAten) {
  const Tensors inputs = {random_tensor({2, 37, 48}, 1), random_tensor({48}, 2)};
  expect_same([](const Tensors& t) { return rms_norm(t[0], t[1], 1e-6); },
              [](const Tensors& t) { return reference::rms_norm(t[0], t[1], 1e-6); }, inputs, GetParam());
  const Tensors three = {random_tensor({37, 48}, 1), random_tensor({37, 48}, 3), random_tensor({48}, 2)};
  for (const double share : {0.0, 1.0, 0.5}) {  // Of the gradient that comes through the sum and the norm.
    const auto both = [&](const std::pair<at::Tensor, at::Tensor>& outputs) {
      return outputs.first * share + outputs.second * (1 - share);
    };
    expect_same([&](const Tensors& t) { return both(add_rms_norm(t[0], t[1], t[2], 1e-6)); },
                [&](const Tensors& t) { return both(reference::add_rms_norm(t[0], t[1], t[2], 1e-6)); },
                three, GetParam());
  }
}

TEST_P(FunctionalTest, LayerNormsMatchPlainAten) {
  const Tensors inputs = {random_tensor({2, 37, 48}, 1), random_tensor({48}, 2), random_tensor({48}, 4)};
  expect_same([](const Tensors& t) { return layer_norm(t[0], t[1], t[2], 1e-6); },
              [](const Tensors& t) { return reference::layer_norm(t[0], t[1], t[2], 1e-6); }, inputs,
              GetParam());
  const Tensors four = {random_tensor({37, 48}, 1), random_tensor({37, 48}, 3), random_tensor({48}, 2),
                        random_tensor({48}, 4)};
  for (const double share : {0.0, 1.0, 0.5}) {  // Of the gradient that comes through the sum and the norm.
    const auto both = [&](const std::pair<at::Tensor, at::Tensor>& outputs) {
      return outputs.first * share + outputs.second * (1 - share);
    };
    expect_same(
        [&](const Tensors& t) { return both(add_layer_norm(t[0], t[1], t[2], t[3], 1e-6)); },
        [&](const Tensors& t) { return both(reference::add_layer_norm(t[0], t[1], t[2], t[3], 1e-6)); }, four,
        GetParam());
  }
  expect_same([](const Tensors& t) { return add_layer_norm(t[0], t[1], t[2], t[3], 1e-6).second; },
              [](const Tensors& t) { return reference::add_layer_norm(t[0], t[1], t[2], t[3], 1e-6).second; },
              four, GetParam());
}

TEST_P(FunctionalTest, GeluMatchesPlainAten) {
  for (const Gelu form : {Gelu::kErf, Gelu::kTanh}) {
    expect_same([&](const Tensors& t) { return gelu(t[0], form); },
                [&](const Tensors& t) { return reference::gelu(t[0], form); }, {random_tensor({19, 70}, 1)},
                GetParam());
  }
}

TEST_P(FunctionalTest, AddedNormWithOneOutputUsed) {
  const Tensors three = {random_tensor({9, 16}, 1), random_tensor({9, 16}, 3), random_tensor({16}, 2)};
  expect_same([](const Tensors& t) { return add_rms_norm(t[0], t[1], t[2], 1e-6).second; },
              [](const Tensors& t) { return reference::add_rms_norm(t[0], t[1], t[2], 1e-6).second; }, three,
              GetParam());
  const Tensors two = {three[0], three[1]};
  const at::Tensor weight = at::ones({16});
  expect_same([&](const Tensors& t) { return add_rms_norm(t[0], t[1], weight, 1e-6).first; },
              [](const Tensors& t) { return t[0] + t[1]; }, two, GetParam());
}

TEST_P(FunctionalTest, SwigluMatchesPlainAten) {
  expect_same([](const Tensors& t) { return swiglu(t[0], t[1]); },
              [](const Tensors& t) { return reference::swiglu(t[0], t[1]); },
              {random_tensor({19, 70}, 1), random_tensor({19, 70}, 2)}, GetParam());
}

TEST_P(FunctionalTest, RotaryMatchesPlainAten) {
  const Tables tables = rotary_tables(40, 24);
  const at::Tensor positions = at::arange(30, at::TensorOptions().dtype(at::kLong)).remainder(13);
  for (const at::Tensor& ids : {positions, at::Tensor()}) {
    expect_same([&](const Tensors& t) { return apply_rotary(t[0], tables.cos, tables.sin, ids); },
                [&](const Tensors& t) { return reference::apply_rotary(t[0], tables.cos, tables.sin, ids); },
                {random_tensor({30, 3, 24}, 1)}, GetParam());
  }
}

TEST_P(FunctionalTest, RotaryReadsHalfTablesAndViews) {
  const Tables tables = rotary_tables(12, 8);
  const at::Tensor qkv = random_tensor({12, 5, 8}, 1, GetParam());
  const at::Tensor view = qkv.narrow(1, 1, 3);
  const at::Tensor whole = apply_rotary(view, tables.cos, tables.sin);
  const at::Tensor half =
      apply_rotary(view.contiguous(), tables.cos.narrow(1, 0, 4), tables.sin.narrow(1, 0, 4));
  EXPECT_TRUE(whole.equal(half));
}

TEST_P(FunctionalTest, PackedAttentionMatchesPlainAten) {
  const std::vector<std::int32_t> boundaries = {0, 5, 70, 171};
  const Tensors inputs = {random_tensor({171, 6, 32}, 1), random_tensor({171, 2, 32}, 2),
                          random_tensor({171, 2, 32}, 3)};
  for (const bool causal : {true, false}) {
    expect_same([&](const Tensors& t) { return packed_attention(t[0], t[1], t[2], boundaries, 0.2, causal); },
                [&](const Tensors& t) {
                  return reference::packed_attention(t[0], t[1], t[2], boundaries, 0.2, causal);
                },
                inputs, GetParam());
  }
}

TEST_P(FunctionalTest, PackedEqualsOneByOneBitForBit) {
  const std::vector<std::int32_t> boundaries = {0, 64, 65, 200, 328};
  const at::Tensor q = random_tensor({328, 4, 64}, 1, GetParam());
  const at::Tensor k = random_tensor({328, 2, 64}, 2, GetParam());
  const at::Tensor v = random_tensor({328, 2, 64}, 3, GetParam());
  const at::Tensor packed = packed_attention(q, k, v, boundaries, 0.125);
  for (std::size_t i = 0; i + 1 < boundaries.size(); ++i) {
    const std::int64_t length = boundaries[i + 1] - boundaries[i];
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, boundaries[i], length); };
    const at::Tensor alone =
        packed_attention(part(q), part(k), part(v), {0, static_cast<std::int32_t>(length)}, 0.125);
    EXPECT_TRUE(alone.equal(part(packed))) << "segment " << i;
  }
}

TEST_P(FunctionalTest, EmbeddingMatchesPlainAten) {
  const at::Tensor ids = ids_of({4, 0, 8, 4, 4, 1, 0});
  expect_same([&](const Tensors& t) { return nn::embedding(t[0], ids); },
              [&](const Tensors& t) { return reference::embedding(t[0], ids); }, {random_tensor({9, 33}, 1)},
              GetParam());
}

TEST_P(FunctionalTest, DropoutDependsOnTokenNotOnBatch) {
  const DropoutKey key{.seed = 7, .step = 3, .first_token = 100};
  const at::Tensor x = at::ones({64, 200}).to(GetParam());
  const at::Tensor y = dropout(x, 0.25, key, 5);
  EXPECT_TRUE(y.equal(reference::dropout(x, 0.25, key, 5)));
  DropoutKey later = key;
  later.first_token = 120;
  EXPECT_TRUE(dropout(x.narrow(0, 20, 10), 0.25, later, 5).equal(y.narrow(0, 20, 10)));
  EXPECT_FALSE(dropout(x, 0.25, key, 6).equal(y));
  later = key;
  later.step = 4;
  EXPECT_FALSE(dropout(x, 0.25, later, 5).equal(y));
  later = key;
  later.seed = 8;
  EXPECT_FALSE(dropout(x, 0.25, later, 5).equal(y));
  EXPECT_NEAR(y.eq(0).to(at::kFloat).mean().item<double>(), 0.25, 0.01);
  EXPECT_NEAR(y.to(at::kFloat).mean().item<double>(), 1.0, 0.02);

  const at::Tensor leaf_x = x.clone().requires_grad_();
  const auto gradient = torch::autograd::grad({dropout(leaf_x, 0.25, key, 5)}, {leaf_x}, {at::ones_like(x)});
  EXPECT_TRUE(gradient[0].equal(y)) << "backward draws the same mask";
  EXPECT_TRUE(dropout(x, 0.0, key, 5).is_same(x));
}

TEST_P(FunctionalTest, ResultsDoNotDependOnThreads) {
  const at::Tensor x = random_tensor({500, 6, 64}, 1, GetParam());
  const at::Tensor weight = random_tensor({64}, 2, GetParam());
  const int threads = at::get_num_threads();
  Tensors results[2];
  for (const int run : {0, 1}) {
    at::set_num_threads(run == 0 ? 1 : 3);
    const at::Tensor input = x.clone().requires_grad_();
    const at::Tensor scale = weight.clone().requires_grad_();
    const at::Tensor normed = rms_norm(input, scale, 1e-5);
    const at::Tensor shifted = add_layer_norm(gelu(normed), input, scale, weight, 1e-5).second;
    const at::Tensor y = packed_attention(normed, shifted, swiglu(normed, input), {0, 200, 500}, 0.125);
    results[run] = torch::autograd::grad({y}, {input, scale}, {x});
    results[run].push_back(y);
  }
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(results[0][i].equal(results[1][i])) << i;
}

INSTANTIATE_TEST_SUITE_P(Dtypes, FunctionalTest, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& each) { return each.param == at::kFloat ? "float32" : "bfloat16"; });

TEST(Functional, NormWithFloatWeightOnBfloat16) {
  const at::Tensor x = random_tensor({11, 40}, 1, at::kBFloat16).requires_grad_();
  const at::Tensor weight = random_tensor({40}, 2).requires_grad_();
  const at::Tensor y = rms_norm(x, weight, 1e-5);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  const auto gradients = torch::autograd::grad({y}, {x, weight}, {at::ones_like(y)});
  EXPECT_EQ(gradients[0].scalar_type(), at::kBFloat16);
  EXPECT_EQ(gradients[1].scalar_type(), at::kFloat);
}

TEST(Functional, GradientsInFloat64) {
  expect_gradients([](const Tensors& t) { return rms_norm(t[0], t[1], 1e-5); },
                   {leaf({3, 7}, 1), leaf({7}, 2)});
  expect_gradients([](const Tensors& t) { return add_rms_norm(t[0], t[1], t[2], 1e-5).second; },
                   {leaf({3, 7}, 1), leaf({3, 7}, 3), leaf({7}, 2)});
  expect_gradients([](const Tensors& t) { return layer_norm(t[0], t[1], t[2], 1e-5); },
                   {leaf({3, 7}, 1), leaf({7}, 2), leaf({7}, 3)});
  expect_gradients(
      [](const Tensors& t) {
        const auto [sum, normed] = add_layer_norm(t[0], t[1], t[2], t[3], 1e-5);
        return sum * 0.5 + normed;
      },
      {leaf({3, 7}, 1), leaf({3, 7}, 3), leaf({7}, 2), leaf({7}, 4)});
  for (const Gelu form : {Gelu::kErf, Gelu::kTanh})
    expect_gradients([&](const Tensors& t) { return gelu(t[0], form); }, {leaf({4, 9}, 1)});
  expect_gradients([](const Tensors& t) { return swiglu(t[0], t[1]); }, {leaf({4, 5}, 1), leaf({4, 5}, 2)});
  const Tables tables = rotary_tables(6, 4);
  expect_gradients([&](const Tensors& t) { return apply_rotary(t[0], tables.cos, tables.sin); },
                   {leaf({5, 2, 4}, 1)});
  expect_gradients(
      [](const Tensors& t) {
        return packed_attention(t[0], t[1], t[2], {0, 3, 7}, 0.5);
      },
      {leaf({7, 2, 4}, 1), leaf({7, 1, 4}, 2), leaf({7, 1, 4}, 3)});
  expect_gradients(
      [](const Tensors& t) { return dropout(t[0], 0.4, {.seed = 1, .step = 2, .first_token = 3}, 9); },
      {leaf({3, 20}, 1)});
  expect_gradients(
      [](const Tensors& t) {
        return nn::embedding(t[0], ids_of({1, 2, 1}));
      },
      {leaf({4, 3}, 1)});
}

TEST(Functional, BadInputsAreNamed) {
  const at::Tensor x = at::ones({4, 2, 8});
  const Tables tables = rotary_tables(4, 8);
  EXPECT_THROW((void)rms_norm(x, at::ones({7}), 1e-5), StateError);
  EXPECT_THROW((void)add_rms_norm(x, at::ones({4, 2, 7}), at::ones({8}), 1e-5), StateError);
  EXPECT_THROW((void)layer_norm(x, at::ones({7}), at::ones({7}), 1e-5), StateError);
  EXPECT_THROW((void)layer_norm(x, at::ones({8}), at::ones({7}), 1e-5), StateError);
  EXPECT_THROW((void)layer_norm(x, at::ones({8}), at::ones({8}).to(at::kBFloat16), 1e-5), StateError);
  EXPECT_THROW((void)add_layer_norm(x, at::ones({4, 2, 7}), at::ones({8}), at::ones({8}), 1e-5), StateError);
  EXPECT_THROW((void)swiglu(x, at::ones({4, 2, 7})), StateError);
  EXPECT_THROW((void)apply_rotary(x, tables.cos, tables.sin, ids_of({0, 1, 2, 4})), DataError);
  EXPECT_THROW((void)apply_rotary(x, tables.cos, tables.sin, ids_of({0, 1, 2, -1})), DataError);
  EXPECT_THROW((void)apply_rotary(at::ones({5, 2, 8}), tables.cos, tables.sin), DataError);
  EXPECT_THROW((void)apply_rotary(x, tables.cos.narrow(1, 0, 3), tables.sin.narrow(1, 0, 3)), StateError);
  EXPECT_THROW((void)packed_attention(x, x, x, {0, 3}, 1.0), StateError);
  EXPECT_THROW((void)packed_attention(x, x, x, {0, 5, 4}, 1.0), StateError);
  EXPECT_THROW((void)packed_attention(x, at::ones({4, 3, 8}), at::ones({4, 3, 8}), {0, 4}, 1.0), StateError);
  EXPECT_THROW((void)dropout(x, 1.0, {}, 0), ConfigError);
  EXPECT_THROW((void)dropout(x, -0.1, {}, 0), ConfigError);
  EXPECT_THROW((void)nn::embedding(at::ones({4, 2}), ids_of({0, 4})), DataError);
  try {
    (void)nn::embedding(at::ones({4, 2}), ids_of({0, 1, -1}));
    FAIL();
  } catch (const DataError& error) {
    EXPECT_STREQ(
        error.what(),
        "token id -1 at position 2 is outside the table of 4 rows: does the tokenizer belong to this model?");
  }
}

}  // namespace
}  // namespace bitrain::nn
