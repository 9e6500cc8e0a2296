#include <cstring>
#include <new>
#include <stdexcept>

#include <c10/util/Exception.h>

#include <bitrain/base/cpu_allocator.h>
#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/printable.h>
#include <bitrain/base/version.h>

#include "bind.h"

namespace bitrain::python {
namespace {

/// Each kind of error becomes a Python class of its own below bitrain.Error; ConfigError and DataError are
/// ValueErrors too, IoError is an OSError, so that callers who do not know bitrain catch them as well.
void bind_errors(py::module_& module) {
  static PyObject* base = PyErr_NewException("bitrain.Error", PyExc_RuntimeError, nullptr);
  module.attr("Error") = py::reinterpret_borrow<py::object>(base);
  static PyObject* kinds[8];
  const std::pair<const char*, PyObject*> classes[] = {
      {"ConfigError", PyExc_ValueError}, {"DataError", PyExc_ValueError},
      {"FormatError", PyExc_ValueError}, {"IoError", PyExc_OSError},
      {"StateError", nullptr},           {"DivergedError", PyExc_ArithmeticError},
      {"UnsupportedError", nullptr},     {"RankError", nullptr}};
  for (int i = 0; i < 8; ++i) {
    const auto& [name, also] = classes[i];
    // OSError has a layout of its own, so IoError cannot be a RuntimeError at once.
    py::tuple bases = also == nullptr         ? py::make_tuple(py::handle(base))
                      : also == PyExc_OSError ? py::make_tuple(py::handle(also))
                                              : py::make_tuple(py::handle(base), py::handle(also));
    kinds[i] = PyErr_NewException((std::string("bitrain.") + name).c_str(), bases.ptr(), nullptr);
    if (kinds[i] == nullptr) throw py::error_already_set();
    module.attr(name) = py::reinterpret_borrow<py::object>(kinds[i]);
  }
  // By value, as pybind11's type for it says. NOLINTNEXTLINE(performance-unnecessary-value-param)
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      PyErr_SetString(kinds[static_cast<int>(error.kind())], printable(error.what()).c_str());
    } catch (const std::bad_alloc& error) {
      PyErr_SetString(PyExc_MemoryError, failure_of(error).message.c_str());
    } catch (const c10::Error& error) {  // Without its C++ stack.
      PyErr_SetString(PyExc_RuntimeError, printable(failure_of(error).message).c_str());
    } catch (const std::runtime_error& error) {  // LibTorch's words at second hand, from a thread or a rank.
      if (std::strstr(error.what(), "INTERNAL ASSERT FAILED") == nullptr &&
          std::strstr(error.what(), "\nException raised from ") == nullptr)
        throw;
      PyErr_SetString(PyExc_RuntimeError, printable(failure_of(error).message).c_str());
    }
  });
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Takes a language model into more languages.";
  module.attr("__version__") = kVersion;
  bind_errors(module);
  bind_quant(module);
  bind_text(module);
  bind_model(module);
  bind_encoder(module);
  bind_losses(module);
  bind_eval(module);
  bind_data(module);
  bind_recipe(module);
}

}  // namespace bitrain::python
