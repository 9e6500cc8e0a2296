#include "options.h"

#include <algorithm>
#include <vector>

#include <pybind11/stl.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/fields/check.h>

namespace bitrain::python {
namespace py = pybind11;
namespace {

void read(const py::object& given, const Value& to, const std::string& where);

/// A list, tuple, set, generator: what can be gone through, but texts and maps.
void read_list(const py::object& given, const Value& to, const std::string& where) {
  if (py::isinstance<py::str>(given) || py::isinstance<py::bytes>(given) || py::hasattr(given, "keys") ||
      !py::hasattr(given, "__iter__"))
    throw py::cast_error();
  to.clear();
  std::size_t i = 0;
  for (const py::handle element : py::iter(given))
    read(py::reinterpret_borrow<py::object>(element), to.add(), to_text(where, "[", i++, "]"));
}

py::dict as_dict(const py::object& given) {
  if (!py::hasattr(given, "keys")) throw py::cast_error();
  return py::dict(given);
}

void read(const py::object& given, const Value& to, const std::string& where) {
  switch (to.kind()) {
    case Kind::kBool: to.boolean() = given.cast<bool>(); return;
    case Kind::kInteger: to.integer() = given.cast<std::int64_t>(); return;
    case Kind::kNumber: to.number() = given.cast<double>(); return;
    case Kind::kText: to.text() = given.cast<std::string>(); return;
    case Kind::kStruct: {
      const py::dict keywords = as_dict(given);
      for (const Field& field : to.fields())
        if (field.rule.required && !keywords.contains(field.name))
          throw ConfigError(where, ": '", field.name, "' is missing");
      return read_options(keywords, to.fields(), where);
    }
    case Kind::kList: return read_list(given, to, where);
    case Kind::kOptional:
      to.clear();
      if (!given.is_none()) read(given, to.add(), where);
      return;
    case Kind::kMap:
      to.clear();
      for (const auto& [key, element] : as_dict(given))
        read(py::reinterpret_borrow<py::object>(element), to.add(key.cast<std::string>()),
             where + "." + key.cast<std::string>());
      return;
  }
}

}  // namespace

void read_options(const py::dict& keywords, const FieldList& fields, const std::string& where) {
  std::vector<std::string> known;
  for (const Field& field : fields) {
    known.emplace_back(field.name);
    if (!keywords.contains(field.name)) continue;
    const py::object given = keywords[field.name];
    const std::string name = where + ": " + field.name;
    try {
      read(given, field.value, where + "." + field.name);
    } catch (const py::cast_error&) {
      throw ConfigError(where, ": '", field.name,
                        "' has the wrong type: ", std::string(py::str(py::type::of(given))));
    }
    check_value(name, field.value, field.rule);
  }
  for (const auto& [key, element] : keywords)
    if (const auto name = key.cast<std::string>(); std::find(known.begin(), known.end(), name) == known.end())
      throw ConfigError(where, ": there is no option '", name, "'", did_you_mean(name, known));
}

}  // namespace bitrain::python
