#include <bitrain/kernels/cpu_kernels.h>

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scatter.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <bitrain/base/rng.h>

#include "support/gradcheck.h"

namespace bitrain::kernels {
namespace {

using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;

struct Case {
  const char* isa;
  at::ScalarType dtype;
};

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return std::string(info.param.isa) + (info.param.dtype == at::kFloat ? "_float32" : "_bfloat16");
}

// Every kernel of every instruction set that this machine has, against float64 ATen on the same inputs.
class CpuKernelsTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    table_ = cpu_kernels_for(GetParam().isa);
    if (table_ == nullptr) GTEST_SKIP() << "this machine has no " << GetParam().isa;
  }
  [[nodiscard]] const Kernels& table() const { return *table_; }
  [[nodiscard]] at::ScalarType dtype() const { return GetParam().dtype; }
  [[nodiscard]] FloatType type() const {
    return dtype() == at::kFloat ? FloatType::kFloat32 : FloatType::kBFloat16;
  }
  // bfloat16 keeps 8 bits: half a unit in the last place of the result.
  [[nodiscard]] double tolerance() const { return dtype() == at::kFloat ? 2e-6 : 4e-3; }
  [[nodiscard]] at::Tensor draw(at::IntArrayRef sizes, std::uint64_t seed) const {
    return random_tensor(sizes, seed, dtype());
  }

 private:
  const Kernels* table_ = nullptr;
};

ConstRows const_rows(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0)};
}
Rows rows(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0)};
}
at::Tensor wide(const at::Tensor& x) {
  return x.to(at::kDouble);
}

TEST_P(CpuKernelsTest, RmsNormForwardAndBackward) {
  for (const std::int64_t dim : {1, 7, 16, 33, 384, 1000}) {
    for (const std::int64_t count : {1, 3, 70, 200}) {
      const at::Tensor x = draw({count, dim}, 1);
      const at::Tensor residual = draw({count, dim}, 2);
      const at::Tensor dy = draw({count, dim}, 3);
      const at::Tensor dsum = draw({count, dim}, 4);
      const at::Tensor weight = draw({dim}, 5);
      at::Tensor sum = at::empty_like(x);
      at::Tensor y = at::empty_like(x);
      const at::Tensor rstd = at::empty({count}, at::TensorOptions().dtype(at::kFloat));
      table().rms_norm(type(), const_rows(x), const_rows(residual), rows(sum), weight.const_data_ptr(),
                       type(), count, dim, 1e-5F, rows(y), rstd.mutable_data_ptr<float>());
      EXPECT_LT(relative_difference(sum, wide(x) + wide(residual)), tolerance());

      const at::Tensor input = wide(sum).requires_grad_();
      const at::Tensor scale = wide(weight).requires_grad_();
      const at::Tensor expected = input * (input.square().mean(-1, true) + 1e-5).rsqrt() * scale;
      EXPECT_LT(relative_difference(y, expected), tolerance()) << dim << " " << count;

      const auto gradients =
          torch::autograd::grad({expected, input * 1.0}, {input, scale}, {wide(dy), wide(dsum)});
      at::Tensor dx = at::empty_like(x);
      at::Tensor dweight = at::empty({dim}, at::TensorOptions().dtype(at::kFloat));
      table().rms_norm_backward(type(), const_rows(dy), const_rows(dsum), const_rows(sum),
                                weight.const_data_ptr(), type(), rstd.const_data_ptr<float>(), count, dim,
                                rows(dx), dweight.mutable_data_ptr<float>());
      EXPECT_LT(relative_difference(dx, gradients[0]), tolerance()) << dim << " " << count;
      EXPECT_LT(relative_difference(dweight, gradients[1]), 1e-5) << dim << " " << count;
    }
  }
}

