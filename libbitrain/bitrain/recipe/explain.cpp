#include <bitrain/recipe/explain.h>

#include <algorithm>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/recipe/decode.h>
#include <bitrain/recipe/recipe.h>

namespace bitrain::recipe {
namespace {

std::string number_text(double value) {
  return format("%.12g", value);
}

template <class T>
std::string type_name() {
  if constexpr (detail::kKind<T> == 1) {
    return "list of " + type_name<typename T::value_type>();
  } else if constexpr (detail::kKind<T> == 2) {
    return type_name<typename T::value_type>() + " or null";
  } else if constexpr (detail::kKind<T> == 3) {
    return "map of " + type_name<typename T::mapped_type>();
  } else if constexpr (has_fields_v<T>) {
    return kHasShortForm<T> ? "text or map" : "map";
  } else if constexpr (std::is_same_v<T, bool>) {
    return "true or false";
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return "whole number";
  } else if constexpr (std::is_same_v<T, double>) {
    return "number";
  } else {
    return "text";
  }
}

std::string rule_text(const Rule& rule) {
  std::vector<std::string> parts;
  if (rule.required) parts.emplace_back("required");
  if (rule.minimum)
    parts.push_back((rule.exclusive_minimum ? "above " : "at least ") + number_text(*rule.minimum));
  if (rule.maximum) parts.push_back("at most " + number_text(*rule.maximum));
  if (!rule.choices.empty()) {
    std::vector<std::string> shown;
    for (const std::string& choice : rule.choices)
      if (!choice.empty()) shown.push_back(choice);
    parts.push_back("one of " + join(shown, ", "));
  }
  return join(parts, "; ");
}

/// Lists every key below a struct, nested ones with dots.
class Lister {
 public:
  struct Row {
    std::string key, type, value, rule, doc;
  };

  explicit Lister(std::string prefix) : prefix_(std::move(prefix)) {}

  template <class T>
  void field(const char* name, T& value, const Rule& rule, const char* doc) {
    const std::string key = prefix_ + name;
    if constexpr (has_fields_v<T>) {
      rows_.push_back({key, "map", "", rule.required ? "required" : "", doc});
      append(value, key + ".");
    } else if constexpr (detail::kKind<T> == 1 || detail::kKind<T> == 3) {
      rows_.push_back({key, type_name<T>(), JsonWriter::write(value).dump(), rule_text(rule), doc});
      using Element = typename detail::Element<T>::type;
      if constexpr (has_fields_v<Element>) {
        Element element{};
        append(element, key + (detail::kKind<T> == 1 ? "[]." : ".*."));
      }
    } else {
      rows_.push_back({key, type_name<T>(), JsonWriter::write(value).dump(), rule_text(rule), doc});
    }
  }
  [[nodiscard]] std::vector<Row> take() { return std::move(rows_); }

 private:
  template <class T>
  void append(T& value, const std::string& prefix) {
    Lister nested(prefix);
    visit_fields(nested, value);
    for (Row& row : nested.rows_) rows_.push_back(std::move(row));
  }

  std::string prefix_;
  std::vector<Row> rows_;
};

std::string render(const std::vector<Lister::Row>& rows, bool markdown) {
  std::string text;
  if (markdown) {
    const auto cell = [](std::string value) {
      for (std::size_t at = 0; (at = value.find('|', at)) != std::string::npos; at += 2)
        value.insert(at, "\\");
      return value;
    };
    text = "| key | type | default | rule | meaning |\n| --- | --- | --- | --- | --- |\n";
    for (const Lister::Row& row : rows)
      text += "| `" + cell(row.key) + "` | " + row.type + " | " +
              (row.value.empty() ? "" : "`" + cell(row.value) + "`") + " | " + cell(row.rule) + " | " +
              cell(row.doc) + " |\n";
    return text;
  }
  for (const Lister::Row& row : rows) {
    text += "  " + row.key + " (" + row.type;
    if (!row.value.empty()) text += ", default " + row.value;
    if (!row.rule.empty()) text += ", " + row.rule;
    text += ")\n      " + row.doc + "\n";
  }
  return text;
}

template <class T>
std::vector<Lister::Row> rows_of(const T& options) {
  T copy = options;
  Lister lister("");
  visit_fields(lister, copy);
  return lister.take();
}

/// Builds JSON schemas from option structs.
class SchemaWriter {
 public:
  template <class T>
  void field(const char* name, T& value, const Rule& rule, const char* doc) {
    io::Json entry = schema_of(value, rule);
    entry["description"] = doc;
    if constexpr (!has_fields_v<T>) entry["default"] = JsonWriter::write(value);
    properties_[name] = std::move(entry);
    if (rule.required) required_.push_back(name);
  }

