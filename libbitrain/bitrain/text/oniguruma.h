#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bitrain::text {

/// A regular expression in the language of Oniguruma, the engine of Hugging Face's `tokenizers`.
class OnigurumaExpression {
 public:
  using Range = std::pair<std::size_t, std::size_t>;

  /// `where` is for messages. Throws UnsupportedError naming a construct that versions of Oniguruma read in
  /// several ways, and for an expression that it does not take.
  OnigurumaExpression(const std::string& expression, const std::string& where);
  ~OnigurumaExpression();
  OnigurumaExpression(OnigurumaExpression&&) noexcept;
  OnigurumaExpression& operator=(OnigurumaExpression&&) noexcept;

  /// The matches in a valid UTF-8 text as `tokenizers` goes through them, from left to right, appended to
  /// `matches`; they may be empty. Throws DataError when they take too many steps, or too long.
  void find_all(std::string_view text, std::vector<Range>& matches) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The expression with what older versions of Oniguruma than that of `tokenizers` read otherwise put in other
/// words. Throws UnsupportedError for what has none.
[[nodiscard]] std::string in_words_of_all_versions(std::string_view expression, const std::string& where);

}  // namespace bitrain::text
