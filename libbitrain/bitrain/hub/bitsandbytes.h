#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json_fwd.hpp>

#include <bitrain/quant/quantized_tensor.h>

namespace bitrain::hub {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Finds a tensor by its name in a file; undefined where there is none.
using TensorLookup = std::function<at::Tensor(const std::string& name)>;

/// A 4-bit weight as bitsandbytes 0.50 stores it (docs/formats.md): `name` u8 [ceil(n / 2), 1],
/// `name`.absmax, .quant_map, with double quantisation .nested_absmax and .nested_quant_map, and
/// .quant_state.bitsandbytes__nf4 (or __fp4) with the rest as JSON bytes. `name` ends in ".weight".
[[nodiscard]] NamedTensors to_bitsandbytes(const std::string& name, const quant::QuantizedTensor& weight);

/// True when `name` is stored as a packed 4-bit weight.
[[nodiscard]] bool is_bitsandbytes(const std::string& name, const TensorLookup& lookup);

/// Reads what to_bitsandbytes writes, or what bitsandbytes does; the codes share the file's memory. Codes
/// stored in other dtypes (byte views, as under FSDP) are accepted. Throws FormatError naming the key when a
/// piece is missing or double, has another size or dtype, describes another code book, a block size that is
/// not supported, or scales that are not finite.
[[nodiscard]] quant::QuantizedTensor from_bitsandbytes(const std::string& name, const TensorLookup& lookup);

/// The `quantization_config` block of config.json for weights quantised by `options`, computing in `dtype`;
/// `skipped` names the modules left unquantised (transformers' llm_int8_skip_modules).
[[nodiscard]] nlohmann::ordered_json quantization_config(const quant::QuantizeOptions& options,
                                                         at::ScalarType dtype,
                                                         const std::vector<std::string>& skipped = {});

/// What a `quantization_config` block says about 4-bit weights.
struct QuantizationConfig {
  quant::QuantizeOptions options;
  at::ScalarType compute_dtype = at::kFloat;
  std::vector<std::string> skipped;
};

/// Reads such a block. Throws UnsupportedError for another method than bitsandbytes' 4-bit one, FormatError
/// for damaged values; `where` names the file.
[[nodiscard]] QuantizationConfig parse_quantization_config(const nlohmann::ordered_json& block,
                                                           const std::string& where);

}  // namespace bitrain::hub