  [[nodiscard]] io::Json take(const io::Json& extra = io::Json::object()) {
    properties_.update(extra);
    io::Json object = {{"type", "object"}, {"additionalProperties", false}, {"properties", properties_}};
    if (!required_.empty()) object["required"] = required_;
    return object;
  }

 private:
  template <class T>
  static io::Json schema_of(T& value, const Rule& rule) {
    if constexpr (has_fields_v<T>) {
      SchemaWriter writer;
      visit_fields(writer, value);
      if constexpr (kHasShortForm<T>)
        return {{"anyOf", {{{"type", "string"}, {"minLength", 1}}, writer.take()}}};
      else
        return writer.take();
    } else if constexpr (detail::kKind<T> == 1) {
      typename T::value_type item{};
      return {{"type", "array"}, {"items", schema_of(item, rule)}};
    } else if constexpr (detail::kKind<T> == 2) {
      typename T::value_type item{};
      return {{"anyOf", {schema_of(item, rule), {{"type", "null"}}}}};
    } else if constexpr (detail::kKind<T> == 3) {
      typename T::mapped_type item{};
      return {{"type", "object"}, {"additionalProperties", schema_of(item, rule)}};
    } else {
      io::Json scalar = io::Json::object();
      if constexpr (std::is_same_v<T, std::string>)
        scalar["type"] =
            rule.choices.empty() ? io::Json{"string", "number"} : io::Json("string");  // 0.9 is text.
      else
        scalar["type"] = std::is_same_v<T, bool>           ? "boolean"
                         : std::is_same_v<T, std::int64_t> ? "integer"
                                                           : "number";
      if (rule.minimum) scalar[rule.exclusive_minimum ? "exclusiveMinimum" : "minimum"] = *rule.minimum;
      if (rule.maximum) scalar["maximum"] = *rule.maximum;
      if (!rule.choices.empty()) scalar["enum"] = rule.choices;
      if (rule.not_empty) scalar["minLength"] = 1;
      return scalar;
    }
  }

  io::Json properties_ = io::Json::object();
  std::vector<std::string> required_;
};

}  // namespace

std::string explain(const std::string& type, bool markdown) {
  std::string text;
  std::vector<std::string> names;
  const auto heading = [&](const std::string& title, const std::string& doc) {
    return markdown ? "\n## " + title + "\n\n" + doc + "\n\n" : title + ": " + doc + "\n";
  };
  if (type.empty()) text += heading("recipe", "What all stages share.") + render(rows_of(Recipe{}), markdown);
  for (const StageType& stage : stage_types()) {
    names.emplace_back(stage.type);
    if (!type.empty() && type != stage.type) continue;
    text +=
        heading(std::string("stage type ") + stage.type, stage.doc) +
        std::visit([&](const auto& options) { return render(rows_of(options), markdown); }, stage.defaults);
  }
  if (text.empty())
    throw ConfigError("there is no stage type '", type, "'", did_you_mean(type, names), "; there are ",
                      join(names, ", "));
  return text;
}

io::Json schema() {
  io::Json stages = io::Json::array();
  for (StageType& stage : stage_types()) {
    io::Json one = std::visit(
        [](auto& options) {
          SchemaWriter writer;
          visit_fields(writer, options);
          return writer.take({{"recipe", {{"type", "string"}}}, {"from", {{"type", "string"}}}});
        },
        stage.defaults);
    one["properties"]["recipe"] = {{"const", stage.type}};
    if (!one.contains("required")) one["required"] = io::Json::array();
    one["required"].push_back("recipe");
    one["description"] = stage.doc;
    stages.push_back(std::move(one));
  }
  Recipe recipe;
  SchemaWriter writer;
  visit_fields(writer, recipe);
  io::Json document =
      writer.take({{"schema", {{"const", 1}}},
                   {"stages", {{"type", "object"}, {"additionalProperties", {{"oneOf", stages}}}}}});
  document["required"].push_back("schema");
  document["required"].push_back("stages");
  io::Json result = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                     {"title", "bitrain recipe"}};
  result.update(document);
  return result;
}

}  // namespace bitrain::recipe