TEST_P(CpuKernelsTest, RotaryTurnsAndTurnsBack) {
  for (const std::int64_t dim : {2, 6, 32, 64, 100}) {
    const std::int64_t tokens = 37;
    const std::int64_t heads = 3;
    const at::Tensor x = draw({tokens, heads, dim}, 1);
    const at::Tensor angles = random_tensor({50, dim / 2}, 2);
    const at::Tensor cos = angles.cos();
    const at::Tensor sin = angles.sin();
    std::vector<std::int64_t> positions(tokens);
    for (std::int64_t t = 0; t < tokens; ++t) positions[t] = (t * 7) % 50;
    at::Tensor y = at::empty_like(x);
    table().rotary(type(), const_rows(x), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), dim / 2,
                   positions.data(), tokens, heads, dim, false, rows(y));
    for (std::int64_t t = 0; t < tokens; ++t) {
      const at::Tensor c = wide(cos[positions[t]]);
      const at::Tensor s = wide(sin[positions[t]]);
      const at::Tensor first = wide(x[t]).narrow(1, 0, dim / 2);
      const at::Tensor second = wide(x[t]).narrow(1, dim / 2, dim / 2);
      EXPECT_LT(relative_difference(y[t].narrow(1, 0, dim / 2), first * c - second * s), tolerance() * 2);
      EXPECT_LT(relative_difference(y[t].narrow(1, dim / 2, dim / 2), second * c + first * s),
                tolerance() * 2);
    }
    table().rotary(type(), const_rows(y), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), dim / 2,
                   positions.data(), tokens, heads, dim, true, rows(y));  // In place.
    EXPECT_LT(relative_difference(y, wide(x)), tolerance() * 3);
  }
}

TEST_P(CpuKernelsTest, SwigluForwardAndBackward) {
  for (const std::int64_t n : {1, 15, 17, 2048, 40001}) {
    const at::Tensor gate = draw({n}, 1).mul_(4);
    const at::Tensor up = draw({n}, 2);
    const at::Tensor dy = draw({n}, 3);
    at::Tensor y = at::empty_like(gate);
    table().swiglu(type(), gate.const_data_ptr(), up.const_data_ptr(), n, y.data_ptr());
    const at::Tensor g = wide(gate).requires_grad_();
    const at::Tensor u = wide(up).requires_grad_();
    const at::Tensor expected = at::silu(g) * u;
    EXPECT_LT(relative_difference(y, expected), tolerance()) << n;
    const auto gradients = torch::autograd::grad({expected}, {g, u}, {wide(dy)});
    at::Tensor dgate = at::empty_like(gate);
    at::Tensor dup = at::empty_like(gate);
    table().swiglu_backward(type(), dy.const_data_ptr(), gate.const_data_ptr(), up.const_data_ptr(), n,
                            dgate.data_ptr(), dup.data_ptr());
    EXPECT_LT(relative_difference(dgate, gradients[0]), tolerance()) << n;
    EXPECT_LT(relative_difference(dup, gradients[1]), tolerance()) << n;
  }
}

