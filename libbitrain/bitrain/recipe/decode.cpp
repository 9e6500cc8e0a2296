#include <bitrain/recipe/decode.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/fields/check.h>
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

// Scalars. Each adds a problem and leaves `to` alone when the node is something else.

void decode_scalar(const Node& node, const std::string& key, bool& to, Problems& problems) {
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
  if (const std::string broken = broken_text(rule, value); !broken.empty())
    return problems.add(node.mark, key, broken);
  if (rule.refers == Refers::kFile || rule.refers == Refers::kFolder) {
    try {
      value = io::expand_home(value);
    } catch (const ConfigError& error) {
      return problems.add(node.mark, key, error.what());
    }
  }
  to = std::move(value);
}

void decode_list(const Node& node, const std::string& key, const Rule& rule, const Value& to,
                 Problems& problems) {
  if (node.kind == Node::Kind::kNull || node.kind == Node::Kind::kMap)
    return problems.add(node.mark, key, "should be a list, not " + node.describe());
  // A single value stands for a list of one.
  const std::vector<Node> one{node};
  const std::vector<Node>& items = node.kind == Node::Kind::kList ? node.items : one;
  to.clear();
  for (std::size_t i = 0; i < items.size(); ++i)
    decode(items[i], to_text(key, "[", i, "]"), rule, to.add(), problems);
  if (items.empty() && rule.not_empty) problems.add(node.mark, key, "must not be empty");
}

void decode_struct(const Node& node, const std::string& key, const Value& to, Problems& problems) {
  if (node.kind == Node::Kind::kScalar)
    if (const std::optional<Value> text = to.short_form())
      return decode(node, key, names_file(not_empty()), *text, problems);
  if (node.kind == Node::Kind::kNull) return;  // "lora:" with nothing behind it: all defaults.
  if (node.kind != Node::Kind::kMap)
    return problems.add(node.mark, key, "should be a map, not " + node.describe());
  decode_fields(node, key, to.fields(), problems);
}

void decode_map(const Node& node, const std::string& key, const Rule& rule, const Value& to,
                Problems& problems) {
  if (node.kind != Node::Kind::kMap)
    return problems.add(node.mark, key, "should be a map, not " + node.describe());
  to.clear();
  for (const auto& [name, item] : node.members)
    decode(item, std::string(key).append(".").append(name), rule, to.add(name), problems);
  if (node.members.empty() && rule.not_empty) problems.add(node.mark, key, "must not be empty");
}

}  // namespace

void decode(const Node& node, const std::string& key, const Rule& rule, const Value& to, Problems& problems) {
  switch (to.kind()) {
    case Kind::kBool: return decode_scalar(node, key, to.boolean(), problems);
    case Kind::kInteger: return decode_scalar(node, key, rule, to.integer(), problems);
    case Kind::kNumber: return decode_scalar(node, key, rule, to.number(), problems);
    case Kind::kText: return decode_scalar(node, key, rule, to.text(), problems);
    case Kind::kStruct: return decode_struct(node, key, to, problems);
    case Kind::kList: return decode_list(node, key, rule, to, problems);
    case Kind::kMap: return decode_map(node, key, rule, to, problems);
    case Kind::kOptional:
      if (node.kind == Node::Kind::kNull) return to.clear();
      return decode(node, key, rule, to.add(), problems);
  }
}

void decode_fields(const Node& node, const std::string& key, const FieldList& fields, Problems& problems,
                   const std::vector<std::string>& others) {
  const auto key_of = [&](const std::string& name) { return key.empty() ? name : key + "." + name; };
  std::vector<std::string> known;
  for (const Field& field : fields) {
    known.emplace_back(field.name);
    if (const Node* child = node.find(field.name))
      decode(*child, key_of(field.name), field.rule, field.value, problems);
    else if (field.rule.required)
      problems.add(node.mark, key_of(field.name), "is missing");
  }
  known.insert(known.end(), others.begin(), others.end());
  for (const auto& [name, value] : node.members) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    // A file that is something else has thousands: guesses for them would take long, and are not shown.
    const bool guess = problems.list().size() < Problems::kMostShown;
    problems.add(value.mark, key_of(name), "there is no such key" + (guess ? did_you_mean(name, known) : ""));
  }
}

io::Json json_of(const FieldList& fields) {
  io::Json json = io::Json::object();
  for (const Field& field : fields) json[field.name] = json_of(field.value);
  return json;
}

io::Json json_of(const Value& value) {
  switch (value.kind()) {
    case Kind::kBool: return value.boolean();
    case Kind::kInteger: return value.integer();
    case Kind::kNumber: return value.number();
    case Kind::kText: return value.text();
    case Kind::kStruct: return json_of(value.fields());
    case Kind::kList: {
      io::Json list = io::Json::array();
      for (const Value& element : value.elements()) list.push_back(json_of(element));
      return list;
    }
    case Kind::kOptional: {
      const std::vector<Value> elements = value.elements();
      return elements.empty() ? io::Json(nullptr) : json_of(elements.front());
    }
    case Kind::kMap: {
      io::Json map = io::Json::object();
      const std::vector<std::string> keys = value.keys();
      const std::vector<Value> elements = value.elements();
      for (std::size_t i = 0; i < keys.size(); ++i) map[keys[i]] = json_of(elements[i]);
      return map;
    }
  }
  throw StateError("an option of no kind");
}

}  // namespace bitrain::recipe
