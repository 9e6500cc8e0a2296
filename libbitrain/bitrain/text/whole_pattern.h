#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace bitrain::text {

/// A regular expression for a whole text, as Python's `re.fullmatch` has it: the names of modules in recipes
/// and in PEFT's adapter_config.json. The language is PCRE2's, which has Python's and more. It is meant for
/// names, and ends a match that takes more steps than one of names can.
class WholePattern {
 public:
  /// Throws ConfigError for what is no expression, and for one of more than 4096 bytes.
  explicit WholePattern(const std::string& expression);
  ~WholePattern();
  WholePattern(WholePattern&&) noexcept;
  WholePattern& operator=(WholePattern&&) noexcept;

  /// Throws ConfigError when the expression takes too many steps on `text`, which should be UTF-8.
  [[nodiscard]] bool matches(std::string_view text) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitrain::text
