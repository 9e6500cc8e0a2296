#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain {

/// A named set of factories held as a value: a user copies the built-in one and adds to the copy. No globals.
template <class Signature>
class Registry {
 public:
  /// `what` names the things in errors: "embedding initialiser", "learning-rate schedule".
  explicit Registry(std::string what) : what_(std::move(what)) {}

  /// Throws ConfigError when the name is taken: silent replacement hides mistakes.
  void add(const std::string& name, std::function<Signature> factory) {
    if (!factories_.emplace(name, std::move(factory)).second) {
      throw ConfigError("the ", what_, " '", name, "' is registered already");
    }
  }

  /// Throws ConfigError that lists what there is and names the nearest.
  [[nodiscard]] const std::function<Signature>& get(const std::string& name) const {
    auto found = factories_.find(name);
    if (found == factories_.end()) {
      throw ConfigError("unknown ", what_, " '", name, "'", did_you_mean(name, names()),
                        "; there are: ", join(names(), ", "));
    }
    return found->second;
  }

  [[nodiscard]] bool contains(const std::string& name) const { return factories_.count(name) != 0; }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : factories_) result.push_back(entry.first);
    return result;
  }

 private:
  std::string what_;
  std::map<std::string, std::function<Signature>> factories_;
};

}  // namespace bitrain
