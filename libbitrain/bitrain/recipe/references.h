#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <bitrain/base/fields.h>
#include <bitrain/recipe/decode.h>

namespace bitrain::recipe {

/// What an option names: a file, a folder or another stage (Rule::refers).
struct Reference {
  std::string key;  ///< "files[0].path", below the options it was found in.
  Refers kind = Refers::kNothing;
  std::string name;  ///< Never empty.
};

namespace detail {
class ReferenceFinder {
 public:
  explicit ReferenceFinder(std::vector<Reference>& found, std::string prefix = "")
      : found_(found), prefix_(std::move(prefix)) {}

  template <class T>
  void field(const char* name, T& value, const Rule& rule, const char* /*doc*/) {
    look(prefix_ + name, value, rule);
  }

 private:
  template <class T>
  void look(const std::string& key, T& value, const Rule& rule) {
    if constexpr (has_fields_v<T>) {
      ReferenceFinder nested(found_, key + ".");
      visit_fields(nested, value);
    } else if constexpr (kKind<T> == 1) {
      using Item = typename T::value_type;
      if constexpr (has_fields_v<Item> || std::is_same_v<Item, std::string>)
        for (std::size_t i = 0; i < value.size(); ++i)
          look(std::string(key).append("[").append(std::to_string(i)).append("]"), value[i], rule);
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (rule.refers != Refers::kNothing && !value.empty()) found_.push_back({key, rule.refers, value});
    }
  }

  std::vector<Reference>& found_;
  std::string prefix_;
};
}  // namespace detail

/// Everything that options name, in the order of their fields.
template <class T>
[[nodiscard]] std::vector<Reference> references_of(const T& options) {
  std::vector<Reference> found;
  T copy = options;
  detail::ReferenceFinder finder(found);
  visit_fields(finder, copy);
  return found;
}

}  // namespace bitrain::recipe
