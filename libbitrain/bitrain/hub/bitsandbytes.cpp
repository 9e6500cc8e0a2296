#include <bitrain/hub/bitsandbytes.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/io/json.h>
#include <bitrain/kernels/nf4.h>

namespace bitrain::hub {
namespace {

using Json = nlohmann::ordered_json;
using quant::QuantizedTensor;
using quant::QuantType;

constexpr std::array<QuantType, 2> kTypes = {QuantType::kNf4, QuantType::kFp4};
constexpr std::int64_t kCodebookSize = 16;
constexpr std::int64_t kMapSize = 256;

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return "float32";
    case at::kBFloat16: return "bfloat16";
    default: return "float16";
  }
}

// "bfloat16" and the like, with or without "torch."; empty for anything else.
std::optional<at::ScalarType> dtype_named(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    if (name == dtype_name(dtype)) return dtype;
  return std::nullopt;
}

std::string state_key(const std::string& name, QuantType type) {
  return name + ".quant_state.bitsandbytes__" + quant::name(type);
}

const float* codebook(QuantType type) {
  const auto kernel_type = type == QuantType::kNf4 ? kernels::FourBitType::kNf4 : kernels::FourBitType::kFp4;
  return kernels::four_bit_codebook(kernel_type).values;
}

at::Tensor tensor_of(const void* data, std::int64_t size, at::ScalarType dtype) {
  at::Tensor tensor = at::empty({size}, dtype);
  std::memcpy(tensor.mutable_data_ptr(), data, tensor.nbytes());
  return tensor;
}

at::Tensor find_cpu(const TensorLookup& lookup, const std::string& key) {
  const at::Tensor tensor = lookup(key);
  return tensor.defined() ? tensor.detach().cpu() : tensor;
}

// The tensor under `key`, flat: `size` elements of `dtype` (any size where that is -1).
at::Tensor require(const TensorLookup& lookup, const std::string& key, at::ScalarType dtype,
                   std::int64_t size) {
  const at::Tensor tensor = find_cpu(lookup, key);
  if (!tensor.defined()) throw FormatError(key, ": missing, though the weight is stored in 4 bits");
  if (tensor.scalar_type() != dtype)
    throw FormatError(key, ": dtype ", tensor.scalar_type(), ", not ", dtype);
  if (size >= 0 && tensor.numel() != size)
    throw FormatError(key, ": ", tensor.numel(), " elements, not ", size);
  return tensor.contiguous().view({-1});
}

void check_finite(const std::string& key, const at::Tensor& scales) {
  if (!at::isfinite(scales).all().item<bool>()) throw FormatError(key, ": holds NaN or infinity");
}

// The last digits of a code book differ between the builds of bitsandbytes (FP4 comes from a division).
void check_map(const std::string& key, const at::Tensor& map, const float* expected) {
  const float* values = map.const_data_ptr<float>();
  for (std::int64_t i = 0; i < map.numel(); ++i)
    if (!(std::abs(values[i] - expected[i]) <= 1e-6F))
      throw FormatError(key, "[", i, "]: ", values[i], " where bitsandbytes has ", expected[i],
                        "; other code books are not supported");
}

// A field of the state, or the error that names it.
template <class T>
T field(const Json& state, const std::string& where, const char* key) {
  const auto found = state.find(key);
  if (found == state.end()) throw FormatError(where, ": ", key, " is missing");
  try {
    return found->get<T>();
  } catch (const Json::exception&) {
    throw FormatError(where, ": ", key, " is ", found->dump(), ", which has the wrong type");
  }
}

std::int64_t integer_field(const Json& state, const std::string& where, const char* key) {
  const Json value = field<Json>(state, where, key);
  if (!value.is_number_integer()) throw FormatError(where, ": ", key, " is ", value.dump(), ", no integer");
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
    throw FormatError(where, ": ", key, " is ", value.dump(), ", too large");
  return value.get<std::int64_t>();
}

std::vector<std::int64_t> parse_shape(const Json& state, const std::string& where) {
  const Json sizes = field<Json>(state, where, "shape");
  if (!sizes.is_array() || sizes.empty())
    throw FormatError(where, ": shape is ", sizes.dump(), ", no list of sizes");
  std::vector<std::int64_t> shape;
  std::int64_t n = 1;
  for (const Json& size : sizes) {
    const bool valid = size.is_number_unsigned() && size.get<std::uint64_t>() > 0 &&
                       size.get<std::uint64_t>() <=
                           static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max() / (2 * n));
    if (!valid) throw FormatError(where, ": shape ", sizes.dump(), " is no shape of a weight");
    shape.push_back(size.get<std::int64_t>());
    n *= shape.back();
  }
  return shape;
}

