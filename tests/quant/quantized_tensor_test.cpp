#include <cmath>
#include <limits>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/hub/bitsandbytes.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/quant/quantized_tensor.h>

namespace bitrain::quant {
namespace {

using ::testing::HasSubstr;

const io::SafetensorsFile& golden() {
  static const auto file =
      io::SafetensorsFile::open(BITRAIN_SOURCE_DIR "/tests/quant/golden/nf4.safetensors");
  return file;
}

at::Tensor golden_or_undefined(const std::string& name) {
  return golden().contains(name) ? golden().tensor(name) : at::Tensor();
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.numel() != b.numel()) return false;
  return at::equal(a.contiguous().view({-1}).view(at::kByte), b.contiguous().view({-1}).view(at::kByte));
}

template <class Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

struct Scheme {
  const char* name;
  QuantizeOptions options;
};
const Scheme kSchemes[] = {{"nf4", {QuantType::kNf4, 64, false}},
                           {"nf4_double", {QuantType::kNf4, 64, true}},
                           {"fp4_double_32", {QuantType::kFp4, 32, true}}};
const char* const kCases[] = {"normal", "bfloat16", "float16",   "odd",  "one",      "spread",
                              "zeros",  "all_zero", "subnormal", "huge", "midpoints"};

TEST(Quantize, GivesTheBytesOfBitsandbytes) {
  for (const char* which : kCases) {
    const at::Tensor x = golden().tensor(std::string(which) + ".x");
    for (const auto& [scheme, options] : kSchemes) {
      SCOPED_TRACE(std::string(which) + "/" + scheme);
      const std::string name = std::string(which) + "/" + scheme + ".weight";
      const auto ours = hub::to_bitsandbytes(name, quantize(x, options));
      for (const auto& [key, part] : ours) {
        if (key.find("quant_state") != std::string::npos) continue;  // JSON, compared when it is read.
        EXPECT_TRUE(same_bits(part, golden().tensor(key))) << key;
        EXPECT_EQ(part.sizes(), golden().tensor(key).sizes()) << key;
      }
      const QuantizedTensor theirs = hub::from_bitsandbytes(name, golden_or_undefined);
      EXPECT_EQ(quantize(x, options).nested_offset, theirs.nested_offset);
    }
  }
}

TEST(Dequantize, GivesTheBitsOfBitsandbytes) {
  for (const char* which : kCases) {
    for (const auto& scheme : kSchemes) {
      SCOPED_TRACE(std::string(which) + "/" + scheme.name);
      const std::string name = std::string(which) + "/" + scheme.name;
      const at::Tensor expected = golden().tensor(name + ".y");
      const QuantizedTensor weight = hub::from_bitsandbytes(name + ".weight", golden_or_undefined);
      const at::Tensor y = dequantize(weight, expected.scalar_type());
      EXPECT_EQ(y.sizes(), expected.sizes());
      // FP4 has a second zero, whose sign depends on the path that bitsandbytes takes.
      if (weight.type == QuantType::kNf4)
        EXPECT_TRUE(same_bits(y, expected));
      else
        EXPECT_TRUE(at::equal(y, expected));
    }
  }
}

TEST(Quantize, TakesAnyStridesAndShapes) {
  const at::Tensor x = at::randn({40, 70});
  EXPECT_TRUE(at::equal(quantize(x.t()).codes, quantize(x.t().contiguous()).codes));
  EXPECT_EQ(quantize(x.t()).shape, (std::vector<std::int64_t>{70, 40}));
  const at::Tensor cube = at::randn({3, 5, 7});
  EXPECT_EQ(dequantize(quantize(cube), at::kFloat).sizes(), cube.sizes());
  at::Tensor parameter = at::randn({4, 64}).requires_grad_();
  EXPECT_FALSE(dequantize(quantize(parameter), at::kFloat).requires_grad());
}

TEST(Quantize, CostsWhatItSays) {
  const at::Tensor x = at::randn({256, 1024});
  const double weights = 256 * 1024;
  EXPECT_NEAR(static_cast<double>(quantize(x).nbytes()) * 8 / weights, 4.127, 0.001);
  const QuantizeOptions single{QuantType::kNf4, 64, false};
  EXPECT_EQ(static_cast<double>(quantize(x, single).nbytes()) * 8 / weights, 4.5);
}

TEST(Quantize, IsIdempotent) {
  const at::Tensor once = dequantize(quantize(at::randn({64, 64}), {QuantType::kNf4, 64, false}), at::kFloat);
  const QuantizedTensor again = quantize(once, {QuantType::kNf4, 64, false});
  EXPECT_TRUE(same_bits(dequantize(again, at::kFloat), once));
}

TEST(Quantize, RefusesBadWeights) {
  const at::Tensor x = at::randn({4, 100});
  for (const std::int64_t size : {0, -64, 16, 48, 8192})
    EXPECT_THROW((void)quantize(x, {QuantType::kNf4, size, true}), ConfigError) << size;
  EXPECT_THROW((void)quantize(x.to(at::kDouble)), StateError);
  EXPECT_THROW((void)quantize(x.to(at::kLong)), StateError);
  EXPECT_THROW((void)quantize(at::Tensor()), StateError);
  EXPECT_THROW((void)quantize(at::empty({0, 4})), StateError);
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      at::Tensor poisoned = x.to(dtype);
      poisoned[3][99] = bad;
      EXPECT_THROW((void)quantize(poisoned), DataError);
      EXPECT_THAT(message_of([&] { (void)quantize(poisoned); }), HasSubstr("elements 384 to 399"));
    }
  }
}