TEST_P(CpuKernelsTest, LayerNormForwardAndBackward) {
  for (const std::int64_t dim : {1, 7, 64, 100, 384}) {
    for (const bool biased : {true, false}) {
      const std::int64_t count = 131;
      const at::Tensor x = draw({count, dim}, 1).add_(2);
      const at::Tensor residual = draw({count, dim}, 2);
      const at::Tensor weight = draw({dim}, 3);
      const at::Tensor bias = draw({dim}, 4);
      const at::Tensor dy = draw({count, dim}, 5);
      const at::Tensor dsum = draw({count, dim}, 6);
      const at::Tensor sum = at::empty_like(x);
      const at::Tensor y = at::empty_like(x);
      const at::Tensor mean = at::empty({count}, at::TensorOptions().dtype(at::kFloat));
      const at::Tensor rstd = at::empty_like(mean);
      table().layer_norm(type(), const_rows(x), const_rows(residual), rows(sum), weight.const_data_ptr(),
                         biased ? bias.const_data_ptr() : nullptr, type(), count, dim, 1e-5F, rows(y),
                         mean.mutable_data_ptr<float>(), rstd.mutable_data_ptr<float>());
      EXPECT_TRUE(sum.equal(x + residual));
      const at::Tensor s = wide(sum).requires_grad_();
      const at::Tensor w = wide(weight).requires_grad_();
      const at::Tensor b = (biased ? wide(bias) : at::zeros_like(w)).requires_grad_();
      const at::Tensor expected = at::layer_norm(s, w.sizes(), w, b, 1e-5);
      EXPECT_LT(relative_difference(y, expected), tolerance() * 2) << dim;
      const auto gradients = torch::autograd::grad({expected}, {s, w, b}, {wide(dy)});

      const at::Tensor dx = at::empty_like(x);
      const at::Tensor dweight = at::empty({dim}, at::TensorOptions().dtype(at::kFloat));
      const at::Tensor dbias = at::empty_like(dweight);
      table().layer_norm_backward(type(), const_rows(dy), const_rows(dsum), const_rows(sum),
                                  weight.const_data_ptr(), type(), mean.const_data_ptr<float>(),
                                  rstd.const_data_ptr<float>(), count, dim, rows(dx),
                                  dweight.mutable_data_ptr<float>(), dbias.mutable_data_ptr<float>());
      EXPECT_LT(relative_difference(dx, gradients[0] + wide(dsum)), tolerance() * 2) << dim;
      EXPECT_LT(relative_difference(dweight, gradients[1], 1.0), 1e-5) << dim;
      EXPECT_LT(relative_difference(dbias, gradients[2], 1.0), 1e-5) << dim;
      table().layer_norm_backward(type(), const_rows(dy), {}, const_rows(sum), weight.const_data_ptr(),
                                  type(), mean.const_data_ptr<float>(), rstd.const_data_ptr<float>(), count,
                                  dim, rows(dx), nullptr, nullptr);
      EXPECT_LT(relative_difference(dx, gradients[0], 1.0), tolerance() * 2) << dim;
    }
  }
}

TEST_P(CpuKernelsTest, GeluForwardAndBackward) {
  for (const bool tanh : {false, true}) {
    for (const std::int64_t n : {1, 15, 17, 2048, 40001}) {
      const at::Tensor x = draw({n}, 1).mul_(3);
      const at::Tensor dy = draw({n}, 3);
      const at::Tensor y = at::empty_like(x);
      const at::Tensor dx = at::empty_like(x);
      table().gelu(type(), tanh, x.const_data_ptr(), n, y.data_ptr());
      const at::Tensor input = wide(x).requires_grad_();
      const at::Tensor expected = at::gelu(input, tanh ? "tanh" : "none");
      EXPECT_LT(relative_difference(y, expected), tolerance()) << n;
      table().gelu_backward(type(), tanh, dy.const_data_ptr(), x.const_data_ptr(), n, dx.data_ptr());
      EXPECT_LT(relative_difference(dx, torch::autograd::grad({expected}, {input}, {wide(dy)})[0]),
                tolerance())
          << n;
    }
  }
}

TEST_P(CpuKernelsTest, GeluKeepsTheDigitsOfItsTails) {
  const at::Tensor x = at::tensor({-9.0, -5.0, -3.0, -1.0, -0.01, 0.0, 0.01, 3.0, 60.0}).to(dtype());
  const at::Tensor y = at::empty_like(x);
  table().gelu(type(), false, x.const_data_ptr(), x.numel(), y.data_ptr());
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double value = x[i].item<double>();
    const double expected = value * 0.5 * std::erfc(-value / std::sqrt(2.0));
    EXPECT_NEAR(y[i].item<double>(), expected, std::abs(expected) * tolerance() * 2) << value;
  }
  const at::Tensor nan = at::tensor({std::nan("")}).to(dtype());
  table().gelu(type(), false, nan.const_data_ptr(), 1, nan.data_ptr());
  EXPECT_TRUE(nan.isnan().item<bool>());
}

