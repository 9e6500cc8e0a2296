#include <bitrain/hub/bitsandbytes.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>

namespace bitrain::hub {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;
using Parts = std::map<std::string, at::Tensor>;

constexpr const char* kName = "model.layers.0.mlp.up_proj.weight";
const std::string kState = std::string(kName) + ".quant_state.bitsandbytes__nf4";

Parts stored(const quant::QuantizedTensor& weight) {
  Parts parts;
  for (const auto& [name, part] : to_bitsandbytes(kName, weight)) parts[name] = part;
  return parts;
}

Parts stored(bool double_quant = true, at::IntArrayRef shape = {6, 100}) {
  return stored(quant::quantize(at::randn(shape), {quant::QuantType::kNf4, 64, double_quant}));
}

quant::QuantizedTensor load(const Parts& parts) {
  return from_bitsandbytes(kName, [&parts](const std::string& name) {
    const auto found = parts.find(name);
    return found != parts.end() ? found->second : at::Tensor();
  });
}

Json state_of(const Parts& parts) {
  const at::Tensor& bytes = parts.at(kState);
  const char* text = static_cast<const char*>(bytes.const_data_ptr());
  return Json::parse(text, text + bytes.numel());
}

at::Tensor bytes_of(const std::string& text) {
  at::Tensor bytes = at::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.mutable_data_ptr<std::uint8_t>());
  return bytes;
}

// The message of the FormatError that the damaged parts give.
std::string refusal(const Parts& parts) {
  try {
    (void)load(parts);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "no FormatError was thrown";
}

std::string refusal_of_state(const char* key, const Json& value) {
  Parts parts = stored();
  Json state = state_of(parts);
  state[key] = value;
  parts[kState] = bytes_of(state.dump());
  return refusal(parts);
}

TEST(Bitsandbytes, RoundTripKeepsEveryBit) {
  for (const quant::QuantType type : {quant::QuantType::kNf4, quant::QuantType::kFp4}) {
    for (const bool double_quant : {false, true}) {
      for (const std::vector<std::int64_t>& shape :
           std::vector<std::vector<std::int64_t>>{{7, 13}, {1, 1}, {300, 70}}) {
        const at::Tensor dense = at::randn(shape, at::kBFloat16);
        const quant::QuantizedTensor weight = quant::quantize(dense, {type, 32, double_quant});
        const quant::QuantizedTensor again = load(stored(weight));
        EXPECT_EQ(again.type, type);
        EXPECT_EQ(again.block_size, 32);
        EXPECT_EQ(again.shape, weight.shape);
        EXPECT_EQ(again.dtype, at::kBFloat16);
        EXPECT_EQ(again.nested_offset, weight.nested_offset);
        EXPECT_TRUE(at::equal(again.codes, weight.codes));
        EXPECT_NO_THROW(quant::check(again));
        EXPECT_TRUE(at::equal(quant::dequantize(again, at::kFloat), quant::dequantize(weight, at::kFloat)));
      }
    }
  }
}

TEST(Bitsandbytes, CodesMayBeStoredInOtherDtypes) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    Parts parts = stored(true, {8, 64});
    const quant::QuantizedTensor expected = load(parts);
    parts[kName] = parts[kName].view({-1}).view(dtype).view({-1, 1});
    EXPECT_TRUE(at::equal(load(parts).codes, expected.codes));
  }
}

TEST(Bitsandbytes, CodesShareTheMemoryOfTheFile) {
  const Parts parts = stored();
  EXPECT_EQ(load(parts).codes.const_data_ptr(), parts.at(kName).const_data_ptr());
}

TEST(Bitsandbytes, TellsPackedFromDense) {
  const Parts parts = stored();
  const auto lookup = [&parts](const std::string& name) {
    const auto found = parts.find(name);
    return found != parts.end() ? found->second : at::Tensor();
  };
  EXPECT_TRUE(is_bitsandbytes(kName, lookup));
  EXPECT_FALSE(is_bitsandbytes("model.norm.weight", lookup));
}

TEST(Bitsandbytes, EveryMissingPieceIsNamed) {
  for (const bool double_quant : {false, true}) {
    const Parts whole = stored(double_quant);
    EXPECT_EQ(whole.size(), double_quant ? 6U : 4U);
    for (const auto& [name, part] : whole) {
      Parts parts = whole;
      parts.erase(name);
      EXPECT_THAT(refusal(parts), HasSubstr(name));
    }
  }
}

TEST(Bitsandbytes, PiecesOfAnotherSizeOrDtypeAreNamed) {
  const Parts whole = stored();
  for (const auto& [name, part] : whole) {
    if (name == kState) continue;
    Parts parts = whole;
    const at::Tensor flat = part.reshape({-1});
    parts[name] = at::zeros({flat.numel() + 1}, flat.options());  // Oversized.
    EXPECT_THAT(refusal(parts), HasSubstr(name));
    parts[name] = flat.slice(0, 0, flat.numel() - 1);
    EXPECT_THAT(refusal(parts), HasSubstr(name));
    if (name == kName) continue;
    parts[name] = flat.to(at::kDouble);
    EXPECT_THAT(refusal(parts), HasSubstr(name));
  }
}