TEST(Quantize, RefusesMaximaWhoseMeanOverflows) {
  const at::Tensor x = at::full({64, 64}, 3e38);
  EXPECT_THAT(message_of([&] { (void)quantize(x); }), HasSubstr("double_quant"));
  EXPECT_TRUE(at::equal(dequantize(quantize(x, {QuantType::kNf4, 64, false}), at::kFloat), x));
}

TEST(Dequantize, WritesIntoATensorThatFits) {
  const QuantizedTensor weight = quantize(at::randn({6, 50}));
  at::Tensor out = at::empty({6, 50}, at::kBFloat16);
  EXPECT_TRUE(dequantize(weight, at::kBFloat16, out).is_same(out));
  EXPECT_TRUE(at::equal(out, dequantize(weight, at::kFloat).to(at::kBFloat16)));
  EXPECT_THROW(dequantize(weight, at::kFloat, out), StateError);
  EXPECT_THROW(dequantize(weight, at::kBFloat16, at::empty({50, 6}, at::kBFloat16)), StateError);
  EXPECT_THROW(dequantize(weight, at::kBFloat16, at::empty({50, 6}, at::kBFloat16).t()), StateError);
  EXPECT_THROW(dequantize(weight, at::kDouble), StateError);
}

TEST(Check, NamesThePartThatDoesNotFit) {
  const QuantizedTensor good = quantize(at::randn({6, 50}));
  const auto message = [&](const auto& damage) {
    QuantizedTensor weight = good;
    damage(weight);
    EXPECT_THROW(check(weight), Error);
    return message_of([&] { check(weight); });
  };
  EXPECT_NO_THROW(check(good));
  EXPECT_THAT(message([](auto& w) { w.codes = at::Tensor(); }), HasSubstr("codes is missing"));
  EXPECT_THAT(message([](auto& w) { w.codes = w.codes.slice(0, 1); }), HasSubstr("149 elements, not 150"));
  EXPECT_THAT(message([](auto& w) { w.shape = {6, 0}; }), HasSubstr("no shape of a weight"));
  EXPECT_THAT(message([](auto& w) {
                w.shape = {std::int64_t{1} << 62, 4};
              }),
              HasSubstr("no shape of a weight"));
  EXPECT_THAT(message([](auto& w) { w.block_size = 65; }), HasSubstr("block_size 65"));
  EXPECT_THAT(message([](auto& w) { w.nested_absmax = at::Tensor(); }),
              HasSubstr("nested absmax is missing"));
  EXPECT_THAT(message([](auto& w) { w.nested_absmax = w.nested_absmax.to(at::kDouble); }),
              HasSubstr("dtype"));
  EXPECT_THAT(message([](auto& w) { w.absmax = at::empty({5}); }), HasSubstr("both"));
  EXPECT_THAT(message([](auto& w) { w.absmax_codes = at::Tensor(); }), HasSubstr("absmax is missing"));
  EXPECT_THAT(message([](auto& w) { w.dtype = at::kDouble; }), HasSubstr("dtype"));
}

}  // namespace
}  // namespace bitrain::quant
