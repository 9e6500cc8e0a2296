#include <bitrain/base/rules.h>

#include <algorithm>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/strings.h>

namespace bitrain {

std::string broken_bounds(const Rule& rule, double value) {
  const bool low = rule.minimum && !(rule.exclusive_minimum ? value > *rule.minimum : value >= *rule.minimum);
  const bool high = rule.maximum && !(value <= *rule.maximum);
  if (!low && !high) return "";
  std::string bounds;
  if (rule.minimum)
    bounds = (rule.exclusive_minimum ? "above " : "at least ") + format("%.12g", *rule.minimum);
  if (rule.maximum) bounds += (bounds.empty() ? "" : " and ") + format("at most %.12g", *rule.maximum);
  return "must be " + bounds;
}

std::string broken_bounds(const Rule& rule, std::int64_t value) {
  constexpr std::int64_t kMost = std::int64_t{1} << 53;
  if (std::string broken = broken_bounds(rule, static_cast<double>(value)); !broken.empty()) return broken;
  if (value > kMost) return to_text("must be at most ", kMost);
  if (value < -kMost) return to_text("must be at least ", -kMost);
  return "";
}

void check_rule(const std::string& name, std::int64_t value, const Rule& rule) {
  if (const std::string broken = broken_bounds(rule, value); !broken.empty())
    throw ConfigError(name, " ", broken, ", not ", value);
}

void check_rule(const std::string& name, double value, const Rule& rule) {
  if (const std::string broken = broken_bounds(rule, value); !broken.empty())
    throw ConfigError(name, " ", broken, ", not ", format("%.12g", value));
}

void check_rule(const std::string& name, const std::string& value, const Rule& rule) {
  if (rule.not_empty && value.empty()) throw ConfigError(name, " must not be empty");
  if (rule.choices.empty() ||
      std::find(rule.choices.begin(), rule.choices.end(), value) != rule.choices.end())
    return;
  throw ConfigError(name, ": there is no '", value, "'", did_you_mean(value, rule.choices),
                    "; there are: ", join(rule.choices, ", "));
}

}  // namespace bitrain
