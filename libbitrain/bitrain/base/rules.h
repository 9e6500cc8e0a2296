#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include <bitrain/base/fields.h>

namespace bitrain {

/// "must be at least 0.98 and at most 1" for a value outside the rule's bounds, else "".
[[nodiscard]] std::string broken_bounds(const Rule& rule, double value);
/// The same for whole numbers, of which those beyond +-2^53 are refused where the rule says nothing: sums of
/// options can then be counted, and every reader of JSON reads them back.
[[nodiscard]] std::string broken_bounds(const Rule& rule, std::int64_t value);

/// Throws ConfigError, naming the option, for a number outside the rule's bounds or a text that is none of
/// its choices.
void check_rule(const std::string& name, std::int64_t value, const Rule& rule);
void check_rule(const std::string& name, double value, const Rule& rule);
void check_rule(const std::string& name, const std::string& value, const Rule& rule);

namespace detail {
struct RuleVisitor {
  template <class T>
  void field(const char* name, T& value, const Rule& rule, const char*) {
    if constexpr (has_fields_v<T>)
      visit_fields(*this, value);
    else if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, double> ||
                       std::is_same_v<T, std::string>)
      check_rule(name, value, rule);
  }
};
}  // namespace detail

/// Checks the numbers and texts of an option struct that came by C++ or Python: YAML's are checked, with
/// their places, as they are read. Throws ConfigError for the first that breaks its rule.
template <class T>
void check_fields(T options) {
  detail::RuleVisitor visitor;
  visit_fields(visitor, options);
}

}  // namespace bitrain
