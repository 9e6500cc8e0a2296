#include <string>

#include <bitrain/base/error.h>
#include <bitrain/hub/bitsandbytes.h>
#include <bitrain/quant/matmul_4bit.h>
#include <bitrain/quant/quantized_tensor.h>

#include "bind.h"

namespace bitrain::python {
namespace {

constexpr const char* kName = "weight";

quant::QuantType type_named(const std::string& name) {
  for (const quant::QuantType type : {quant::QuantType::kNf4, quant::QuantType::kFp4})
    if (name == quant::name(type)) return type;
  throw ConfigError("quant_type is 'nf4' or 'fp4', not '", name, "'");
}

/// On-disk form under the keys bitsandbytes uses: "weight", "weight.absmax", ...
py::dict quantize_4bit(const at::Tensor& tensor, std::int64_t block_size, bool double_quant,
                       const std::string& quant_type) {
  const quant::QuantizeOptions options{type_named(quant_type), block_size, double_quant};
  hub::NamedTensors parts;
  {
    py::gil_scoped_release release;
    parts = hub::to_bitsandbytes(kName, quant::quantize(tensor, options));
  }
  py::dict result;
  for (const auto& [key, part] : parts) result[py::str(key)] = part;
  return result;
}

quant::QuantizedTensor from_dict(const py::dict& parts) {
  return hub::from_bitsandbytes(kName, [&parts](const std::string& name) {
    return parts.contains(name.c_str()) ? parts[name.c_str()].cast<at::Tensor>() : at::Tensor();
  });
}

}  // namespace

void bind_quant(py::module_& module) {
  module.def("quantize_4bit", &quantize_4bit, py::arg("tensor"), py::arg("block_size") = 64,
             py::arg("double_quant") = true, py::arg("quant_type") = "nf4",
             "Quantises a dense floating tensor to 4 bits; returns bitsandbytes' on-disk form as a dict.");
  module.def(
      "quantize_nf4",
      [](const at::Tensor& tensor, std::int64_t block_size, bool double_quant) {
        return quantize_4bit(tensor, block_size, double_quant, "nf4");
      },
      py::arg("tensor"), py::arg("block_size") = 64, py::arg("double_quant") = true,
      "quantize_4bit with NF4.");
  const auto dequantize = [](const py::dict& parts, at::ScalarType dtype) {
    const quant::QuantizedTensor weight = from_dict(parts);
    py::gil_scoped_release release;
    return quant::dequantize(weight, dtype);
  };
  for (const char* name : {"dequantize_4bit", "dequantize_nf4"})
    module.def(
        name, dequantize, py::arg("parts"), py::arg("dtype") = at::kFloat,
        "Decodes bitsandbytes' on-disk form (a dict with 'weight', 'weight.absmax', ...) into `dtype`.");
  module.def(
      "linear_4bit",
      [](const at::Tensor& x, const py::dict& parts) { return quant::linear_4bit(x, from_dict(parts)); },
      py::arg("x"), py::arg("parts"),
      "x [.., in] times the transpose of a 4-bit weight [out, in]; differentiable in x.");
}

}  // namespace bitrain::python
