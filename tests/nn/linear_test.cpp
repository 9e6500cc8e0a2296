#include <bitrain/nn/linear.h>

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/functional.h>

#include "support/gradcheck.h"

namespace bitrain::nn {
namespace {

using testing::expect_gradients;
using testing::random_tensor;
using testing::relative_difference;

at::Tensor indices_of(const std::vector<std::int64_t>& ids) {
  at::Tensor result =
      at::zeros({static_cast<std::int64_t>(ids.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(ids.begin(), ids.end(), result.mutable_data_ptr<std::int64_t>());
  return result;
}

LowRank low_rank(std::int64_t in, std::int64_t out, std::int64_t r, double dropout, std::uint64_t seed,
                 at::ScalarType dtype = at::kDouble) {
  LowRank adapter;
  adapter.a = random_tensor({r, in}, seed, dtype);
  adapter.b = random_tensor({out, r}, seed + 1, dtype);
  adapter.scale = 0.5 + static_cast<double>(seed % 3);
  adapter.dropout = dropout;
  adapter.dropout_stream = seed;
  return adapter;
}

ForwardContext training() {
  ForwardContext context;
  context.training = true;
  context.dropout = {.seed = 3, .step = 9, .first_token = 5};
  return context;
}

/// What forward computes, in plain operators that autograd knows.
at::Tensor explicitly(const Linear& map, const at::Tensor& weight, const at::Tensor& x,
                      const ForwardContext& context) {
  at::Tensor y = at::matmul(x, weight.t());
  if (map.bias.defined()) y = y + map.bias;
  for (const LowRank& adapter : map.adapters) {
    if (!adapter.enabled) continue;
    const at::Tensor input =
        context.training ? nn::dropout(x, adapter.dropout, context.dropout, adapter.dropout_stream) : x;
    y = y + adapter.scale * at::matmul(at::matmul(input, adapter.a.t()), adapter.b.t());
  }
  if (map.trainable_rows)
    y = y.index_copy(1, map.trainable_rows->indices, at::matmul(x, map.trainable_rows->rows.t()));
  return y;
}

/// A map with everything: bias, two adapters (one with dropout), one disabled, and trained rows.
void fill(Linear& map, bool rows) {
  map.bias = random_tensor({map.out_features}, 21, at::kDouble);
  map.adapters = {low_rank(map.in_features, map.out_features, 3, 0.3, 30),
                  low_rank(map.in_features, map.out_features, 2, 0.0, 40),
                  low_rank(map.in_features, map.out_features, 2, 0.0, 50)};
  map.adapters[2].enabled = false;
  if (rows)
    map.trainable_rows =
        TrainableRows{indices_of({1, 4}), random_tensor({2, map.in_features}, 22, at::kDouble)};
}

TEST(Linear, ForwardIsTheSumOfItsParts) {
  for (const bool train : {false, true}) {
    Linear map(6, 7, true, at::kDouble);
    map.weight = random_tensor({7, 6}, 20, at::kDouble);
    fill(map, true);
    const at::Tensor x = random_tensor({5, 6}, 1, at::kDouble);
    const ForwardContext context = train ? training() : ForwardContext{};
    EXPECT_LT(relative_difference(map.forward(x, context), explicitly(map, map.weight, x, context)), 1e-12);
    const at::Tensor batched = map.forward(x.view({1, 5, 6}), context);
    EXPECT_EQ(batched.sizes(), at::IntArrayRef({1, 5, 7}));
    EXPECT_TRUE(at::equal(batched.view({5, 7}), map.forward(x, context)));
  }
}

TEST(Linear, GradientsOfEveryPart) {
  for (const bool rows : {false, true}) {
    Linear map(6, 7, true, at::kDouble);
    map.weight = random_tensor({7, 6}, 20, at::kDouble);
    fill(map, rows);
    std::vector<at::Tensor> inputs{random_tensor({5, 6}, 1, at::kDouble),
                                   map.weight,
                                   map.bias,
                                   map.adapters[0].a,
                                   map.adapters[0].b,
                                   map.adapters[1].a,
                                   map.adapters[1].b};
    if (rows) inputs.push_back(map.trainable_rows->rows);
    for (at::Tensor& input : inputs) input.set_requires_grad(true);
    expect_gradients(
        [&](const std::vector<at::Tensor>& values) {
          map.weight = values[1];
          map.bias = values[2];
          map.adapters[0].a = values[3];
          map.adapters[0].b = values[4];
          map.adapters[1].a = values[5];
          map.adapters[1].b = values[6];
          if (rows) map.trainable_rows->rows = values[7];
          return map.forward(values[0], training());
        },
        inputs);
  }
}

TEST(Linear, OnlyWhatRequiresGradGetsOne) {
  // Every choice of input, weight, bias, A and B: the gradients asked for are right, the others absent.
  for (unsigned wanted = 1; wanted < 32; ++wanted) {
    Linear map(6, 7, true, at::kDouble);
    map.weight = random_tensor({7, 6}, 20, at::kDouble);
    map.bias = random_tensor({7}, 21, at::kDouble);
    map.adapters = {low_rank(6, 7, 3, 0.3, 30)};
    at::Tensor x = random_tensor({5, 6}, 1, at::kDouble);
    std::vector<at::Tensor*> parts{&x, &map.weight, &map.bias, &map.adapters[0].a, &map.adapters[0].b};
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i]->set_requires_grad((wanted >> i & 1U) != 0);
    const at::Tensor weights = random_tensor({5, 7}, 2, at::kDouble);
    (explicitly(map, map.weight, x, training()) * weights).sum().backward();
    std::vector<at::Tensor> expected;
    for (at::Tensor* part : parts) {
      expected.push_back(part->grad());
      part->mutable_grad() = at::Tensor();
    }
    (map.forward(x, training()) * weights).sum().backward();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      ASSERT_EQ(parts[i]->grad().defined(), expected[i].defined()) << wanted << " " << i;
      if (!expected[i].defined()) continue;
      EXPECT_LT(relative_difference(parts[i]->grad(), expected[i]), 1e-12);
    }
  }
}

TEST(Linear, QuantisedWithAdaptersEqualsItsDenseForm) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    Linear dense(32, 48, true, at::kFloat);
    dense.weight = random_tensor({48, 32}, 20);
    Linear packed(32, 48, true, at::kFloat);
    packed.weight = dense.weight.clone();
    packed.quantize({});
    EXPECT_TRUE(packed.is_quantized());
    EXPECT_FALSE(packed.weight.defined());
    dense.weight = packed.dense_weight(at::kFloat).to(dtype);
    dense.bias = random_tensor({48}, 21, dtype);
    packed.bias = dense.bias.clone();
    const at::ScalarType adapter_dtype = dtype == at::kDouble ? at::kDouble : at::kFloat;
    dense.adapters = {low_rank(32, 48, 4, 0.25, 30, adapter_dtype)};
    packed.adapters = {low_rank(32, 48, 4, 0.25, 30, adapter_dtype)};
    at::Tensor gradients[2];
    at::Tensor outputs[2];
    int i = 0;
    std::vector<at::Tensor> adapter_gradients;
    for (Linear* map : {&dense, &packed}) {
      at::Tensor x = random_tensor({9, 32}, 1, dtype).set_requires_grad(true);
      map->adapters[0].a.set_requires_grad(true);
      map->adapters[0].b.set_requires_grad(true);
      outputs[i] = map->forward(x, training());
      (outputs[i] * random_tensor({9, 48}, 2, dtype)).sum().backward();
      gradients[i++] = x.grad();
      adapter_gradients.push_back(map->adapters[0].a.grad());
      adapter_gradients.push_back(map->adapters[0].b.grad());
    }
    // The same products of the same numbers. In bfloat16 the two kernels may round partial sums at other
    // places, which depends on the CPU: there they are held to a share of the largest element.
    const double tolerance = dtype == at::kBFloat16 ? 2e-2 : 0;
    EXPECT_LE(relative_difference(outputs[1], outputs[0]), tolerance) << dtype;
    EXPECT_LE(relative_difference(gradients[1], gradients[0]), tolerance) << dtype;
    EXPECT_TRUE(at::equal(adapter_gradients[0], adapter_gradients[2])) << dtype;
    EXPECT_TRUE(at::equal(adapter_gradients[1], adapter_gradients[3])) << dtype;
    // And the right ones: the explicit form in float64.
    Linear wide(32, 48, true, at::kDouble);
    wide.weight = packed.dense_weight(at::kFloat).to(at::kDouble);
    wide.bias = dense.bias.to(at::kDouble);
    wide.adapters = {low_rank(32, 48, 4, 0.25, 30)};
    at::Tensor x = random_tensor({9, 32}, 1, dtype).to(at::kDouble).set_requires_grad(true);
    (explicitly(wide, wide.weight, x, training()) * random_tensor({9, 48}, 2, dtype).to(at::kDouble))
        .sum()
        .backward();
    EXPECT_LT(relative_difference(gradients[1], x.grad()), std::max(tolerance, 1e-5));
  }
}

TEST(Linear, MergedWeightActsAsTheAdaptedMap) {
  Linear map(6, 7, true, at::kDouble);
  map.weight = random_tensor({7, 6}, 20, at::kDouble);
  fill(map, true);
  const at::Tensor x = random_tensor({5, 6}, 1, at::kDouble);
  const at::Tensor adapted = map.forward(x, {});
  const at::Tensor merged = map.merged_weight(at::kFloat);
  map.adapters.clear();
  map.trainable_rows.reset();
  map.weight = merged.to(at::kDouble);
  // Trained rows replace the weight's rows, adapters included.
  EXPECT_LT(relative_difference(map.forward(x, {}) - map.bias,
                                adapted - map.bias.index_fill(0, indices_of({1, 4}), 0)),
            1e-6);
}

TEST(Linear, MisfitsAreRefused) {
  Linear map(6, 7, false, at::kFloat);
  map.weight = random_tensor({7, 6}, 20);
  EXPECT_THAT(
      [&] {
        (void)map.forward(random_tensor({5, 4}, 1), {});
      },
      ::testing::ThrowsMessage<StateError>(::testing::HasSubstr("from 6 to 7 features got 4")));
  map.quantize({});
  EXPECT_THROW(map.quantize({}), StateError);
}

}  // namespace
}  // namespace bitrain::nn
