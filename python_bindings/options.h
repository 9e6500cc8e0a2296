#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <bitrain/base/error.h>
#include <bitrain/base/fields.h>
#include <bitrain/base/rules.h>
#include <bitrain/base/strings.h>

namespace bitrain::python {

/// Fills an option struct from a dict through its visit_fields; unknown keys are errors that name the
/// nearest, as are values that a recipe would refuse.
class OptionReader {
 public:
  OptionReader(const pybind11::dict& values, std::string where) : values_(values), where_(std::move(where)) {}

  template <class Value>
  void field(const char* name, Value& value, const Rule& rule, const char* /*doc*/) {
    names_.emplace_back(name);
    if (!values_.contains(name)) return;
    const pybind11::object given = values_[name];
    try {
      if constexpr (has_fields_v<Value>) {
        OptionReader nested(given.cast<pybind11::dict>(), where_ + "." + name);
        visit_fields(nested, value);
        nested.finish();
      } else {
        value = given.cast<Value>();
        if constexpr (std::is_same_v<Value, std::int64_t> || std::is_same_v<Value, double> ||
                      std::is_same_v<Value, std::string>)
          check_rule(where_ + ": " + name, value, rule);
      }
    } catch (const pybind11::cast_error&) {
      throw ConfigError(where_, ": '", name,
                        "' has the wrong type: ", std::string(pybind11::str(pybind11::type::of(given))));
    }
  }

  void finish() const {
    for (const auto& item : values_) {
      const auto key = item.first.cast<std::string>();
      bool known = false;
      for (const std::string& name : names_) known = known || name == key;
      if (!known) throw ConfigError(where_, ": there is no option '", key, "'", did_you_mean(key, names_));
    }
  }

 private:
  pybind11::dict values_;
  std::string where_;
  std::vector<std::string> names_;
};

template <class Options>
void read_options(const pybind11::dict& values, Options& options, const std::string& where) {
  OptionReader reader(values, where);
  visit_fields(reader, options);
  reader.finish();
}

}  // namespace bitrain::python
