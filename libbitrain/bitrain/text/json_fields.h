#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

#include <bitrain/base/error.h>
#include <bitrain/io/json.h>

namespace bitrain::text {

/// Whether `value` holds a T: bool, an integer type, double, std::string, or io::Json for anything.
template <class T>
[[nodiscard]] bool holds(const io::Json& value) {
  if constexpr (std::is_same_v<T, io::Json>)
    return true;
  else if constexpr (std::is_same_v<T, bool>)
    return value.is_boolean();
  else if constexpr (std::is_integral_v<T>)
    return value.is_number_integer();
  else if constexpr (std::is_floating_point_v<T>)
    return value.is_number();
  else
    return value.is_string();
}

/// The member `key` of `object`, nothing where it is absent or null. Throws FormatError, naming `where`, when
/// `object` is none or the member has another type.
template <class T>
[[nodiscard]] std::optional<T> optional_field(const io::Json& object, const char* key,
                                              const std::string& where) {
  if (!object.is_object()) throw FormatError(where, ": not an object");
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  if (!holds<T>(*found)) throw FormatError(where, ": '", key, "' has the wrong type");
  return found->template get<T>();
}

/// The same for a member that must be there.
template <class T>
[[nodiscard]] T field(const io::Json& object, const char* key, const std::string& where) {
  std::optional<T> value = optional_field<T>(object, key, where);
  if (!value) throw FormatError(where, ": '", key, "' is missing");
  return *std::move(value);
}

/// The member `key` without a copy, or null where there is none.
[[nodiscard]] inline const io::Json& member(const io::Json& object, const char* key,
                                            const std::string& where) {
  static const io::Json kNull;
  if (!object.is_object()) throw FormatError(where, ": not an object");
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

}  // namespace bitrain::text
