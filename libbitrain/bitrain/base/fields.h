#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace bitrain {

/// What a text names besides itself: checked before a run, and part of what a stage was made from.
enum class Refers { kNothing, kFile, kFolder, kStage };

/// What a value of an option must satisfy. Read by the YAML decoder, the JSON schema, `config explain` and
/// Python alike.
struct Rule {
  std::optional<double> minimum;
  std::optional<double> maximum;
  bool exclusive_minimum = false;
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

// An option struct is a plain aggregate with defaults and one free function beside it that lists each field
// once:
//
//   struct LoraOptions { std::int64_t r = 8; double lora_alpha = 16.0; };
//   template <class Visitor> void visit_fields(Visitor& v, LoraOptions& o) {
//     v.field("r", o.r, at_least(1), "Rank of the update matrices.");
//     v.field("lora_alpha", o.lora_alpha, above(0), "Numerator of the scale lora_alpha / r.");
//   }
//
// A visitor's `field(const char* name, T& value, const Rule&, const char* doc)` is called with T one of:
// bool, std::int64_t, double, std::string, another option struct, or std::vector, std::optional,
// std::map<std::string, .> of those. Documentation starts with a capital and ends with a full stop.

namespace detail {
struct AnyVisitor {
  template <class T>
  void field(const char*, T&, const Rule&, const char*) {}
};
struct NameVisitor {
  std::vector<std::string> names;
  template <class T>
  void field(const char* name, T&, const Rule&, const char*) {
    names.emplace_back(name);
  }
};
template <class T, class = void>
struct has_fields : std::false_type {};
template <class T>
struct has_fields<T, std::void_t<decltype(visit_fields(std::declval<AnyVisitor&>(), std::declval<T&>()))>>
    : std::true_type {};
}  // namespace detail

/// True for option structs: types with a `visit_fields` found by argument-dependent lookup.
template <class T>
inline constexpr bool has_fields_v = detail::has_fields<T>::value;

/// The names of a struct's fields, in order.
template <class T>
[[nodiscard]] std::vector<std::string> field_names() {
  T value{};
  detail::NameVisitor visitor;
  visit_fields(visitor, value);
  return visitor.names;
}

}  // namespace bitrain
