#include <bitrain/recipe/decode.h>

#include <charconv>
#include <cmath>

#include <bitrain/base/rules.h>

#include <bitrain/base/error.h>
#include <bitrain/io/home.h>

namespace bitrain::recipe {
namespace {

/// Where from_chars should begin: behind a '+', which it does not know, unless another sign follows.
const char* number_begin(const std::string& text) {
  return text.data() + (text.size() > 1 && text[0] == '+' && text[1] != '-' ? 1 : 0);
}

/// Without the "_" of "1_000_000"; as it is where they do not part groups of three digits.
std::string without_separators(const std::string& text) {
  if (text.find('_') == std::string::npos) return text;
  std::string digits;
  std::size_t begin = text[0] == '+' || text[0] == '-' ? 1 : 0;
  const std::vector<std::string> groups = split(text.substr(begin), '_');
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (i == 0 ? groups[i].empty() || groups[i].size() > 3 : groups[i].size() != 3) return text;
    digits += groups[i];
  }
  return text.substr(0, begin) + digits;
}

/// The scalar's text, or null after a problem was added.
const std::string* text_of(const Node& node, const std::string& key, const char* wanted, Problems& problems) {
  if (node.kind == Node::Kind::kScalar) return &node.scalar;
  problems.add(node.mark, key, std::string("should be ") + wanted + ", not " + node.describe());
  return nullptr;
}

template <class Number>
void check_range(const Node& node, const std::string& key, const Rule& rule, Number value,
                 Problems& problems) {
  if (const std::string broken = broken_bounds(rule, value); !broken.empty())
    problems.add(node.mark, key, broken + ", not " + node.scalar);
}

}  // namespace

void decode_scalar(const Node& node, const std::string& key, const Rule& /*rule*/, bool& to,
                   Problems& problems) {
  const std::string* text = text_of(node, key, "true or false", problems);
  if (text == nullptr) return;
  if (*text == "true" || *text == "True" || *text == "TRUE")
    to = true;
  else if (*text == "false" || *text == "False" || *text == "FALSE")
    to = false;
  else
    problems.add(node.mark, key, "should be true or false, not " + node.describe());
}

void decode_scalar(const Node& node, const std::string& key, const Rule& rule, std::int64_t& to,
                   Problems& problems) {
  const std::string* text = text_of(node, key, "a whole number", problems);
  if (text == nullptr) return;
  const std::string digits = without_separators(*text);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(number_begin(digits), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || digits.empty())
    return problems.add(node.mark, key, "should be a whole number, not " + node.describe());
  check_range(node, key, rule, value, problems);
  to = value;
}

void decode_scalar(const Node& node, const std::string& key, const Rule& rule, double& to,
                   Problems& problems) {
  const std::string* text = text_of(node, key, "a number", problems);
  if (text == nullptr) return;
  double value = 0;
  const auto [end, error] = std::from_chars(number_begin(*text), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || !std::isfinite(value))
    return problems.add(node.mark, key, "should be a number, not " + node.describe());
  check_range(node, key, rule, value, problems);
  to = value;
}

void decode_scalar(const Node& node, const std::string& key, const Rule& rule, std::string& to,
                   Problems& problems) {
  std::string value;
  if (node.kind != Node::Kind::kNull) {
    const std::string* text = text_of(node, key, "text", problems);
    if (text == nullptr) return;
    value = *text;
  }
  if (value.empty() && rule.not_empty) return problems.add(node.mark, key, "must not be empty");
  if (rule.refers == Refers::kFile || rule.refers == Refers::kFolder) {
    try {
      value = io::expand_home(value);
    } catch (const ConfigError& error) {
      return problems.add(node.mark, key, error.what());
    }
  }
  if (!rule.choices.empty()) {
    bool known = false;
    for (const std::string& choice : rule.choices) known = known || choice == value;
    if (!known) {
      std::vector<std::string> shown;
      for (const std::string& choice : rule.choices)
        if (!choice.empty()) shown.push_back(choice);
      return problems.add(
          node.mark, key,
          "'" + value + "' is none of " + join(shown, ", ") + did_you_mean(value, rule.choices));
    }
  }
  to = std::move(value);
}

}  // namespace bitrain::recipe
