#pragma once

#include <string>

#include <pybind11/pybind11.h>

#include <bitrain/fields/fields.h>

namespace bitrain::python {

/// Sets options from the keywords of a call, whose name is `where`. Throws ConfigError for unknown keywords,
/// with the nearest one, and for values of another type or that a recipe would refuse.
void read_options(const pybind11::dict& keywords, const FieldList& fields, const std::string& where);

template <class Options>
void read_options(const pybind11::dict& keywords, Options& options, const std::string& where) {
  read_options(keywords, fields_of(options), where);
}

}  // namespace bitrain::python
