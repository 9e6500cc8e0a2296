#pragma once

#include <optional>
#include <string>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <torch/csrc/utils/pybind.h>

#include <bitrain/base/error.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::python {

namespace py = pybind11;

/// pybind11 holds no pointers to const. Every method of a tokenizer is const, so nothing is lost.
inline std::shared_ptr<text::Tokenizer> held(const std::shared_ptr<const text::Tokenizer>& tokenizer) {
  return std::const_pointer_cast<text::Tokenizer>(tokenizer);
}

/// None, a torch.dtype, or its name. Throws ConfigError for another name.
inline std::optional<at::ScalarType> dtype_named(const py::object& dtype) {
  if (dtype.is_none()) return std::nullopt;
  if (!py::isinstance<py::str>(dtype)) return dtype.cast<at::ScalarType>();
  const std::string name = dtype.cast<std::string>();
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  throw ConfigError("dtype '", name, "': there are float32, bfloat16 and float16");
}

// One function a part of the module.
void bind_quant(py::module_& module);
void bind_text(py::module_& module);
void bind_model(py::module_& module);
void bind_encoder(py::module_& module);
void bind_losses(py::module_& module);
void bind_eval(py::module_& module);
void bind_data(py::module_& module);
void bind_recipe(py::module_& module);

}  // namespace bitrain::python