// Which of the two state tensors there is; both would contradict each other.
std::optional<QuantType> stored_type(const std::string& name, const TensorLookup& lookup) {
  std::optional<QuantType> found;
  for (const QuantType type : kTypes) {
    if (!lookup(state_key(name, type)).defined()) continue;
    if (found)
      throw FormatError(name, ": both ", state_key(name, *found), " and ", state_key(name, type),
                        " are stored");
    found = type;
  }
  return found;
}

// Facts of the JSON piece; the tensors are still missing.
QuantizedTensor parse_state(const Json& state, const std::string& where, QuantType type) {
  if (!state.is_object()) throw FormatError(where, ": no JSON object");
  if (const auto stored = field<std::string>(state, where, "quant_type"); stored != quant::name(type))
    throw FormatError(where, ": quant_type is ", stored);
  QuantizedTensor weight;
  weight.type = type;
  weight.block_size = integer_field(state, where, "blocksize");
  try {
    quant::check_block_size(weight.block_size);
  } catch (const ConfigError& error) {
    throw FormatError(where, ": blocksize: ", error.what());
  }
  const auto dtype = field<std::string>(state, where, "dtype");
  const auto known = dtype_named(dtype);
  if (!known) throw FormatError(where, ": dtype ", dtype, " is none of float32, bfloat16, float16");
  weight.dtype = *known;
  weight.shape = parse_shape(state, where);
  return weight;
}

void read_nested(const std::string& name, const TensorLookup& lookup, const Json& state,
                 const std::string& where, QuantizedTensor& weight) {
  if (const auto size = integer_field(state, where, "nested_blocksize"); size != kernels::kNestedBlockSize)
    throw FormatError(where, ": nested_blocksize is ", size, "; only ", kernels::kNestedBlockSize,
                      " is supported");
  if (const auto dtype = field<std::string>(state, where, "nested_dtype"); dtype_named(dtype) != at::kFloat)
    throw FormatError(where, ": nested_dtype is ", dtype, "; only float32 is supported");
  const auto offset = field<double>(state, where, "nested_offset");
  weight.nested_offset = static_cast<float>(offset);
  if (!std::isfinite(weight.nested_offset)) throw FormatError(where, ": nested_offset is not finite");
  weight.absmax_codes = require(lookup, name + ".absmax", at::kByte, weight.blocks());
  const std::string map_key = name + ".nested_quant_map";
  check_map(map_key, require(lookup, map_key, at::kFloat, kMapSize), kernels::dynamic_map());
  const std::string key = name + ".nested_absmax";
  weight.nested_absmax = require(
      lookup, key, at::kFloat, (weight.blocks() + kernels::kNestedBlockSize - 1) / kernels::kNestedBlockSize);
  check_finite(key, weight.nested_absmax);
}

// The codes as bytes, whatever dtype they are stored as.
at::Tensor read_codes(const std::string& name, const TensorLookup& lookup, std::int64_t bytes) {
  const at::Tensor stored = find_cpu(lookup, name);
  if (!stored.defined()) throw FormatError(name, ": missing, though its quant_state is stored");
  // FSDP pads the bytes to whole elements of the storage dtype.
  const auto unit = static_cast<std::int64_t>(stored.element_size());
  const auto size = static_cast<std::int64_t>(stored.nbytes());
  if (size != (bytes + unit - 1) / unit * unit)
    throw FormatError(name, ": ", size, " bytes of 4-bit codes, not ", bytes);
  const at::Tensor flat = stored.contiguous().view({-1});
  return (flat.scalar_type() == at::kByte ? flat : flat.view(at::kByte)).slice(0, 0, bytes);
}

}  // namespace

NamedTensors to_bitsandbytes(const std::string& name, const QuantizedTensor& weight) {
  quant::check(weight);
  const QuantizedTensor cpu = weight.to(at::kCPU);
  Json state = {{"quant_type", quant::name(cpu.type)},
                {"blocksize", cpu.block_size},
                {"dtype", dtype_name(cpu.dtype)},
                {"shape", cpu.shape}};
  NamedTensors parts;
  parts.emplace_back(name, cpu.codes.view({-1, 1}));
  parts.emplace_back(name + ".absmax", cpu.double_quant() ? cpu.absmax_codes : cpu.absmax);
  parts.emplace_back(name + ".quant_map", tensor_of(codebook(cpu.type), kCodebookSize, at::kFloat));
  if (cpu.double_quant()) {
    parts.emplace_back(name + ".nested_absmax", cpu.nested_absmax);
    parts.emplace_back(name + ".nested_quant_map", tensor_of(kernels::dynamic_map(), kMapSize, at::kFloat));
    state["nested_blocksize"] = kernels::kNestedBlockSize;
    state["nested_dtype"] = dtype_name(at::kFloat);
    state["nested_offset"] = static_cast<double>(cpu.nested_offset);  // Exact, as bitsandbytes writes it.
  }
  const std::string text = state.dump();
  parts.emplace_back(state_key(name, cpu.type),
                     tensor_of(text.data(), static_cast<std::int64_t>(text.size()), at::kByte));
  return parts;
}

