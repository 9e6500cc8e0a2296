#include <bitrain/nn/functional.h>

#include <numeric>
#include <optional>

#include <gtest/gtest.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/activation.h>
#include <bitrain/nn/batch_norm.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>
#include <bitrain/nn/pooling.h>
#include <bitrain/nn/projection_head.h>
#include <bitrain/nn/recompute.h>

#include "cuda/on_device.h"

namespace bitrain::nn {
namespace {

using testing::Case;
using testing::constant;
using testing::distance;
using testing::expect_same;
using testing::kCuda;
using testing::leaf;
using testing::numbers;
using testing::random_tensor;
using testing::Tensors;
using testing::tolerance_of;

class FunctionalOnCuda : public testing::CudaTest, public ::testing::WithParamInterface<at::ScalarType> {
 protected:
  static void expect_all(const std::vector<Case>& cases) {
    for (const Case& one : cases) {
      SCOPED_TRACE(one.name);
      expect_same(one.f, one.inputs, GetParam(), tolerance_of(GetParam()));
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Dtypes, FunctionalOnCuda, ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& each) { return c10::toString(each.param); });

Tensors both(const std::pair<at::Tensor, at::Tensor>& outputs) {
  return {outputs.first, outputs.second};
}

ForwardContext training() {
  ForwardContext context;
  context.training = true;
  context.dropout = {.seed = 3, .step = 9, .first_token = 5};
  return context;
}

TEST_P(FunctionalOnCuda, Norms) {
  std::vector<Case> cases = {
      {"rms_norm of batches",
       [](const Tensors& t) -> Tensors { return {rms_norm(t[0], t[1], 1e-6)}; },
       {leaf({2, 37, 48}, 1), leaf({48}, 2)}},
      {"rms_norm with a float32 weight",
       [](const Tensors& t) -> Tensors { return {rms_norm(t[0], t[1], 1e-6)}; },
       {leaf({37, 48}, 1), random_tensor({48}, 5).requires_grad_()}},
      {"layer_norm of batches",
       [](const Tensors& t) -> Tensors { return {layer_norm(t[0], t[1], t[2], 1e-6)}; },
       {leaf({2, 37, 48}, 1), leaf({48}, 2), leaf({48}, 4)}},
      {"only the sum is used",
       [](const Tensors& t) -> Tensors { return {add_layer_norm(t[0], t[1], t[2], t[3], 1e-6).first}; },
       {leaf({37, 48}, 1), leaf({37, 48}, 3), constant({48}, 2), constant({48}, 4)}},
  };
  for (const auto& [rows, width] : {std::pair{300, 33}, {37, 48}, {5, 1030}, {140, 2500}}) {
    const Tensors inputs = {leaf({rows, width}, 1), leaf({rows, width}, 3), leaf({width}, 2),
                            leaf({width}, 4)};
    cases.push_back({c10::str("add_rms_norm of width ", width),
                     [](const Tensors& t) { return both(add_rms_norm(t[0], t[1], t[2], 1e-6)); },
                     {inputs[0], inputs[1], inputs[2]}});
    cases.push_back({c10::str("add_layer_norm of width ", width),
                     [](const Tensors& t) { return both(add_layer_norm(t[0], t[1], t[2], t[3], 1e-6)); },
                     inputs});
    cases.push_back(
        {c10::str("add_layer_norm of width ", width, ", only the norm is used"),
         [](const Tensors& t) -> Tensors { return {add_layer_norm(t[0], t[1], t[2], t[3], 1e-6).second}; },
         inputs});
  }
  expect_all(cases);
}

TEST_P(FunctionalOnCuda, Activations) {
  std::vector<Case> cases = {
      {"swiglu",
       [](const Tensors& t) -> Tensors { return {swiglu(t[0], t[1])}; },
       {leaf({19, 71}, 1), leaf({19, 71}, 2)}},
  };
  for (const auto form : {Activation::kIdentity, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu,
                          Activation::kTanh, Activation::kSigmoid}) {
    cases.push_back({c10::str("activation ", static_cast<int>(form)),
                     [form](const Tensors& t) -> Tensors { return {activate(t[0], form) * 1}; },
                     {leaf({19, 71}, 1)}});
  }
  expect_all(cases);
}

TEST_P(FunctionalOnCuda, Rotary) {
  const at::Tensor half = random_tensor({40, 12}, 50);
  const at::Tensor angles = at::cat({half, half}, 1);
  const at::Tensor positions = at::arange(30, at::TensorOptions().dtype(at::kLong)).remainder(13);
  expect_all({
      {"positions",
       [](const Tensors& t) -> Tensors { return {apply_rotary(t[0], t[1], t[2], t[3])}; },
       {leaf({30, 3, 24}, 1), angles.cos(), angles.sin(), positions}},
      {"in order, half tables, a view",
       [](const Tensors& t) -> Tensors { return {apply_rotary(t[0].narrow(1, 1, 3), t[1], t[2])}; },
       {leaf({30, 5, 24}, 1), half.cos(), half.sin()}},
  });
}

TEST_P(FunctionalOnCuda, PackedAttentionOverViewsOfOneTensor) {
  std::vector<Case> cases;
  for (const std::vector<std::int32_t>& boundaries :
       {std::vector<std::int32_t>{0, 1, 131, 138, 200}, {0, 33}, {0, 5, 5, 9}}) {
    for (const std::int64_t kv : {2, 4}) {
      for (const std::int64_t dim : {32, 64, 24, 20}) {
        for (const bool causal : {true, false}) {
          cases.push_back({c10::str(at::ArrayRef<std::int32_t>(boundaries), ", ", kv,
                                    " heads of keys of width ", dim, causal ? ", causal" : ""),
                           [=](const Tensors& t) -> Tensors {
                             return {packed_attention(t[0].narrow(1, 0, 4), t[0].narrow(1, 4, kv),
                                                      t[0].narrow(1, 4 + kv, kv), boundaries, 0.2, causal)};
                           },
                           {leaf({boundaries.back(), 4 + 2 * kv, dim}, 1)}});
        }
      }
    }
  }
  cases.push_back({"wide heads",
                   [](const Tensors& t) -> Tensors {
                     return {packed_attention(t[0], t[1], t[2], {0, 7, 33}, 0.06)};
                   },
                   {leaf({33, 2, 264}, 1), leaf({33, 1, 264}, 2), leaf({33, 1, 264}, 3)}});
  expect_all(cases);
}

// More segments than a grid of the attention kernels has blocks.
TEST_P(FunctionalOnCuda, AttentionOverManySegments) {
  // Segments of one token, which are their own values, and one of nine.
  std::vector<std::int32_t> boundaries(65542);
  std::iota(boundaries.begin(), boundaries.end(), 0);
  const std::int64_t alone = boundaries.back();
  boundaries.push_back(boundaries.back() + 9);
  const auto rows = [&](std::uint64_t seed) {
    return random_tensor({alone + 9, 1, 8}, seed, GetParam()).to(kCuda).requires_grad_();
  };
  const at::Tensor q = rows(1);
  const at::Tensor k = rows(2);
  const at::Tensor v = rows(3);
  const at::Tensor out = packed_attention(q, k, v, boundaries, 0.2);
  EXPECT_TRUE(at::equal(out.slice(0, 0, alone), v.slice(0, 0, alone)));
  const auto last = [&](const at::Tensor& x) { return x.slice(0, alone); };
  const at::Tensor nine = packed_attention(last(q), last(k), last(v), {0, 9}, 0.2);
  EXPECT_LT(distance(last(out), nine), tolerance_of(GetParam()));
  out.sum().backward();
  EXPECT_TRUE(at::equal(v.grad().slice(0, 0, alone), at::ones_like(v.slice(0, 0, alone))));
}

TEST_P(FunctionalOnCuda, TensorsOnTwoDevicesAreAnError) {
  const at::Tensor here = random_tensor({6, 8}, 1, GetParam());
  const at::Tensor there = here.to(kCuda);
  const at::Tensor weight = random_tensor({8}, 2, GetParam());
  const at::Tensor heads = here.view({6, 1, 8});
  EXPECT_THROW((void)rms_norm(there, weight, 1e-6), StateError);
  EXPECT_THROW((void)rms_norm(here, weight.to(kCuda), 1e-6), StateError);
  EXPECT_THROW((void)add_layer_norm(there, here, weight.to(kCuda), weight.to(kCuda), 1e-6), StateError);
  EXPECT_THROW((void)swiglu(there, here), StateError);
  EXPECT_THROW((void)nn::embedding(there, numbers({1, 2})), StateError);
  EXPECT_THROW((void)packed_attention(heads, heads.to(kCuda), heads.to(kCuda), {0, 6}, 1), StateError);
  EXPECT_THROW((void)apply_rotary(heads.to(kCuda), random_tensor({6, 4}, 3), random_tensor({6, 4}, 4)),
               StateError);
  EXPECT_THROW((void)apply_rotary(heads.to(kCuda), random_tensor({5, 4}, 3).to(kCuda),
                                  random_tensor({5, 4}, 4).to(kCuda)),
               DataError);
}

TEST_P(FunctionalOnCuda, DropoutDropsTheElementsThatTheCpuDrops) {
  const DropoutKey key{.seed = 7, .step = 3, .first_token = 100};
  for (const double p : {0.0, 0.1, 0.25, 0.9}) {
    for (const at::Tensor& values : {random_tensor({64, 200}, 1), random_tensor({9, 3, 21}, 2)}) {
      Tensors outputs;
      Tensors gradients;
      for (const at::Device device : {at::Device(at::kCPU), kCuda}) {
        const at::Tensor x = values.to(GetParam()).to(device).clone().requires_grad_();
        const at::Tensor y = dropout(x, p, key, 5) * 1;
        y.backward(at::ones_like(y));
        outputs.push_back(y.detach().cpu());
        gradients.push_back(x.grad().cpu());
      }
      EXPECT_TRUE(at::equal(outputs[1].eq(0), outputs[0].eq(0))) << p;
      EXPECT_TRUE(at::equal(gradients[1].eq(0), gradients[0].eq(0))) << p;
      EXPECT_LE(distance(outputs[1], outputs[0]), GetParam() == at::kFloat ? 0 : tolerance_of(GetParam()));
      EXPECT_LE(distance(gradients[1], gradients[0]),
                GetParam() == at::kFloat ? 0 : tolerance_of(GetParam()));
    }
  }
}

TEST_P(FunctionalOnCuda, Embeddings) {
  const auto rows_of = [](const Tensors& t) -> Tensors { return {nn::embedding(t[0], t[1])}; };
  const auto adapted = [](const Tensors& t) -> Tensors {
    Embedding table(9, 33);
    table.weight = t[0];
    LowRank adapter;
    adapter.a = t[1];
    adapter.b = t[2];
    adapter.scale = 0.5;
    table.adapters = {adapter};
    table.trainable_rows = TrainableRows{t[4], t[3]};
    return {table.forward(t[5], {})};
  };
  const at::Tensor ids = numbers({4, 0, 8, 4, 4, 1, 0});
  expect_all({
      {"rows", rows_of, {leaf({9, 33}, 1), ids}},
      // The gradient of a row is a sum of a thousand, in float32 whatever the type.
      {"many of a row",
       rows_of,
       {leaf({3, 40}, 1), at::arange(3000, at::TensorOptions().dtype(at::kLong)).remainder(3)}},
      {"adapter and trained rows",
       adapted,
       {leaf({9, 33}, 1), leaf({3, 9}, 2), leaf({33, 3}, 3), leaf({2, 33}, 4), numbers({1, 4}), ids}},
  });
}

TEST_P(FunctionalOnCuda, PoolingInAllModes) {
  std::vector<std::vector<Pooling>> choices = {pooling_modes()};
  for (const Pooling mode : pooling_modes()) choices.push_back({mode});
  std::vector<Case> cases;
  for (const auto& modes : choices) {
    cases.push_back({modes.size() == 1 ? pooling_name(modes[0]) : "all",
                     [modes](const Tensors& t) -> Tensors {
                       return {pool_segments(t[0], {0, 1, 14, 15, 40}, modes)};
                     },
                     {leaf({40, 300}, 1)}});
  }
  expect_all(cases);
}

TEST_P(FunctionalOnCuda, OfEqualLargestValuesTheFirstGetsTheGradient) {
  const at::Tensor values = at::arange(240, at::kDouble).view({40, 6}).remainder(4).requires_grad_();
  expect_all({{"ties",
               [](const Tensors& t) -> Tensors {
                 return {pool_segments(t[0], {0, 9, 40}, {Pooling::kMax})};
               },
               {values}}});
}

LowRank low_rank(const at::Tensor& a, const at::Tensor& b, double dropout) {
  LowRank adapter;
  adapter.a = a;
  adapter.b = b;
  adapter.scale = 0.5;
  adapter.dropout = dropout;
  adapter.dropout_stream = 30;
  return adapter;
}

TEST_P(FunctionalOnCuda, LinearMaps) {
  const auto map_of = [](const std::optional<quant::QuantizedTensor>& packed, bool rows) {
    return [packed, rows](const Tensors& t) -> Tensors {
      Linear map(48, 40, false);
      map.weight = packed ? at::Tensor() : t[1];
      if (packed) map.quantized = packed->to(t[0].device());
      map.bias = t[2];
      map.adapters = {low_rank(t[3], t[4], 0.3), low_rank(t[5], t[6], 0), low_rank(t[5], t[6], 0)};
      map.adapters[2].enabled = false;
      if (rows) map.trainable_rows = TrainableRows{t[8], t[7]};
      return {map.forward(t[0], training()), map.forward(t[0], {})};
    };
  };
  const auto pack = [](quant::QuantType type, bool double_quant) {
    return quant::quantize(random_tensor({40, 48}, 20), {type, 64, double_quant});
  };
  const Tensors inputs = {leaf({37, 48}, 1), leaf({40, 48}, 2), leaf({40}, 3),
                          leaf({3, 48}, 4),  leaf({40, 3}, 5),  leaf({2, 48}, 6),
                          leaf({40, 2}, 7),  leaf({2, 48}, 8),  numbers({1, 14})};
  expect_all({
      {"dense", map_of({}, false), inputs},
      {"dense with trained rows", map_of({}, true), inputs},
      {"NF4", map_of(pack(quant::QuantType::kNf4, true), false), inputs},
      {"FP4", map_of(pack(quant::QuantType::kFp4, false), false), inputs},
      {"of batches, without bias",
       [](const Tensors& t) -> Tensors {
         Linear map(48, 40, false);
         map.weight = t[1];
         return {map.forward(t[0], {})};
       },
       {leaf({3, 5, 48}, 1), leaf({40, 48}, 2)}},
  });
}

TEST_P(FunctionalOnCuda, Recompute) {
  const auto twice = [](bool again) {
    return [again](const Tensors& t) {
      const Piece piece = [weight = t[1]](const Tensors& inputs) -> Tensors {
        const at::Tensor y =
            dropout(at::matmul(inputs[0], weight), 0.5, {.seed = 1, .step = 2, .first_token = 0}, 3);
        return {y + inputs[1], y * inputs[1]};
      };
      return again ? recompute(piece, {t[0], t[2]}) : piece({t[0], t[2]});
    };
  };
  const Tensors inputs = {leaf({21, 16}, 3), leaf({16, 16}, 2), leaf({21, 16}, 4)};
  expect_all({{"recomputed", twice(true), inputs}, {"kept", twice(false), inputs}});
}

TEST_P(FunctionalOnCuda, BatchNorms) {
  const auto norm_of = [](BatchStatistics statistics, bool train) {
    return [statistics, train](const Tensors& t) -> Tensors {
      BatchNorm norm(24, t[0].options());
      norm.weight = t[1];
      norm.bias = t[2];
      norm.running_mean = t[3].clone();
      norm.running_var = t[3].square() + 0.5;
      const at::Tensor y = norm.forward(t[0], statistics, train ? training() : ForwardContext{});
      return {y, norm.running_mean, norm.running_var};
    };
  };
  const Tensors inputs = {leaf({17, 24}, 1), leaf({24}, 2), leaf({24}, 3), random_tensor({24}, 4)};
  expect_all({{"batch", norm_of(BatchStatistics::kBatch, true), inputs},
              {"batch, not training", norm_of(BatchStatistics::kBatch, false), inputs},
              {"running", norm_of(BatchStatistics::kRunning, true), inputs}});
}

class HeadOnCuda : public testing::CudaTest {};

TEST_F(HeadOnCuda, ProjectionHead) {
  for (const BatchStatistics statistics : {BatchStatistics::kBatch, BatchStatistics::kRunning}) {
    const auto head_of = [&](const Tensors& t) -> Tensors {
      ProjectionHead head(12, 10, 6, t[0].options());
      head.in_proj.weight = t[1];
      head.norm.weight = t[2];
      head.norm.bias = t[3];
      head.out_proj.weight = t[4];
      head.out_proj.bias = t[5];
      return {head.forward(t[0], statistics, training()), head.norm.running_mean};
    };
    expect_same(
        head_of,
        {leaf({17, 12}, 1), leaf({10, 12}, 2), leaf({10}, 3), leaf({10}, 4), leaf({6, 10}, 5), leaf({6}, 6)},
        at::kFloat, 5e-5);
  }
}

}  // namespace
}  // namespace bitrain::nn
