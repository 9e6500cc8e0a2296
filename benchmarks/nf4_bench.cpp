// 4-bit kernels of every instruction set this machine has, on a 4096 x 4096 weight in blocks of 64 with
// double quantisation: Mweights/s, and GB/s of the dense side.
#include <cstdint>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <bitrain/kernels/nf4.h>

namespace bitrain::kernels {
namespace {

constexpr std::int64_t kWeights = 4096 * 4096;
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kBlocks = kWeights / kBlock;

std::int64_t bytes_of(FloatType type) {
  return kWeights * (type == FloatType::kFloat32 ? 4 : 2);
}

// Both dtypes get values in [1, 2): any finite values cost the same.
std::vector<std::uint8_t> dense_weights(FloatType type) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(bytes_of(type)));
  const std::size_t width = type == FloatType::kFloat32 ? 4 : 2;
  std::uint32_t random = 1;
  for (std::size_t i = 0; i < bytes.size(); i += width) {
    random = random * 1664525U + 1013904223U;
    bytes[i + width - 2] = static_cast<std::uint8_t>(0x80U | random >> 25);
    bytes[i + width - 1] = 0x3f;
  }
  return bytes;
}

void set_rates(benchmark::State& state, FloatType type) {
  const auto calls = static_cast<double>(state.iterations());
  state.counters["Mweights/s"] =
      benchmark::Counter(calls * static_cast<double>(kWeights) / 1e6, benchmark::Counter::kIsRate);
  state.counters["GB/s"] =
      benchmark::Counter(calls * static_cast<double>(bytes_of(type)) / 1e9, benchmark::Counter::kIsRate);
}

void bench_quantize(benchmark::State& state, const FourBitKernels* kernels, FloatType type) {
  const std::vector<std::uint8_t> x = dense_weights(type);
  std::vector<std::uint8_t> codes(kWeights / 2);
  std::vector<std::uint8_t> absmax_codes(kBlocks);
  std::vector<float> absmax(kBlocks);
  std::vector<float> nested(kBlocks / kNestedBlockSize);
  for (auto _ : state) {
    kernels->quantize(FourBitType::kNf4, type, x.data(), kWeights, kBlock, codes.data(), absmax.data());
    kernels->quantize_absmax(absmax.data(), kBlocks, 1.5F, absmax_codes.data(), nested.data());
  }
  set_rates(state, type);
}

void bench_dequantize(benchmark::State& state, const FourBitKernels* kernels, FloatType type) {
  const std::vector<std::uint8_t> codes(kWeights / 2, 0x3a);
  const std::vector<std::uint8_t> absmax_codes(kBlocks, 200);
  const std::vector<float> nested(kBlocks / kNestedBlockSize, 0.5F);
  const BlockScales scales{nullptr, absmax_codes.data(), nested.data(), 1.5F};
  std::vector<std::uint8_t> y(static_cast<std::size_t>(bytes_of(type)));
  for (auto _ : state)
    kernels->dequantize(FourBitType::kNf4, codes.data(), scales, kWeights, kBlock, type, y.data());
  set_rates(state, type);
}

const bool kRegistered = [] {
  for (const char* isa : {"generic", "avx2", "avx512"}) {
    const FourBitKernels* kernels = four_bit_kernels_for(isa);
    if (kernels == nullptr) continue;
    for (const FloatType type : {FloatType::kFloat32, FloatType::kBFloat16}) {
      const std::string suffix = std::string(type == FloatType::kFloat32 ? "/float32/" : "/bfloat16/") + isa;
      benchmark::RegisterBenchmark(("nf4_quantize" + suffix).c_str(), bench_quantize, kernels, type)
          ->UseRealTime();
      benchmark::RegisterBenchmark(("nf4_dequantize" + suffix).c_str(), bench_dequantize, kernels, type)
          ->UseRealTime();
    }
  }
  return true;
}();

}  // namespace
}  // namespace bitrain::kernels
