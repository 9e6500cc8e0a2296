#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bitrain::fields {

/// What a text names besides itself: checked before a run, and part of what a stage was made from.
enum class Refers { kNothing, kFile, kFolder, kStage };

/// What a value of an option must satisfy. YAML, the JSON schema, `config explain`, C++ and Python read it
/// alike.
struct Rule {
  std::optional<double> minimum;
  std::optional<double> maximum;
  bool exclusive_minimum = false;
  bool exclusive_maximum = false;
  std::vector<std::string> choices;  ///< For strings: the only values allowed. Empty means any.
  bool not_empty = false;
  bool required = false;             ///< The key must be written in the recipe.
  Refers refers = Refers::kNothing;  ///< For strings and lists of them; an empty one names nothing.
};

[[nodiscard]] inline Rule any() {
  return {};
}
[[nodiscard]] inline Rule at_least(double minimum) {
  Rule rule;
  rule.minimum = minimum;
  return rule;
}
[[nodiscard]] inline Rule above(double minimum) {
  Rule rule = at_least(minimum);
  rule.exclusive_minimum = true;
  return rule;
}
[[nodiscard]] inline Rule in_range(double minimum, double maximum) {
  Rule rule = at_least(minimum);
  rule.maximum = maximum;
  return rule;
}
/// Above `minimum`, up to `maximum`.
[[nodiscard]] inline Rule above_up_to(double minimum, double maximum) {
  Rule rule = in_range(minimum, maximum);
  rule.exclusive_minimum = true;
  return rule;
}
/// From `minimum` to below `maximum`.
[[nodiscard]] inline Rule in_half_open_range(double minimum, double maximum) {
  Rule rule = in_range(minimum, maximum);
  rule.exclusive_maximum = true;
  return rule;
}
[[nodiscard]] inline Rule one_of(std::vector<std::string> choices) {
  Rule rule;
  rule.choices = std::move(choices);
  return rule;
}
[[nodiscard]] inline Rule not_empty() {
  Rule rule;
  rule.not_empty = true;
  return rule;
}
[[nodiscard]] inline Rule required(Rule rule = {}) {
  rule.required = true;
  return rule;
}

[[nodiscard]] inline Rule names_file(Rule rule = {}) {
  rule.refers = Refers::kFile;
  return rule;
}
[[nodiscard]] inline Rule names_folder(Rule rule = {}) {
  rule.refers = Refers::kFolder;
  return rule;
}
/// An earlier stage of the recipe, or "base".
[[nodiscard]] inline Rule names_stage(Rule rule = {}) {
  rule.refers = Refers::kStage;
  return rule;
}

}  // namespace bitrain::fields

namespace bitrain {
using namespace fields;  // Every module's option structs speak of at_least(1), names_file() and the like.
}
