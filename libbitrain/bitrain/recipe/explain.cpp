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

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kBool: return "true or false";
    case Kind::kInteger: return "whole number";
    case Kind::kNumber: return "number";
    case Kind::kText: return "text";
    case Kind::kStruct: return value.short_form() ? "text or map" : "map";
    case Kind::kList: return "list of " + type_name(value.fresh_element().value);
    case Kind::kOptional: return type_name(value.fresh_element().value) + " or null";
    case Kind::kMap: return "map of " + type_name(value.fresh_element().value);
  }
  return "";
}

std::string rule_text(const Rule& rule) {
  std::vector<std::string> parts;
  if (rule.required) parts.emplace_back("required");
  if (rule.minimum)
    parts.push_back((rule.exclusive_minimum ? "above " : "at least ") + number_text(*rule.minimum));
  if (rule.maximum)
    parts.push_back((rule.exclusive_maximum ? "below " : "at most ") + number_text(*rule.maximum));
  if (!rule.choices.empty()) {
    std::vector<std::string> shown;
    for (const std::string& choice : rule.choices)
      if (!choice.empty()) shown.push_back(choice);
    parts.push_back("one of " + join(shown, ", "));
  }
  return join(parts, "; ");
}

struct Row {
  std::string key, type, value, rule, doc;
};

/// Every key of a struct, nested ones with dots.
void add_rows(const FieldList& fields, const std::string& prefix, std::vector<Row>& rows) {
  for (const Field& field : fields) {
    const std::string key = prefix + field.name;
    const Kind kind = field.value.kind();
    if (kind == Kind::kStruct) {
      rows.push_back({key, "map", "", field.rule.required ? "required" : "", field.doc});
      add_rows(field.value.fields(), key + ".", rows);
      continue;
    }
    rows.push_back(
        {key, type_name(field.value), json_of(field.value).dump(), rule_text(field.rule), field.doc});
    if (kind != Kind::kList && kind != Kind::kMap) continue;
    const Fresh element = field.value.fresh_element();
    if (element.value.kind() == Kind::kStruct)
      add_rows(element.value.fields(), key + (kind == Kind::kList ? "[]." : ".*."), rows);
  }
}

std::string render(const std::vector<Row>& rows, bool markdown) {
  std::string text;
  if (markdown) {
    const auto cell = [](std::string value) {
      for (std::size_t at = 0; (at = value.find('|', at)) != std::string::npos; at += 2)
        value.insert(at, "\\");
      return value;
    };
    text = "| key | type | default | rule | meaning |\n| --- | --- | --- | --- | --- |\n";
    for (const Row& row : rows)
      text += "| `" + cell(row.key) + "` | " + row.type + " | " +
              (row.value.empty() ? "" : "`" + cell(row.value) + "`") + " | " + cell(row.rule) + " | " +
              cell(row.doc) + " |\n";
    return text;
  }
  for (const Row& row : rows) {
    text += "  " + row.key + " (" + row.type;
    if (!row.value.empty()) text += ", default " + row.value;
    if (!row.rule.empty()) text += ", " + row.rule;
    text += ")\n      " + row.doc + "\n";
  }
  return text;
}

std::vector<Row> rows_of(const FieldList& fields) {
  std::vector<Row> rows;
  add_rows(fields, "", rows);
  return rows;
}

io::Json schema_of(const Value& value, const Rule& rule);

/// The JSON schema of a map with these keys, and `extra` ones.
io::Json schema_of(const FieldList& fields, const io::Json& extra = io::Json::object()) {
  io::Json properties = io::Json::object();
  std::vector<std::string> required;
  for (const Field& field : fields) {
    io::Json entry = schema_of(field.value, field.rule);
    entry["description"] = field.doc;
    if (field.value.kind() != Kind::kStruct) entry["default"] = json_of(field.value);
    properties[field.name] = std::move(entry);
    if (field.rule.required) required.emplace_back(field.name);
  }
  properties.update(extra);
  io::Json object = {{"type", "object"}, {"additionalProperties", false}, {"properties", properties}};
  if (!required.empty()) object["required"] = required;
  return object;
}

