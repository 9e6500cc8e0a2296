#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <bitrain/base/fields.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/document.h>

/// From YAML nodes to option structs and from these to JSON, all by visit_fields.
namespace bitrain::recipe {

/// Scalars. Each adds a problem and leaves `to` alone when the node is something else.
void decode_scalar(const Node& node, const std::string& key, const Rule& rule, bool& to, Problems& problems);
void decode_scalar(const Node& node, const std::string& key, const Rule& rule, std::int64_t& to,
                   Problems& problems);
void decode_scalar(const Node& node, const std::string& key, const Rule& rule, double& to,
                   Problems& problems);
void decode_scalar(const Node& node, const std::string& key, const Rule& rule, std::string& to,
                   Problems& problems);

template <class T>
void decode(const Node& node, const std::string& key, const Rule& rule, T& to, Problems& problems);

/// The visitor that fills a struct from a map.
class Decoder {
 public:
  Decoder(const Node& node, std::string path, Problems& problems)
      : node_(node), path_(std::move(path)), problems_(problems) {}

  template <class T>
  void field(const char* name, T& value, const Rule& rule, const char* /*doc*/) {
    names_.emplace_back(name);
    const Node* child = node_.find(name);
    if (child != nullptr)
      decode(*child, key_of(name), rule, value, problems_);
    else if (rule.required)
      problems_.add(node_.mark, key_of(name), "is missing");
  }

  /// Adds a problem for each key that no field has; `others` are known besides.
  void finish(const std::vector<std::string>& others = {}) const {
    std::vector<std::string> known = names_;
    known.insert(known.end(), others.begin(), others.end());
    for (const auto& [name, value] : node_.members) {
      bool found = false;
      for (const std::string& candidate : known) found = found || candidate == name;
      // A file that is something else has thousands: guesses for them would take long, and are not shown.
      const bool guess = problems_.list().size() < Problems::kMostShown;
      if (!found)
        problems_.add(value.mark, key_of(name),
                      "there is no such key" + (guess ? did_you_mean(name, known) : ""));
    }
  }

 private:
  [[nodiscard]] std::string key_of(const std::string& name) const {
    return path_.empty() ? name : path_ + "." + name;
  }

  const Node& node_;
  std::string path_;
  Problems& problems_;
  std::vector<std::string> names_;
};

namespace detail {
template <class T>
struct Element {};
template <class T>
struct Element<std::vector<T>> {
  using type = T;
  static constexpr int kind = 1;
};
template <class T>
struct Element<std::optional<T>> {
  using type = T;
  static constexpr int kind = 2;
};
template <class T>
struct Element<std::map<std::string, T>> {
  using type = T;
  static constexpr int kind = 3;
};
template <class T, class = void>
inline constexpr int kKind = 0;
template <class T>
inline constexpr int kKind<T, std::void_t<typename Element<T>::type>> = Element<T>::kind;
}  // namespace detail

/// Option structs that a recipe may also write as one text, which is the field that `short_form` gives.
template <class T, class = void>
inline constexpr bool kHasShortForm = false;
template <class T>
inline constexpr bool kHasShortForm<T, std::void_t<decltype(short_form(std::declval<T&>()))>> = true;

template <class T>
void decode(const Node& node, const std::string& key, const Rule& rule, T& to, Problems& problems) {
  if constexpr (has_fields_v<T>) {
    if constexpr (kHasShortForm<T>)
      if (node.kind == Node::Kind::kScalar)
        return decode_scalar(node, key, names_file(not_empty()), short_form(to), problems);
    if (node.kind == Node::Kind::kNull) return;  // "lora:" with nothing behind it: all defaults.
    if (node.kind != Node::Kind::kMap)
      return problems.add(node.mark, key, "should be a map, not " + node.describe());
    Decoder decoder(node, key, problems);
    visit_fields(decoder, to);
    decoder.finish();
  } else if constexpr (detail::kKind<T> == 1) {
    // A single value stands for a list of one.
    T values;
    const std::vector<Node> one{node};
    const std::vector<Node>& items = node.kind == Node::Kind::kList ? node.items : one;
    if (node.kind == Node::Kind::kNull || node.kind == Node::Kind::kMap)
      return problems.add(node.mark, key, "should be a list, not " + node.describe());
    for (std::size_t i = 0; i < items.size(); ++i) {
      typename T::value_type value{};
      decode(items[i], key + "[" + std::to_string(i) + "]", rule, value, problems);
      values.push_back(std::move(value));
    }
    if (values.empty() && rule.not_empty) problems.add(node.mark, key, "must not be empty");
    to = std::move(values);
  } else if constexpr (detail::kKind<T> == 2) {
    if (node.kind == Node::Kind::kNull) {
      to.reset();
      return;
    }
    typename T::value_type value{};
    decode(node, key, rule, value, problems);
    to = std::move(value);
  } else if constexpr (detail::kKind<T> == 3) {
    if (node.kind != Node::Kind::kMap)
      return problems.add(node.mark, key, "should be a map, not " + node.describe());
    T values;
    for (const auto& [name, item] : node.members)
      decode(item, std::string(key).append(".").append(name), rule, values[name], problems);
    to = std::move(values);
  } else {
    decode_scalar(node, key, rule, to, problems);
  }
}

/// Options as JSON, every field written: what a stage was made with.
class JsonWriter {
 public:
  template <class T>
  void field(const char* name, T& value, const Rule& /*rule*/, const char* /*doc*/) {
    json_[name] = write(value);
  }
  [[nodiscard]] io::Json take() { return std::move(json_); }

  template <class T>
  static io::Json write(T& value) {
    if constexpr (has_fields_v<T>) {
      JsonWriter writer;
      visit_fields(writer, value);
      return writer.take();
    } else if constexpr (detail::kKind<T> == 1) {
      io::Json list = io::Json::array();
      for (auto& item : value) {
        typename T::value_type copy = item;
        list.push_back(write(copy));
      }
      return list;
    } else if constexpr (detail::kKind<T> == 2) {
      return value ? write(*value) : io::Json(nullptr);
    } else if constexpr (detail::kKind<T> == 3) {
      io::Json map = io::Json::object();
      for (auto& [name, item] : value) map[name] = write(item);
      return map;
    } else {
      return value;
    }
  }

 private:
  io::Json json_ = io::Json::object();
};

template <class T>
[[nodiscard]] io::Json to_json(const T& options) {
  T copy = options;
  return JsonWriter::write(copy);
}

}  // namespace bitrain::recipe
