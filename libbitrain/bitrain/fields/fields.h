#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <bitrain/fields/rule.h>

/// The fields of option structs, known at run time.
///
/// An option struct is a plain aggregate with defaults and one free function beside it that lists each field
/// once:
///
///   struct LoraOptions { std::int64_t r = 8; double lora_alpha = 16.0; };
///   template <class Visitor> void visit_fields(Visitor& v, LoraOptions& o) {
///     v.field("r", o.r, at_least(1), "Rank of the update matrices.");
///     v.field("lora_alpha", o.lora_alpha, above(0), "Numerator of the scale lora_alpha / r.");
///   }
///
/// A field is a bool, std::int64_t, double, std::string, another option struct, or a std::vector,
/// std::optional or std::map<std::string, .> of those. Documentation starts with a capital and ends with a
/// full stop.
///
/// `fields_of` makes a list of it. Reading YAML, writing JSON, the schema, `config explain`, checks and
/// Python's keywords are plain functions over such lists.
namespace bitrain::fields {

struct Field;
struct Fresh;
using FieldList = std::vector<Field>;

enum class Kind { kBool, kInteger, kNumber, kText, kStruct, kList, kOptional, kMap };

/// A reference to an option whose type is known at run time. It is valid as long as what it refers to: adding
/// to a list ends the references to its elements.
class Value {
 public:
  /// What can be done with a value of one type.
  struct Operations;

  template <class T>
  [[nodiscard]] static Value of(T& value);

  [[nodiscard]] Kind kind() const;

  /// A scalar. Throws StateError for a value of another kind.
  [[nodiscard]] bool& boolean() const;
  [[nodiscard]] std::int64_t& integer() const;
  [[nodiscard]] double& number() const;
  [[nodiscard]] std::string& text() const;

  /// Of a struct. `short_form` is the text that may stand for all of it, if it has one.
  [[nodiscard]] FieldList fields() const;
  [[nodiscard]] std::optional<Value> short_form() const;

  /// Of a list, an optional (which has no element or one) and a map (whose elements are in the order of
  /// keys).
  [[nodiscard]] std::vector<Value> elements() const;
  [[nodiscard]] std::vector<std::string> keys() const;  ///< Of a map.
  void clear() const;
  /// Adds an element at its defaults; `key` is for maps. What an optional held is replaced.
  Value add(const std::string& key = "") const;  // NOLINT(modernize-use-nodiscard)
  /// An element at its defaults that belongs to nothing.
  [[nodiscard]] Fresh fresh_element() const;

 private:
  Value(void* object, const Operations& type) : object_(object), type_(&type) {}
  void* expect(Kind kind) const;

