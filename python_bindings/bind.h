#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <torch/csrc/utils/pybind.h>

#include <bitrain/text/tokenizer.h>

namespace bitrain::python {

namespace py = pybind11;

/// pybind11 holds no pointers to const. Every method of a tokenizer is const, so nothing is lost.
inline std::shared_ptr<text::Tokenizer> held(const std::shared_ptr<const text::Tokenizer>& tokenizer) {
  return std::const_pointer_cast<text::Tokenizer>(tokenizer);
}

// One function a part of the module.
void bind_quant(py::module_& module);
void bind_text(py::module_& module);
void bind_model(py::module_& module);
void bind_data(py::module_& module);
void bind_recipe(py::module_& module);

}  // namespace bitrain::python
