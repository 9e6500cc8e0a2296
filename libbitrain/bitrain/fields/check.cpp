#include <bitrain/fields/check.h>

#include <algorithm>
#include <cmath>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/strings.h>

namespace bitrain::fields {

std::string broken_bounds(const Rule& rule, double value) {
  const bool low = rule.minimum && !(rule.exclusive_minimum ? value > *rule.minimum : value >= *rule.minimum);
  const bool high =
      rule.maximum && !(rule.exclusive_maximum ? value < *rule.maximum : value <= *rule.maximum);
  if (!low && !high) return "";
  std::string bounds;
  if (rule.minimum)
    bounds = (rule.exclusive_minimum ? "above " : "at least ") + format("%.12g", *rule.minimum);
  if (rule.maximum)
    bounds += (bounds.empty() ? "" : " and ") +
              format(rule.exclusive_maximum ? "below %.12g" : "at most %.12g", *rule.maximum);
  return "must be " + bounds;
}

std::string broken_bounds(const Rule& rule, std::int64_t value) {
  constexpr std::int64_t kMost = std::int64_t{1} << 53;
  if (std::string broken = broken_bounds(rule, static_cast<double>(value)); !broken.empty()) return broken;
  if (value > kMost) return to_text("must be at most ", kMost);
  if (value < -kMost) return to_text("must be at least ", -kMost);
  return "";
}

std::string broken_text(const Rule& rule, const std::string& value) {
  if (rule.not_empty && value.empty()) return "must not be empty";
  if (rule.choices.empty() ||
      std::find(rule.choices.begin(), rule.choices.end(), value) != rule.choices.end())
    return "";
  std::vector<std::string> shown;
  for (const std::string& choice : rule.choices)
    if (!choice.empty()) shown.push_back(choice);
  return "'" + value + "' is none of " + join(shown, ", ") + did_you_mean(value, rule.choices);
}

void check_rule(const std::string& name, std::int64_t value, const Rule& rule) {
  if (const std::string broken = broken_bounds(rule, value); !broken.empty())
    throw ConfigError(name, " ", broken, ", not ", value);
}

void check_rule(const std::string& name, double value, const Rule& rule) {
  if (!std::isfinite(value)) throw ConfigError(name, " must be a finite number, not ", format("%g", value));
  if (const std::string broken = broken_bounds(rule, value); !broken.empty())
    throw ConfigError(name, " ", broken, ", not ", format("%.12g", value));
}

void check_rule(const std::string& name, const std::string& value, const Rule& rule) {
  if (const std::string broken = broken_text(rule, value); !broken.empty())
    throw ConfigError(name, starts_with(broken, "must") ? " " : ": ", broken);
}

void check_value(const std::string& name, const Value& value, const Rule& rule) {
  switch (value.kind()) {
    case Kind::kBool: return;
    case Kind::kInteger: return check_rule(name, value.integer(), rule);
    case Kind::kNumber: return check_rule(name, value.number(), rule);
    case Kind::kText: return check_rule(name, value.text(), rule);
    case Kind::kStruct: return check_fields(value.fields(), name + ".");
    case Kind::kList: {
      const std::vector<Value> elements = value.elements();
      if (elements.empty() && rule.not_empty) throw ConfigError(name, " must not be empty");
      for (std::size_t i = 0; i < elements.size(); ++i)
        check_value(to_text(name, "[", i, "]"), elements[i], rule);
      return;
    }
    case Kind::kOptional:
      for (const Value& element : value.elements()) check_value(name, element, rule);
      return;
    case Kind::kMap: {
      const std::vector<std::string> keys = value.keys();
      const std::vector<Value> elements = value.elements();
      if (keys.empty() && rule.not_empty) throw ConfigError(name, " must not be empty");
      for (std::size_t i = 0; i < keys.size(); ++i) check_value(name + "." + keys[i], elements[i], rule);
      return;
    }
  }
}

void check_fields(const FieldList& fields, const std::string& prefix) {
  for (const Field& field : fields) check_value(prefix + field.name, field.value, field.rule);
}

}  // namespace bitrain::fields
