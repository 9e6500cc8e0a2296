#pragma once

#include <cstdint>
#include <string>

#include <bitrain/fields/fields.h>

namespace bitrain::fields {

/// "must be at least 0.98 and at most 1" for a value outside the rule's bounds, else "".
[[nodiscard]] std::string broken_bounds(const Rule& rule, double value);
/// The same for whole numbers, of which those beyond +-2^53 are refused where the rule says nothing: sums of
/// options can then be counted, and every reader of JSON reads them back.
[[nodiscard]] std::string broken_bounds(const Rule& rule, std::int64_t value);

/// "must not be empty" or "'cosin' is none of linear, cosine (did you mean 'cosine'?)" for a text that breaks the
/// rule, else "".
[[nodiscard]] std::string broken_text(const Rule& rule, const std::string& value);

/// Throws ConfigError, naming the option, for a number outside the rule's bounds or a text that is none of
/// its choices.
void check_rule(const std::string& name, std::int64_t value, const Rule& rule);
void check_rule(const std::string& name, double value, const Rule& rule);
void check_rule(const std::string& name, const std::string& value, const Rule& rule);

/// The same for a value of any kind, and all in it.
void check_value(const std::string& name, const Value& value, const Rule& rule);

/// Checks the numbers and texts of options that came by C++ or Python, those of structs and lists in them
/// too: YAML's are checked, with their places, as they are read. Throws ConfigError for the first that breaks
/// its rule. `prefix` stands before the names: "train.".
void check_fields(const FieldList& fields, const std::string& prefix = "");

template <class T>
void check_fields(T options, const std::string& prefix = "") {
  check_fields(fields_of(options), prefix);
}

}  // namespace bitrain::fields
