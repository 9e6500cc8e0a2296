#include <bitrain/quant/quantized_tensor.h>

#include <limits>

#include <gtest/gtest.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/linear.h>
#include <bitrain/quant/matmul_4bit.h>

#include "cuda/on_device.h"

namespace bitrain::quant {
namespace {

using testing::distance;
using testing::expect_same;
using testing::kCuda;
using testing::leaf;
using testing::random_tensor;
using testing::Tensors;
using testing::tolerance_of;

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kBFloat16, at::kHalf};
constexpr QuantType kTypes[] = {QuantType::kNf4, QuantType::kFp4};

class QuantOnCuda : public testing::CudaTest {};

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto bytes = [](const at::Tensor& x) { return x.cpu().contiguous().view({-1}).view(at::kByte); };
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && at::equal(bytes(a), bytes(b));
}

void expect_same_parts(const QuantizedTensor& a, const QuantizedTensor& b) {
  const auto same = [](const at::Tensor& x, const at::Tensor& y) {
    return x.defined() ? y.defined() && same_bits(x, y) : !y.defined();
  };
  EXPECT_TRUE(same(a.codes, b.codes));
  EXPECT_TRUE(same(a.absmax, b.absmax));
  EXPECT_TRUE(same(a.absmax_codes, b.absmax_codes));
  EXPECT_TRUE(same(a.nested_absmax, b.nested_absmax));
  EXPECT_EQ(a.nested_offset, b.nested_offset);
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_EQ(a.dtype, b.dtype);
}

/// Decoded into every type, bit for bit.
void expect_same_decoded(const QuantizedTensor& on_cuda, const QuantizedTensor& on_cpu) {
  for (const at::ScalarType dtype : kDtypes)
    EXPECT_TRUE(same_bits(dequantize(on_cuda, dtype), dequantize(on_cpu, dtype))) << dtype;
}

TEST_F(QuantOnCuda, CodesAndMaximaAreThoseOfTheCpu) {
  for (const QuantType type : kTypes) {
    for (const at::ScalarType dtype : kDtypes) {
      for (const std::int64_t block_size : {32, 64, 128, 4096}) {
        for (const std::vector<std::int64_t>& shape :
             {std::vector<std::int64_t>{1, 1}, {48, 64}, {7, 33}, {5000}, {257, 130}}) {
          SCOPED_TRACE(c10::str(name(type), " ", dtype, " ", block_size, " ", at::IntArrayRef(shape)));
          const at::Tensor x = random_tensor(shape, 1, dtype);
          const QuantizeOptions options{type, block_size, false};
          const QuantizedTensor on_cpu = quantize(x, options);
          const QuantizedTensor on_cuda = quantize(x.to(kCuda), options);
          EXPECT_TRUE(on_cuda.codes.is_cuda());
          expect_same_parts(on_cuda, on_cpu);
          expect_same_decoded(on_cuda, on_cpu);
        }
      }
    }
  }
}

TEST_F(QuantOnCuda, ExtremeWeightsToo) {
  const at::Tensor x = random_tensor({5, 67}, 1);
  const at::Tensor mixed = x.clone();
  mixed.narrow(0, 1, 2).zero_();
  for (const QuantType type : kTypes) {
    for (const at::Tensor& weight : {at::zeros({3, 70}), x * 1e-39, x * 5e37, x * 1e-30, mixed,
                                     at::full({130}, -0.25, at::kFloat), x.t(), x.slice(1, 0, 67, 2)}) {
      const QuantizedTensor on_cpu = quantize(weight, {type, 64, false});
      const QuantizedTensor on_cuda = quantize(weight.to(kCuda), {type, 64, false});
      expect_same_parts(on_cuda, on_cpu);
      expect_same_decoded(on_cuda, on_cpu);
    }
  }
}

TEST_F(QuantOnCuda, NestedMaximaAreDecodedToTheSameBits) {
  for (const QuantType type : kTypes) {
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{1, 1}, {7, 33}, {64, 256}, {257, 130}}) {
      const QuantizedTensor on_cpu = quantize(random_tensor(shape, 1), {type, 64, true});
      expect_same_decoded(on_cpu.to(kCuda), on_cpu);
    }
  }
}