bool is_bitsandbytes(const std::string& name, const TensorLookup& lookup) {
  return std::any_of(kTypes.begin(), kTypes.end(),
                     [&](QuantType type) { return lookup(state_key(name, type)).defined(); });
}

QuantizedTensor from_bitsandbytes(const std::string& name, const TensorLookup& lookup) {
  const at::NoGradGuard no_grad;
  const std::optional<QuantType> type = stored_type(name, lookup);
  if (!type)
    throw FormatError(name, ": no ", state_key(name, QuantType::kNf4),
                      " (or __fp4) beside it: not a 4-bit weight");
  const std::string where = state_key(name, *type);
  const at::Tensor bytes = require(lookup, where, at::kByte, -1);
  const std::string_view text(static_cast<const char*>(bytes.const_data_ptr()),
                              static_cast<std::size_t>(bytes.numel()));
  const Json state = io::parse_json(text, where);
  QuantizedTensor weight = parse_state(state, where, *type);
  const std::string map_key = name + ".quant_map";
  check_map(map_key, require(lookup, map_key, at::kFloat, kCodebookSize), codebook(*type));
  weight.codes = read_codes(name, lookup, (weight.numel() + 1) / 2);

  // Either every part of double quantisation is there, or none.
  const bool nested = state.contains("nested_offset") || state.contains("nested_blocksize") ||
                      lookup(name + ".nested_absmax").defined();
  if (nested) {
    read_nested(name, lookup, state, where, weight);
  } else {
    const std::string key = name + ".absmax";
    weight.absmax = require(lookup, key, at::kFloat, weight.blocks());
    check_finite(key, weight.absmax);
  }
  return weight;
}

Json quantization_config(const quant::QuantizeOptions& options, at::ScalarType dtype,
                         const std::vector<std::string>& skipped) {
  return {{"quant_method", "bitsandbytes"},
          {"_load_in_4bit", true},
          {"_load_in_8bit", false},
          {"load_in_4bit", true},
          {"load_in_8bit", false},
          {"bnb_4bit_quant_type", quant::name(options.type)},
          {"bnb_4bit_use_double_quant", options.double_quant},
          {"bnb_4bit_compute_dtype", dtype_name(dtype)},
          {"bnb_4bit_quant_storage", "uint8"},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", skipped.empty() ? Json(nullptr) : Json(skipped)},
          {"llm_int8_threshold", 6.0}};
}

QuantizationConfig parse_quantization_config(const Json& block, const std::string& where) {
  if (!block.is_object()) throw FormatError(where, ": quantization_config is no JSON object");
  const std::string place = where + ": quantization_config";
  // A missing key has transformers' default.
  const auto value = [&]<class T>(const char* key, T fallback) {
    const auto found = block.find(key);
    return found == block.end() || found->is_null() ? fallback : field<T>(block, place, key);
  };
  const auto method = value("quant_method", std::string("bitsandbytes"));
  if (method != "bitsandbytes")
    throw UnsupportedError(place, ": quant_method ", method, "; only bitsandbytes in 4 bits is supported");
  if (!value("load_in_4bit", value("_load_in_4bit", false)))
    throw UnsupportedError(
        place,
        ": load_in_4bit is not true, so transformers reads the weights as 8-bit ones of bitsandbytes; "
        "only 4-bit ones are supported. If the weights are not quantised, remove quantization_config");
  QuantizationConfig config;
  const auto type = value("bnb_4bit_quant_type", std::string("fp4"));
  const auto found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](QuantType t) { return type == quant::name(t); });
  if (found == kTypes.end())
    throw FormatError(place, ": bnb_4bit_quant_type is ", type, ", neither nf4 nor fp4");
  config.options.type = *found;
  config.options.double_quant = value("bnb_4bit_use_double_quant", false);
  const auto dtype = value("bnb_4bit_compute_dtype", std::string("float32"));
  const auto known = dtype_named(dtype);
  if (!known)
    throw FormatError(place, ": bnb_4bit_compute_dtype ", dtype, " is none of float32, bfloat16, float16");
  config.compute_dtype = *known;
  config.skipped = value("llm_int8_skip_modules", std::vector<std::string>{});
  return config;
}

}  // namespace bitrain::hub