TEST_P(CpuKernelsTest, SegmentsAreSummedAndMaximised) {
  const std::vector<std::int32_t> boundaries = {0, 3, 4, 300, 311};
  const std::int64_t dim = 67;
  const at::Tensor x = draw({311, dim}, 1);
  const at::Tensor weights = random_tensor({311}, 2);
  const at::Tensor dy = random_tensor({4, dim}, 3);
  const at::Tensor y = at::empty_like(dy);
  const at::Tensor largest = at::empty_like(dy);
  const at::Tensor where = at::empty({4, dim}, at::TensorOptions().dtype(at::kInt));
  const at::Tensor dx = at::empty_like(x);
  table().segment_sum(type(), const_rows(x), weights.const_data_ptr<float>(), boundaries.data(), 4, dim,
                      y.mutable_data_ptr<float>());
  table().segment_max(type(), const_rows(x), boundaries.data(), 4, dim, largest.mutable_data_ptr<float>(),
                      where.mutable_data_ptr<std::int32_t>());
  for (std::int64_t s = 0; s < 4; ++s) {
    const auto part = [&](const at::Tensor& t) {
      return wide(t.narrow(0, boundaries[s], boundaries[s + 1] - boundaries[s]));
    };
    EXPECT_LT(relative_difference(y[s], (part(x) * part(weights).unsqueeze(1)).sum(0)), 2e-6) << s;
    const auto [values, index] = at::max(part(x), 0);
    EXPECT_TRUE(wide(largest[s]).equal(values)) << s;
    EXPECT_TRUE(where[s].to(at::kLong).equal(index + boundaries[s])) << s;
  }
  table().segment_sum_backward(type(), dy.const_data_ptr<float>(), weights.const_data_ptr<float>(),
                               boundaries.data(), 4, dim, rows(dx));
  EXPECT_LT(relative_difference(dx[2], wide(dy[0]) * wide(weights[2])), tolerance());
  EXPECT_LT(relative_difference(dx[299], wide(dy[2]) * wide(weights[299])), tolerance());
  table().segment_max_backward(type(), dy.const_data_ptr<float>(), where.const_data_ptr<std::int32_t>(),
                               boundaries.data(), 4, dim, rows(dx));
  const at::Tensor expected = at::zeros({311, dim}).to(at::kDouble).scatter(0, where.to(at::kLong), wide(dy));
  EXPECT_LT(relative_difference(dx, expected), tolerance());
}

TEST_P(CpuKernelsTest, CrossEntropyWritesItsGradientInPlace) {
  for (const std::int64_t vocab : {1, 2, 17, 1000, 5003}) {
    const std::int64_t count = 9;
    const at::Tensor logits = draw({count, vocab}, 1).mul_(5);
    std::vector<std::int64_t> labels(count);
    for (std::int64_t i = 0; i < count; ++i) labels[i] = (i * 31) % vocab;
    const at::Tensor weights = random_tensor({count}, 2).abs();
    const at::Tensor losses = at::empty({count}, at::TensorOptions().dtype(at::kFloat));
    const at::Tensor log_p = at::log_softmax(wide(logits), 1);
    at::Tensor slope = log_p.exp();
    for (std::int64_t i = 0; i < count; ++i) slope[i][labels[i]] -= 1;
    slope = slope * wide(weights).unsqueeze(1);

    const at::Tensor untouched = logits.clone();
    table().cross_entropy(type(), rows(untouched), labels.data(), nullptr, count, vocab, false,
                          losses.mutable_data_ptr<float>());
    EXPECT_TRUE(untouched.equal(logits));
    table().cross_entropy(type(), rows(logits), labels.data(), weights.const_data_ptr<float>(), count, vocab,
                          true, losses.mutable_data_ptr<float>());
    for (std::int64_t i = 0; i < count; ++i) {
      EXPECT_NEAR(losses[i].item<double>(), -log_p[i][labels[i]].item<double>(), 1e-5) << vocab;
    }
    // A build without vectors (sanitizers) adds the exponentials of a long row one by one.
    EXPECT_LT(relative_difference(logits, slope, 1.0), vocab > 1000 ? 4 * tolerance() : tolerance()) << vocab;
  }
}

TEST_P(CpuKernelsTest, CrossEntropyKeepsNan) {
  const at::Tensor logits = draw({2, 40}, 1);
  logits[1][3] = NAN;
  const std::vector<std::int64_t> labels = {0, 0};
  float losses[2];
  table().cross_entropy(type(), rows(logits), labels.data(), nullptr, 2, 40, true, losses);
  EXPECT_TRUE(std::isfinite(losses[0]));
  EXPECT_TRUE(std::isnan(losses[1]));
  EXPECT_TRUE(logits[1].isnan().all().item<bool>());
}

