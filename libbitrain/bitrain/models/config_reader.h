#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/io/json.h>

namespace bitrain::models {

/// Typed access to the keys of one config.json object; null counts as absent, as in transformers. A value of
/// another type is a FormatError that names `place` and the key.
class ConfigReader {
 public:
  ConfigReader(const io::Json& json, std::string place) : json_(json), place_(std::move(place)) {
    if (!json_.is_object()) throw FormatError(place_, ": a JSON object was expected");
  }

  [[nodiscard]] const io::Json* find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  void read(const char* key, std::int64_t& value) const {
    if (const io::Json* json = find(key)) value = integer(key, *json);
  }
  void read(const char* key, double& value) const {
    if (const io::Json* json = find(key)) {
      if (!json->is_number()) wrong(key, "a number");
      value = json->get<double>();
      if (!std::isfinite(value)) wrong(key, "a finite number");
    }
  }
  void read(const char* key, bool& value) const {
    if (const io::Json* json = find(key)) {
      if (!json->is_boolean()) wrong(key, "true or false");
      value = json->get<bool>();
    }
  }
  void read(const char* key, std::string& value) const {
    if (const io::Json* json = find(key)) {
      if (!json->is_string()) wrong(key, "a string");
      value = json->get<std::string>();
    }
  }
  template <class T>
  void read(const char* key, std::optional<T>& value) const {
    value.reset();
    if (find(key)) read(key, value.emplace());
  }
  /// One number or a list of them.
  void read(const char* key, std::vector<std::int64_t>& values) const {
    values.clear();
    const io::Json* json = find(key);
    if (!json) return;
    if (!json->is_array()) {
      values.push_back(integer(key, *json));
      return;
    }
    for (const io::Json& element : *json) values.push_back(integer(key, element));
  }
  template <class T>
  void require(const char* key, T& value) const {
    if (!find(key)) throw FormatError(place_, ": the key '", key, "' is missing");
    read(key, value);
  }

 private:
  [[noreturn]] void wrong(const char* key, const char* expected) const {
    throw FormatError(place_, ": ", key, ": ", expected, " was expected, not ", json_[key].dump());
  }
  [[nodiscard]] std::int64_t integer(const char* key, const io::Json& json) const {
    const bool fits =
        json.is_number_integer() &&
        !(json.is_number_unsigned() &&
          json.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
    if (!fits) wrong(key, "an integer");
    return json.get<std::int64_t>();
  }

  const io::Json& json_;
  std::string place_;
};

/// `read`, a config.json as it was opened, with what has changed since: of `now`, which is written for the
/// model, the keys whose values are not those of `before`, which would be written for the file as it was
/// read. So keys that bitrain does not know, and spellings of older versions, stay as they were. `now` alone
/// where `read` is null: the model was made here.
[[nodiscard]] inline io::Json carry_over(io::Json read, const io::Json& before, const io::Json& now) {
  if (read.is_null()) return now;
  for (const auto& [key, value] : now.items()) {
    const auto old = before.find(key);
    if (old == before.end() || *old != value) read[key] = value;
  }
  return read;
}

/// A JSON file of a model's folder as it was read.
struct ReadJson {
  io::Json content;  ///< Null: there was none.
  io::Json known;    ///< What would have been written in its place then.

  /// What to write where `now` would be written for a model made here.
  [[nodiscard]] io::Json with(const io::Json& now) const { return carry_over(content, known, now); }
};

}  // namespace bitrain::models
