#pragma once

#include <string>
#include <vector>

#include <bitrain/fields/fields.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/document.h>

/// From YAML nodes to options and from these to JSON.
namespace bitrain::recipe {

/// Reads `node` into `to`, which keeps what nobody wrote. Adds a problem, with the key and the place, for
/// each value that is something else than the option or breaks its rule, and for each key that no field has.
void decode(const Node& node, const std::string& key, const Rule& rule, const Value& to, Problems& problems);

/// The same for the keys of a map; `others` are known besides the fields.
void decode_fields(const Node& node, const std::string& key, const FieldList& fields, Problems& problems,
                   const std::vector<std::string>& others = {});

template <class T>
void decode_to(const Node& node, const std::string& key, const Rule& rule, T& to, Problems& problems) {
  decode(node, key, rule, Value::of(to), problems);
}

/// Options as JSON, every field written: what a stage was made with.
[[nodiscard]] io::Json json_of(const Value& value);
[[nodiscard]] io::Json json_of(const FieldList& fields);

template <class T>
[[nodiscard]] io::Json to_json(T options) {
  return json_of(Value::of(options));
}

}  // namespace bitrain::recipe
