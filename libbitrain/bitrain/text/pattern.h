#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitrain/io/json.h>

namespace bitrain::text {

/// A literal string or a regular expression to look for: the "pattern" of a tokenizer.json component.
class Pattern {
 public:
  using Range = std::pair<std::size_t, std::size_t>;

  /// From {"String": ..} or {"Regex": ..}. Throws FormatError for another shape, UnsupportedError for an
  /// expression that PCRE2 does not take.
  Pattern(const io::Json& json, const std::string& where);
  /// A regular expression.
  Pattern(const std::string& expression, const std::string& where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  /// The non-empty matches in a valid UTF-8 text, from left to right, appended to `matches`. Throws DataError
  /// when an expression needs too many steps.
  void find_all(std::string_view text, std::vector<Range>& matches) const;

 private:
  struct Regex;
  void compile(const std::string& expression, const std::string& where);

  std::string literal_;
  std::unique_ptr<Regex> regex_;
};

}  // namespace bitrain::text