TEST_F(QuantOnCuda, NestedMaximaDifferInRareLastSteps) {
  for (const at::ScalarType dtype : kDtypes) {
    const at::Tensor x = random_tensor({1024, 1030}, 1, dtype);
    const QuantizedTensor on_cpu = quantize(x, {});
    const QuantizedTensor on_cuda = quantize(x.to(kCuda), {});
    EXPECT_TRUE(same_bits(on_cuda.codes, on_cpu.codes));
    EXPECT_LT(distance(on_cuda.nested_absmax, on_cpu.nested_absmax), 1e-5);
    EXPECT_NEAR(on_cuda.nested_offset, on_cpu.nested_offset, 1e-6 * on_cpu.nested_offset);
    const at::Tensor steps =
        (on_cuda.absmax_codes.cpu().to(at::kInt) - on_cpu.absmax_codes.to(at::kInt)).abs();
    EXPECT_LE(steps.max().item<int>(), 1);
    EXPECT_LE(steps.sum().item<std::int64_t>(), steps.numel() / 100);
    EXPECT_LT(distance(dequantize(on_cuda, at::kFloat), dequantize(on_cpu, at::kFloat)), 1e-2);
  }
}

std::string refusal(const at::Tensor& weight) {
  try {
    (void)quantize(weight, {});
  } catch (const DataError& error) {
    return error.what();
  }
  return "none";
}

TEST_F(QuantOnCuda, WhatIsNotFiniteIsRefusedAsOnTheCpu) {
  for (const at::ScalarType dtype : kDtypes) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      const at::Tensor weight = random_tensor({40, 33}, 1, dtype);
      weight[37][2].fill_(bad);
      weight[11][5].fill_(bad);
      EXPECT_NE(refusal(weight), "none");
      EXPECT_EQ(refusal(weight.to(kCuda)), refusal(weight));
    }
  }
  const at::Tensor huge = at::full({64, 64}, 3e38, at::kFloat);
  EXPECT_NE(refusal(huge), "none");
  EXPECT_EQ(refusal(huge.to(kCuda)), refusal(huge));
}

TEST_F(QuantOnCuda, WeightsThatGoThereAndBackAreTheSame) {
  for (const bool double_quant : {false, true}) {
    const QuantizedTensor weight = quantize(random_tensor({57, 33}, 1), {QuantType::kNf4, 64, double_quant});
    const QuantizedTensor there = weight.to(kCuda);
    EXPECT_EQ(there.device(), kCuda);
    EXPECT_EQ(there.nbytes(), weight.nbytes());
    EXPECT_NO_THROW(check(there));
    expect_same_parts(there.to(at::kCPU), weight);
  }
}

TEST_F(QuantOnCuda, ProductsWith4BitWeights) {
  for (const QuantType type : kTypes) {
    for (const bool double_quant : {false, true}) {
      const QuantizedTensor weight = quantize(random_tensor({40, 96}, 1), {type, 64, double_quant});
      for (const at::ScalarType dtype : kDtypes) {
        for (const at::Tensor& x : {leaf({37, 96}, 2), leaf({2, 5, 96}, 3), leaf({96}, 4)}) {
          SCOPED_TRACE(c10::str(name(type), " ", double_quant, " ", dtype, " ", x.sizes()));
          expect_same(
              [&](const Tensors& t) -> Tensors { return {linear_4bit(t[0], weight.to(t[0].device()))}; }, {x},
              dtype, tolerance_of(dtype));
        }
      }
    }
  }
  const QuantizedTensor weight = quantize(random_tensor({40, 96}, 1), {});
  EXPECT_THROW((void)linear_4bit(random_tensor({3, 96}, 2).to(kCuda), weight), StateError);
}

TEST_F(QuantOnCuda, ScratchWeightsLiveSideBySide) {
  const QuantizedTensor one = quantize(random_tensor({40, 96}, 1), {});
  const QuantizedTensor two = quantize(random_tensor({24, 64}, 2), {});
  const ScratchWeight first(one.to(kCuda), at::kBFloat16);
  const ScratchWeight second(two.to(kCuda), at::kFloat);
  EXPECT_TRUE(same_bits(first.tensor(), dequantize(one, at::kBFloat16)));
  EXPECT_TRUE(same_bits(second.tensor(), dequantize(two, at::kFloat)));
}

TEST_F(QuantOnCuda, LinearMapsAreQuantisedWhereTheyAre) {
  nn::Linear on_cpu(96, 40, false);
  on_cpu.weight = random_tensor({40, 96}, 1);
  nn::Linear on_cuda(96, 40, false);
  on_cuda.weight = on_cpu.weight.to(kCuda);
  on_cpu.quantize({QuantType::kNf4, 64, false});
  on_cuda.quantize({QuantType::kNf4, 64, false});
  expect_same_parts(*on_cuda.quantized, *on_cpu.quantized);
  EXPECT_TRUE(same_bits(on_cuda.merged_weight(at::kHalf), on_cpu.merged_weight(at::kHalf)));
}

}  // namespace
}  // namespace bitrain::quant