TEST_P(CpuKernelsTest, SumOfSquaresOverManySpans) {
  std::vector<at::Tensor> tensors;
  std::vector<ConstSpan> spans;
  double expected = 0;
  for (const std::int64_t n : {0, 1, 5, 16384, 16385, 100003}) {
    tensors.push_back(draw({n}, 11 + n));
    spans.push_back({tensors.back().const_data_ptr(), type(), n});
    expected += wide(tensors.back()).square().sum().item<double>();
  }
  const double sum = table().sum_of_squares(spans.data(), static_cast<std::int64_t>(spans.size()));
  EXPECT_NEAR(sum, expected, expected * 1e-12);
  EXPECT_EQ(sum, table().sum_of_squares(spans.data(), static_cast<std::int64_t>(spans.size())));
  tensors.back()[70000] = INFINITY;
  EXPECT_TRUE(std::isinf(table().sum_of_squares(spans.data(), static_cast<std::int64_t>(spans.size()))));
  EXPECT_EQ(table().sum_of_squares(nullptr, 0), 0.0);
}

TEST_P(CpuKernelsTest, AdamwFollowsPyTorch) {
  for (const std::int64_t n : {1, 31, 20000}) {
    at::Tensor weight = random_tensor({n}, 1);
    std::vector<at::Tensor> reference = {weight.clone()};
    std::vector<at::Tensor> exp_avg = {at::zeros({n})};
    std::vector<at::Tensor> exp_avg_sq = {at::zeros({n})};
    at::Tensor m = at::zeros({n});
    at::Tensor v = at::zeros({n});
    at::Tensor stored = weight.to(dtype());
    for (std::int64_t step = 1; step <= 3; ++step) {
      const at::Tensor grad = draw({n}, 100 + step);
      const AdamWTensor tensor{.weight = stored.data_ptr(),
                               .weight_type = type(),
                               .master = dtype() == at::kFloat ? nullptr : weight.mutable_data_ptr<float>(),
                               .grad = grad.const_data_ptr(),
                               .grad_type = type(),
                               .exp_avg = m.mutable_data_ptr<float>(),
                               .exp_avg_sq = v.mutable_data_ptr<float>(),
                               .numel = n,
                               .lr = 1e-2,
                               .weight_decay = 0.1,
                               .step = step};
      table().adamw(&tensor, 1, {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .grad_scale = 0.5});
      const at::Tensor state_step = at::ones({}) * static_cast<double>(step);
      std::vector<at::Tensor> gradients = {grad.to(at::kFloat) * 0.5};
      std::vector<at::Tensor> steps = {state_step};
      at::_fused_adamw_(reference, gradients, exp_avg, exp_avg_sq, {}, steps, 1e-2, 0.9, 0.95, 0.1, 1e-8,
                        false, false);
    }
    const at::Tensor& result = dtype() == at::kFloat ? stored : weight;
    EXPECT_LT(relative_difference(result, reference[0]), 1e-6) << n;
    EXPECT_LT(relative_difference(m, exp_avg[0]), 1e-6) << n;
    EXPECT_LT(relative_difference(v, exp_avg_sq[0]), 1e-6) << n;
    EXPECT_TRUE(stored.equal(result.to(dtype()))) << "the master, rounded";
  }
}

TEST_P(CpuKernelsTest, DropoutIsThePhiloxItSaysItIs) {
  const std::int64_t tokens = 5;
  const std::int64_t dim = 300;
  const std::uint64_t key = 0x123456789abcdef1U;
  const std::int64_t first_token = 1000;
  const std::uint32_t threshold = 20000;
  const at::Tensor x = at::ones({tokens, dim}).to(dtype());
  at::Tensor y = at::empty_like(x);
  table().dropout(type(), const_rows(x), key, first_token, threshold, tokens, dim, rows(y));
  const float kept = at::ones({1}).mul(65536.0 / (65536 - 20000)).to(dtype()).item<float>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t f = 0; f < dim; ++f) {
      const auto block = philox4x32(key, static_cast<std::uint64_t>(first_token + t),
                                    static_cast<std::uint64_t>(f / 128 * 16 + f % 16));
      const auto half = static_cast<std::size_t>(f % 128 / 16);
      const std::uint32_t bits = block[half / 2] >> (half % 2 * 16) & 0xffffU;
      ASSERT_EQ(y[t][f].item<float>(), bits >= threshold ? kept : 0.0F) << t << " " << f;
    }
  }
}

