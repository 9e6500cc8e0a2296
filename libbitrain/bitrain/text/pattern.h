#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitrain/io/json.h>

namespace bitrain::text {

/// A literal string or a regular expression to look for: the "pattern" of a tokenizer.json component. It
/// finds what Hugging Face's `tokenizers` finds, whose expressions are Oniguruma's.
class Pattern {
 public:
  using Range = std::pair<std::size_t, std::size_t>;

  /// From {"String": ..} or {"Regex": ..}. Throws FormatError for another shape, UnsupportedError for an
  /// expression that is not taken, naming the construct.
  Pattern(const io::Json& json, const std::string& where);
  /// A regular expression.
  Pattern(const std::string& expression, const std::string& where);
  /// A regular expression in the language of PCRE2, which matches no empty text.
  [[nodiscard]] static Pattern for_pcre2(const std::string& expression, const std::string& where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  /// The matches in a valid UTF-8 text, from left to right, appended to `matches`; they may be empty. Throws
  /// DataError when an expression needs too many steps.
  void find_all(std::string_view text, std::vector<Range>& matches) const;

 private:
  class Engine;
  class Pcre2;
  class Oniguruma;
  Pattern();
  void compile(const std::string& expression, const std::string& where);
  void find_literal(std::string_view text, std::vector<Range>& matches) const;

  std::string literal_;
  std::unique_ptr<const Engine> engine_;
};

}  // namespace bitrain::text
