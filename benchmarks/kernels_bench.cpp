// The CPU kernels alone, at the shapes of a 26 M Llama step (8 x 512 tokens, hidden 384, 6 heads, FFN 1024,
// vocabulary 16,000), beside what LibTorch has for the same work. Two threads, unless OMP_NUM_THREADS says
// otherwise.
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include <bitrain/kernels/cpu_kernels.h>
#include <bitrain/losses/linear_cross_entropy.h>
#include <bitrain/nn/functional.h>
#include <bitrain/nn/functional_reference.h>

namespace bitrain {
namespace {

constexpr std::int64_t kTokens = 4096;
constexpr std::int64_t kLength = 512;
constexpr std::int64_t kHeads = 6;
constexpr std::int64_t kHeadDim = 64;
constexpr std::int64_t kHidden = 384;
constexpr std::int64_t kFfn = 1024;
constexpr std::int64_t kVocab = 16000;

at::Tensor draw(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes).to(dtype);
}

at::ScalarType dtype_of(const benchmark::State& state) {
  return state.range(0) == 16 ? at::kBFloat16 : at::kFloat;
}

// Rate of a counter that grows by `amount` a call.
void set_rate(benchmark::State& state, const char* name, double amount) {
  state.counters[name] =
      benchmark::Counter(amount * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void bench_attention(benchmark::State& state, bool ours, bool backward) {
  const at::ScalarType dtype = dtype_of(state);
  std::vector<std::int32_t> boundaries;
  for (std::int32_t t = 0; t <= kTokens; t += kLength) boundaries.push_back(t);
  std::vector<at::Tensor> inputs;
  for (int i = 0; i < 3; ++i) {
    inputs.push_back(draw({kTokens, kHeads, kHeadDim}, dtype).requires_grad_(backward));
  }
  const at::Tensor slope = draw({kTokens, kHeads, kHeadDim}, dtype);
  const double scale = 1 / std::sqrt(static_cast<double>(kHeadDim));
  for (auto _ : state) {
    const at::Tensor out =
        ours ? nn::packed_attention(inputs[0], inputs[1], inputs[2], boundaries, scale)
             : nn::reference::packed_attention(inputs[0], inputs[1], inputs[2], boundaries, scale);
    if (backward) benchmark::DoNotOptimize(torch::autograd::grad({out}, inputs, {slope}));
  }
  // Two products of half the square forward, five backward.
  const double products = backward ? 7 : 2;
  set_rate(state, "flops", products * kTokens * kLength * kHeads * kHeadDim);
}

void bench_norm(benchmark::State& state, bool ours) {
  const at::Tensor x = draw({kTokens, kHidden}, dtype_of(state)).requires_grad_();
  const at::Tensor weight = at::ones({kHidden}).to(dtype_of(state)).requires_grad_();
  const at::Tensor slope = draw({kTokens, kHidden}, dtype_of(state));
  for (auto _ : state) {
    const at::Tensor y = ours ? nn::rms_norm(x, weight, 1e-5) : nn::reference::rms_norm(x, weight, 1e-5);
    benchmark::DoNotOptimize(torch::autograd::grad({y}, {x, weight}, {slope}));
  }
  set_rate(state, "bytes", 5.0 * static_cast<double>(x.nbytes()));  // x, y; dy, x, dx.
}

void bench_swiglu(benchmark::State& state, bool ours) {
  const at::Tensor gate = draw({kTokens, kFfn}, dtype_of(state)).requires_grad_();
  const at::Tensor up = draw({kTokens, kFfn}, dtype_of(state)).requires_grad_();
  const at::Tensor slope = draw({kTokens, kFfn}, dtype_of(state));
  for (auto _ : state) {
    const at::Tensor y = ours ? nn::swiglu(gate, up) : nn::reference::swiglu(gate, up);
    benchmark::DoNotOptimize(torch::autograd::grad({y}, {gate, up}, {slope}));
  }
  set_rate(state, "bytes", 8.0 * static_cast<double>(gate.nbytes()));
}

void bench_rotary(benchmark::State& state, bool ours) {
  const at::Tensor x = draw({kTokens, kHeads, kHeadDim}, dtype_of(state)).requires_grad_();
  const at::Tensor angles = at::randn({kTokens, kHeadDim / 2});
  const at::Tensor cos = angles.cos();
  const at::Tensor sin = angles.sin();
  const at::Tensor slope = draw({kTokens, kHeads, kHeadDim}, dtype_of(state));
  for (auto _ : state) {
    const at::Tensor y = ours ? nn::apply_rotary(x, cos, sin) : nn::reference::apply_rotary(x, cos, sin);
    benchmark::DoNotOptimize(torch::autograd::grad({y}, {x}, {slope}));
  }
  set_rate(state, "bytes", 4.0 * static_cast<double>(x.nbytes()));
}

void bench_dropout(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = draw({kTokens, kHidden}, dtype_of(state));
  for (auto _ : state)
    benchmark::DoNotOptimize(nn::dropout(x, 0.1, {.seed = 1, .step = 2, .first_token = 0}, 3));
  set_rate(state, "elements", static_cast<double>(x.numel()));
}

void bench_loss(benchmark::State& state) {
  const at::ScalarType dtype = dtype_of(state);
  const at::Tensor hidden = draw({kTokens, kHidden}, dtype).requires_grad_();
  nn::Linear head(kHidden, kVocab, false, hidden.options());
  head.weight = (draw({kVocab, kHidden}, dtype) * 0.02).requires_grad_();
  const at::Tensor labels = at::randint(kVocab, {kTokens}, at::TensorOptions().dtype(at::kLong));
  for (auto _ : state) {
    const auto losses =
        losses::linear_cross_entropy(hidden, head, labels, {}, {}, {.chunk_tokens = state.range(1)});
    benchmark::DoNotOptimize(torch::autograd::grad({losses.sum}, {hidden, head.weight}));
  }
  set_rate(state, "flops", 6.0 * kTokens * kHidden * kVocab);
}

void bench_cross_entropy(benchmark::State& state) {
  const std::int64_t rows = 512;
  const at::Tensor logits = draw({rows, kVocab}, dtype_of(state));
  std::vector<std::int64_t> labels(rows);
  std::iota(labels.begin(), labels.end(), 0);
  std::vector<float> losses(rows);
  const auto type = state.range(0) == 16 ? kernels::FloatType::kBFloat16 : kernels::FloatType::kFloat32;
  for (auto _ : state) {
    kernels::cpu_kernels().cross_entropy(type, {logits.data_ptr(), kVocab}, labels.data(), nullptr, rows,
                                         kVocab, true, losses.data());
  }
  set_rate(state, "elements", static_cast<double>(logits.numel()));
}

void bench_adamw(benchmark::State& state, bool ours) {
  const std::int64_t n = 26'000'000;
  at::Tensor weight = at::randn({n});
  at::Tensor grad = at::randn({n});
  at::Tensor m = at::zeros({n});
  at::Tensor v = at::zeros({n});
  const at::Tensor step = at::ones({});
  for (auto _ : state) {
    if (ours) {
      const kernels::AdamWTensor tensor{.weight = weight.data_ptr(),
                                        .weight_type = kernels::FloatType::kFloat32,
                                        .master = nullptr,
                                        .grad = grad.const_data_ptr(),
                                        .grad_type = kernels::FloatType::kFloat32,
                                        .exp_avg = m.mutable_data_ptr<float>(),
                                        .exp_avg_sq = v.mutable_data_ptr<float>(),
                                        .numel = n,
                                        .lr = 1e-4,
                                        .weight_decay = 0.01,
                                        .step = 10};
      kernels::cpu_kernels().adamw(&tensor, 1, {});
    } else {
      at::_fused_adamw_({weight}, {grad}, {m}, {v}, {}, {step}, 1e-4, 0.9, 0.999, 0.01, 1e-8, false, false);
    }
  }
  set_rate(state, "bytes", 28.0 * static_cast<double>(n));
}

void bench_sum_of_squares(benchmark::State& state) {
  const at::Tensor x = draw({26'000'000}, dtype_of(state));
  const auto type = state.range(0) == 16 ? kernels::FloatType::kBFloat16 : kernels::FloatType::kFloat32;
  const kernels::ConstSpan span{x.const_data_ptr(), type, x.numel()};
  for (auto _ : state) benchmark::DoNotOptimize(kernels::cpu_kernels().sum_of_squares(&span, 1));
  set_rate(state, "bytes", static_cast<double>(x.nbytes()));
}

// What the products of a step reach, for comparison.
void bench_mm(benchmark::State& state) {
  const at::Tensor a = draw({kTokens, kHidden}, dtype_of(state));
  const at::Tensor b = draw({kFfn, kHidden}, dtype_of(state));
  at::Tensor c = at::empty({kTokens, kFfn}, a.options());
  for (auto _ : state) at::mm_out(c, a, b.t());
  set_rate(state, "flops", 2.0 * kTokens * kHidden * kFfn);
}

#define BITRAIN_BENCH(function, name, ...)       \
  BENCHMARK_CAPTURE(function, name, __VA_ARGS__) \
      ->Arg(16)                                  \
      ->Arg(32)                                  \
      ->Unit(benchmark::kMillisecond)            \
      ->UseRealTime()

BENCHMARK(bench_mm)->Arg(16)->Arg(32)->Unit(benchmark::kMillisecond)->UseRealTime();
BITRAIN_BENCH(bench_attention, forward_ours, true, false);
BITRAIN_BENCH(bench_attention, forward_sdpa, false, false);
BITRAIN_BENCH(bench_attention, both_ours, true, true);
BITRAIN_BENCH(bench_attention, both_sdpa, false, true);
BITRAIN_BENCH(bench_norm, ours, true);
BITRAIN_BENCH(bench_norm, aten, false);
BITRAIN_BENCH(bench_swiglu, ours, true);
BITRAIN_BENCH(bench_swiglu, aten, false);
BITRAIN_BENCH(bench_rotary, ours, true);
BITRAIN_BENCH(bench_rotary, aten, false);
BENCHMARK(bench_dropout)->Arg(16)->Arg(32)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(bench_cross_entropy)->Arg(16)->Arg(32)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(bench_loss)
    ->ArgsProduct({{16, 32}, {256, 512, 1024, 2048, 4096}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(bench_adamw, ours, true)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(bench_adamw, aten, false)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(bench_sum_of_squares)->Arg(16)->Arg(32)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace bitrain