  void* object_;
  const Operations* type_;
};

/// One field of a struct.
struct Field {
  const char* name;
  Value value;
  Rule rule;
  const char* doc;
};

/// A value and what holds it.
struct Fresh {
  std::shared_ptr<void> holder;
  Value value;
};

// ---- How types are seen

namespace detail {

struct Probe {
  template <class T>
  void field(const char*, T&, const Rule&, const char*) {}
};
template <class T, class = void>
inline constexpr bool kHasFields = false;
template <class T>
inline constexpr bool
    kHasFields<T, std::void_t<decltype(visit_fields(std::declval<Probe&>(), std::declval<T&>()))>> = true;

template <class T, class = void>
inline constexpr bool kHasShortForm = false;
template <class T>
inline constexpr bool kHasShortForm<T, std::void_t<decltype(short_form(std::declval<T&>()))>> = true;

template <class T>
struct Container {
  static constexpr bool is_list = false, is_optional = false, is_map = false;
};
template <class T>
struct Container<std::vector<T>> {
  static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no elements to refer to");
  using Element = T;
  static constexpr bool is_list = true, is_optional = false, is_map = false;
};
template <class T>
struct Container<std::optional<T>> {
  using Element = T;
  static constexpr bool is_list = false, is_optional = true, is_map = false;
};
template <class T>
struct Container<std::map<std::string, T>> {
  using Element = T;
  static constexpr bool is_list = false, is_optional = false, is_map = true;
};

template <class T>
constexpr Kind kind_of() {
  if constexpr (std::is_same_v<T, bool>)
    return Kind::kBool;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return Kind::kInteger;
  else if constexpr (std::is_same_v<T, double>)
    return Kind::kNumber;
  else if constexpr (std::is_same_v<T, std::string>)
    return Kind::kText;
  else if constexpr (Container<T>::is_list)
    return Kind::kList;
  else if constexpr (Container<T>::is_optional)
    return Kind::kOptional;
  else if constexpr (Container<T>::is_map)
    return Kind::kMap;
  else {
    static_assert(kHasFields<T>,
                  "an option is a scalar, a struct with visit_fields, or a list, optional or map of them");
    return Kind::kStruct;
  }
}

}  // namespace detail

/// True for option structs: types with a `visit_fields` found by argument-dependent lookup. An option struct
/// that a recipe may also write as one text has a `std::string& short_form(T&)` beside it.
template <class T>
inline constexpr bool has_fields_v = detail::kHasFields<T>;

struct Value::Operations {
  Kind kind;
  FieldList (*fields)(void*) = nullptr;
  Value (*short_form)(void*) = nullptr;
  std::vector<Value> (*elements)(void*) = nullptr;
  std::vector<std::string> (*keys)(void*) = nullptr;
  void (*clear)(void*) = nullptr;
  Value (*add)(void*, const std::string&) = nullptr;
  Fresh (*fresh_element)() = nullptr;
};

namespace detail {

struct Lister {
  FieldList list;
  template <class T>
  void field(const char* name, T& value, Rule rule, const char* doc) {
    list.push_back({name, Value::of(value), std::move(rule), doc});
  }
};

template <class T>
FieldList list_fields(void* object) {
  Lister lister;
  visit_fields(lister, *static_cast<T*>(object));
  return std::move(lister.list);
}

template <class T>
std::vector<Value> elements_of(void* object) {
  T& container = *static_cast<T*>(object);
  std::vector<Value> elements;
  if constexpr (Container<T>::is_optional) {
    if (container) elements.push_back(Value::of(*container));
  } else if constexpr (Container<T>::is_map) {
    for (auto& [key, element] : container) elements.push_back(Value::of(element));
  } else {
    for (auto& element : container) elements.push_back(Value::of(element));
  }
  return elements;
}

template <class T>
std::vector<std::string> keys_of(void* object) {
  std::vector<std::string> keys;
  for (const auto& [key, element] : *static_cast<T*>(object)) keys.push_back(key);
  return keys;
}

template <class T>
Value add_to(void* object, const std::string& key) {
  T& container = *static_cast<T*>(object);
  if constexpr (Container<T>::is_map)
    return Value::of(container.insert_or_assign(key, typename Container<T>::Element{}).first->second);
  else if constexpr (Container<T>::is_optional)
    return Value::of(container.emplace());
  else
    return Value::of(container.emplace_back());
}

template <class Element>
Fresh make_fresh() {
  const auto element = std::make_shared<Element>();
  return {element, Value::of(*element)};
}

template <class T>
Value::Operations describe_type() {
  Value::Operations type{kind_of<T>()};
  if constexpr (kind_of<T>() == Kind::kStruct) {
    type.fields = &list_fields<T>;
    if constexpr (kHasShortForm<T>)
      type.short_form = [](void* object) { return Value::of(short_form(*static_cast<T*>(object))); };
  } else if constexpr (Container<T>::is_list || Container<T>::is_optional || Container<T>::is_map) {
    type.elements = &elements_of<T>;
    type.add = &add_to<T>;
    type.fresh_element = &make_fresh<typename Container<T>::Element>;
    if constexpr (Container<T>::is_map) type.keys = &keys_of<T>;
    type.clear = [](void* object) {
      if constexpr (Container<T>::is_optional)
        static_cast<T*>(object)->reset();
      else
        static_cast<T*>(object)->clear();
    };
  }
  return type;
}

template <class T>
const Value::Operations& type_of() {
  static const Value::Operations type = describe_type<T>();
  return type;
}

}  // namespace detail

template <class T>
Value Value::of(T& value) {
  return {&value, detail::type_of<T>()};
}

/// The fields of a struct, in order. Their values refer to `options`.
template <class T>
[[nodiscard]] FieldList fields_of(T& options) {
  return detail::list_fields<T>(&options);
}

/// The names of a struct's fields, in order.
template <class T>
[[nodiscard]] std::vector<std::string> field_names() {
  T options{};
  std::vector<std::string> names;
  for (const Field& field : fields_of(options)) names.emplace_back(field.name);
  return names;
}

}  // namespace bitrain::fields