TEST(Bitsandbytes, TwoStatesAreOneTooMany) {
  Parts parts = stored();
  parts[std::string(kName) + ".quant_state.bitsandbytes__fp4"] = parts[kState];
  EXPECT_THAT(refusal(parts), HasSubstr("both"));
}

TEST(Bitsandbytes, AnotherCodeBookIsRefused) {
  for (const char* piece : {".quant_map", ".nested_quant_map"}) {
    Parts parts = stored();
    parts[std::string(kName) + piece] = parts[std::string(kName) + piece].clone();
    parts[std::string(kName) + piece][3] = 0.25;
    EXPECT_THAT(refusal(parts), HasSubstr(std::string(piece) + "[3]"));
    parts[std::string(kName) + piece][3] = std::nan("");
    EXPECT_THAT(refusal(parts), HasSubstr(std::string(piece) + "[3]"));
  }
}

TEST(Bitsandbytes, ScalesMustBeFinite) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Parts plain = stored(false);
    plain[std::string(kName) + ".absmax"][1] = bad;
    EXPECT_THAT(refusal(plain), HasSubstr("NaN or infinity"));
    Parts doubled = stored(true);
    doubled[std::string(kName) + ".nested_absmax"][0] = bad;
    EXPECT_THAT(refusal(doubled), HasSubstr("NaN or infinity"));
  }
  EXPECT_THAT(refusal_of_state("nested_offset", 1e300), HasSubstr("nested_offset"));
}

TEST(Bitsandbytes, DamagedStatesAreRefused) {
  EXPECT_THAT(refusal_of_state("quant_type", "fp4"), HasSubstr("quant_type"));
  EXPECT_THAT(refusal_of_state("quant_type", 4), HasSubstr("wrong type"));
  for (const Json& size :
       {Json(0), Json(-64), Json(48), Json(64.5), Json("64"), Json(1ULL << 63), Json(nullptr)})
    EXPECT_THAT(refusal_of_state("blocksize", size), HasSubstr("blocksize"));
  for (const Json& shape : {Json(nullptr), Json::array(), Json({6, -100}), Json({6, 0}), Json({6, 1.5}),
                            Json({1LL << 40, 1LL << 40}), Json(600)})
    EXPECT_THAT(refusal_of_state("shape", shape), HasSubstr("shape"));
  EXPECT_THAT(refusal_of_state("shape", {6, 101}), HasSubstr("bytes of 4-bit codes"));
  EXPECT_THAT(refusal_of_state("dtype", "float64"), HasSubstr("float64"));
  EXPECT_THAT(refusal_of_state("nested_blocksize", 128), HasSubstr("nested_blocksize"));
  EXPECT_THAT(refusal_of_state("nested_dtype", "float16"), HasSubstr("nested_dtype"));
  EXPECT_THAT(refusal_of_state("nested_offset", "x"), HasSubstr("nested_offset"));
  Parts parts = stored();
  for (const char* text : {"", "{", "[]", "3", "{\"blocksize\": 64, \"blocksize\": 32}", "\xff\xfe"}) {
    parts[kState] = bytes_of(text);
    EXPECT_THAT(refusal(parts), HasSubstr(kState)) << text;
  }
  parts[kState] = at::zeros({10});
  EXPECT_THAT(refusal(parts), HasSubstr("dtype"));
}

TEST(QuantizationConfig, RoundTrip) {
  const Json block = quantization_config({quant::QuantType::kNf4, 64, true}, at::kBFloat16, {"lm_head"});
  EXPECT_EQ(block["quant_method"], "bitsandbytes");
  EXPECT_EQ(block["bnb_4bit_compute_dtype"], "bfloat16");
  const QuantizationConfig config = parse_quantization_config(block, "config.json");
  EXPECT_EQ(config.options.type, quant::QuantType::kNf4);
  EXPECT_TRUE(config.options.double_quant);
  EXPECT_EQ(config.compute_dtype, at::kBFloat16);
  EXPECT_EQ(config.skipped, std::vector<std::string>{"lm_head"});
}

TEST(QuantizationConfig, HasTransformersDefaults) {
  const auto config = parse_quantization_config({{"load_in_4bit", true}}, "config.json");
  EXPECT_EQ(config.options.type, quant::QuantType::kFp4);
  EXPECT_FALSE(config.options.double_quant);
  EXPECT_EQ(config.compute_dtype, at::kFloat);
}

TEST(QuantizationConfig, RefusesOtherMethodsAndDamage) {
  const auto parse = [](const Json& block) { (void)parse_quantization_config(block, "config.json"); };
  EXPECT_THROW(parse({{"quant_method", "gptq"}, {"load_in_4bit", true}}), UnsupportedError);
  EXPECT_THROW(parse({{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}}), UnsupportedError);
  EXPECT_THROW(parse({{"load_in_4bit", true}, {"bnb_4bit_quant_type", "int4"}}), FormatError);
  EXPECT_THROW(parse({{"load_in_4bit", "yes"}}), FormatError);
  EXPECT_THROW(parse({{"load_in_4bit", true}, {"bnb_4bit_compute_dtype", "int8"}}), FormatError);
  EXPECT_THROW(parse(Json::array()), FormatError);
}

}  // namespace
}  // namespace bitrain::hub
