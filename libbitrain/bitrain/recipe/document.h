#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bitrain::recipe {

/// Where a value stands: "recipe.yaml:12:5", or "on the command line" for an override.
struct Mark {
  std::string file;
  int line = 0;  ///< From 1; 0: not from a file.
  int column = 0;

  [[nodiscard]] std::string text() const;
};

/// A YAML value with its place. Scalars keep their spelling: what they mean is up to the option they fill, so
/// `no` is Norwegian where a string is wanted and an error where a truth value is.
struct Node {
  enum class Kind { kNull, kScalar, kList, kMap };
  struct Member;
  Kind kind = Kind::kNull;
  Mark mark;
  std::string scalar;
  std::vector<Node> items;      ///< Of a list.
  std::vector<Member> members;  ///< Of a map, in order.

  [[nodiscard]] const Node* find(std::string_view key) const;
  [[nodiscard]] Node* find(std::string_view key);
  /// "a list", "a map", "nothing" or the scalar in quotes.
  [[nodiscard]] std::string describe() const;
};

struct Node::Member {
  std::string key;
  Node value;
};

/// One thing that is wrong with a recipe.
struct Problem {
  Mark mark;
  std::string key;  ///< "stages.adapt.train.max_steps".
  std::string what;

  /// "recipe.yaml:12:5: stages.adapt.train.max_steps: must be at least 1, not 0".
  [[nodiscard]] std::string text() const;
};

/// Everything that is wrong, so that a user mends it in one go.
class Problems {
 public:
  static constexpr std::size_t kMostShown = 50;

  void add(const Mark& mark, std::string key, std::string what) {
    list_.push_back({mark, std::move(key), std::move(what)});
  }
  [[nodiscard]] const std::vector<Problem>& list() const { return list_; }
  /// Whether something is said of `key` or of what it holds. Rules between values are not held against what
  /// could not be read.
  [[nodiscard]] bool mentions(const std::string& key) const;
  [[nodiscard]] bool empty() const { return list_.empty(); }
  /// The first kMostShown of them, one a line.
  [[nodiscard]] std::string text() const;
  /// Throws ConfigError with that text if there are any.
  void raise() const;

 private:
  std::vector<Problem> list_;
};

/// Parses one YAML document; `name` is the file for marks. Throws ConfigError with the place for bad YAML, a
/// key used twice, a key that is no scalar, an alias that makes the document grow beyond measure, or nesting
/// deeper than 64.
[[nodiscard]] Node parse_yaml(const std::string& text, const std::string& name);
/// The same from a file or pipe. Throws IoError.
[[nodiscard]] Node load_yaml(const std::filesystem::path& path);

/// Where `key` ("train.max_steps", "files[2].path") stands below `root`: the mark of the deepest part that is
/// written there.
[[nodiscard]] Mark mark_of(const Node& root, const std::string& key);

/// What stands there, or null.
[[nodiscard]] const Node* find(const Node& root, const std::string& key);

/// Sets `a.b.c=value`; the value is YAML, so `target.column=3` and `mixture.weights={source: 1}` work. A map
/// that is missing on the way is made. Throws ConfigError when there is no '=' or a scalar stands in the way.
void apply_override(Node& root, const std::string& assignment);

}  // namespace bitrain::recipe