io::Json schema_of_scalar(Kind kind, const Rule& rule) {
  io::Json scalar = io::Json::object();
  if (kind == Kind::kText)  // 0.9 is text, where all texts are allowed.
    scalar["type"] = rule.choices.empty() ? io::Json{"string", "number"} : io::Json("string");
  else
    scalar["type"] = kind == Kind::kBool ? "boolean" : kind == Kind::kInteger ? "integer" : "number";
  if (rule.minimum) scalar[rule.exclusive_minimum ? "exclusiveMinimum" : "minimum"] = *rule.minimum;
  if (rule.maximum) scalar[rule.exclusive_maximum ? "exclusiveMaximum" : "maximum"] = *rule.maximum;
  if (!rule.choices.empty()) scalar["enum"] = rule.choices;
  if (rule.not_empty) scalar["minLength"] = 1;
  return scalar;
}

io::Json schema_of(const Value& value, const Rule& rule) {
  switch (value.kind()) {
    case Kind::kStruct: {
      io::Json map = schema_of(value.fields());
      if (!value.short_form()) return map;
      return {{"anyOf", {{{"type", "string"}, {"minLength", 1}}, map}}};
    }
    case Kind::kList: return {{"type", "array"}, {"items", schema_of(value.fresh_element().value, rule)}};
    case Kind::kOptional:
      return {{"anyOf", {schema_of(value.fresh_element().value, rule), {{"type", "null"}}}}};
    case Kind::kMap:
      return {{"type", "object"}, {"additionalProperties", schema_of(value.fresh_element().value, rule)}};
    case Kind::kBool:
    case Kind::kInteger:
    case Kind::kNumber:
    case Kind::kText: return schema_of_scalar(value.kind(), rule);
  }
  return {};
}

}  // namespace

std::string explain(const std::string& type, bool markdown) {
  std::string text;
  std::vector<std::string> names;
  const auto heading = [&](const std::string& title, const std::string& doc) {
    return markdown ? "\n## " + title + "\n\n" + doc + "\n\n" : title + ": " + doc + "\n";
  };
  Recipe recipe;
  if (type.empty())
    text += heading("recipe", "What all stages share.") + render(rows_of(fields_of(recipe)), markdown);
  for (StageType& stage : stage_types()) {
    names.emplace_back(stage.type);
    if (!type.empty() && type != stage.type) continue;
    text += heading(std::string("stage type ") + stage.type, stage.doc) +
            render(rows_of(fields_of_stage(stage.defaults)), markdown);
  }
  if (text.empty())
    throw ConfigError("there is no stage type '", type, "'", did_you_mean(type, names), "; there are ",
                      join(names, ", "));
  return text;
}

io::Json schema() {
  io::Json stages = io::Json::array();
  for (StageType& stage : stage_types()) {
    io::Json one = schema_of(fields_of_stage(stage.defaults),
                             {{"recipe", {{"type", "string"}}}, {"from", {{"type", "string"}}}});
    one["properties"]["recipe"] = {{"const", stage.type}};
    if (!one.contains("required")) one["required"] = io::Json::array();
    one["required"].push_back("recipe");
    one["description"] = stage.doc;
    stages.push_back(std::move(one));
  }
  Recipe recipe;
  io::Json document = schema_of(
      fields_of(recipe), {{"schema", {{"const", 1}}},
                          {"stages", {{"type", "object"}, {"additionalProperties", {{"oneOf", stages}}}}}});
  document["required"].push_back("schema");
  document["required"].push_back("stages");
  io::Json result = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                     {"title", "bitrain recipe"}};
  result.update(document);
  return result;
}

}  // namespace bitrain::recipe