TEST_P(CpuKernelsTest, GatherAndScatter) {
  const std::int64_t dim = 37;
  const at::Tensor table_rows = draw({11, dim}, 1);
  const std::vector<std::int64_t> ids = {3, 0, 10, 3, 3, 0};
  const auto n = static_cast<std::int64_t>(ids.size());
  at::Tensor y = at::zeros({n, dim}).to(dtype());
  table().gather(type(), table_rows.const_data_ptr(), ids.data(), n, dim, y.data_ptr());
  for (std::int64_t i = 0; i < n; ++i) EXPECT_TRUE(y[i].equal(table_rows[ids[i]]));

  const at::Tensor dy = draw({n, dim}, 2);
  const std::vector<std::int64_t> order = {1, 5, 0, 3, 4, 2};
  const std::vector<std::int64_t> starts = {0, 2, 5, 6};
  at::Tensor gradient = at::zeros({11, dim}).to(dtype());
  table().scatter_add(type(), const_rows(dy), ids.data(), order.data(), starts.data(), 3, dim,
                      gradient.data_ptr());
  at::Tensor expected = at::zeros({11, dim}).to(at::kDouble);
  for (std::int64_t i = 0; i < n; ++i) expected[ids[i]] += wide(dy[i]);
  EXPECT_LT(relative_difference(gradient, expected), tolerance());
}

TEST_P(CpuKernelsTest, GatherMeanIsTheRoundedMeanOfRows) {
  for (const std::int64_t dim : {64, 149}) {  // Whole registers, and a rest.
    at::Tensor rows = draw({14, dim}, 1);
    const std::vector<std::int32_t> ids = {3, 0, 10, 3, 7, 7, 1};
    const std::vector<float> weights = {1, 2, 5, 1, 3, 3, 1};
    const std::vector<std::int64_t> offsets = {0, 1, 4, 7};
    for (const bool weighted : {false, true}) {
      // The means go into the last rows of the table itself, as new rows of a vocabulary do.
      table().gather_mean(type(), rows.const_data_ptr(), ids.data(), weighted ? weights.data() : nullptr,
                          offsets.data(), 3, dim,
                          static_cast<char*>(rows.mutable_data_ptr()) + 11 * dim * rows.element_size());
      for (std::int64_t group = 0; group < 3; ++group) {
        at::Tensor expected = at::zeros({dim}).to(at::kDouble);
        double total = 0;
        for (auto k = static_cast<std::size_t>(offsets[static_cast<std::size_t>(group)]);
             k < static_cast<std::size_t>(offsets[static_cast<std::size_t>(group) + 1]); ++k) {
          const double weight = weighted ? weights[k] : 1;
          expected += weight * wide(rows[ids[k]]);
          total += weight;
        }
        EXPECT_LT(relative_difference(rows[11 + group], expected / total), tolerance());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuKernelsTest,
                         ::testing::Values(Case{"generic", at::kFloat}, Case{"generic", at::kBFloat16},
                                           Case{"avx2", at::kFloat}, Case{"avx2", at::kBFloat16},
                                           Case{"avx512", at::kFloat}, Case{"avx512", at::kBFloat16}),
                         case_name);

TEST(Kernels, ChoosesATableThatExists) {
  EXPECT_EQ(&cpu_kernels(), cpu_kernels_for(cpu_kernels().isa));
  EXPECT_NE(cpu_kernels_for("generic"), nullptr);
  EXPECT_EQ(cpu_kernels_for("quantum"), nullptr);
}

}  // namespace
}  // namespace bitrain::kernels
