#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bitrain::text {

/// Gives the next line, false at the end.
using NextLine = std::function<bool(std::string& line)>;

/// The lines of `lines`, from the first; the vector must outlive the callback.
[[nodiscard]] NextLine lines_of(const std::vector<std::string>& lines);

/// What SentencePiece's trainer takes.
struct TrainingTextRules {
  std::int64_t max_bytes = 65536;  ///< Of a line: it passes longer ones over.
  std::int64_t max_word =
      32000;  ///< Characters of a word and the space before it: it counts places in 16 bits, with a sign.
  bool spaces_begin_words =
      true;                     ///< It puts a space before each line: a cut at a space takes that space away.
  bool blanks_are_text = true;  ///< Lines of spaces and control characters alone teach something.
};

/// Lines as SentencePiece's trainer takes them whole. It would pass over a line that is too long or holds
/// U+2585 (its mark for rare characters) or NUL without a word. Here long lines are cut at their last space
/// that fits, or between two characters where there is none, and lines are cut around those two characters.
class TrainingText {
 public:
  TrainingText(const NextLine& lines, const TrainingTextRules& rules) : lines_(lines), rules_(rules) {}

  /// The next part, never empty; false at the end. Throws DataError, with its number, for a line that is not
  /// UTF-8.
  [[nodiscard]] bool next(std::string& part);

  [[nodiscard]] std::int64_t lines() const { return number_; }  ///< Read so far, empty ones too.
  /// What was done to how many lines, one sentence; "" when they were taken as they are.
  [[nodiscard]] std::string changes() const;

 private:
  void cut_line();
  void cut_length(std::string_view text, bool& long_line, bool& long_word);

  const NextLine& lines_;
  TrainingTextRules rules_;
  std::string line_;
  std::vector<std::string_view> parts_;  ///< Of line_, last first.
  std::int64_t number_ = 0;
  std::int64_t long_lines_ = 0;
  std::int64_t long_words_ = 0;
  std::int64_t reserved_ = 0;
};

}  // namespace bitrain::text
