#include <bitrain/text/training_text.h>

#include <algorithm>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

constexpr std::string_view kReservedMark = "\xE2\x96\x85";  ///< U+2585.

/// The first reserved character from `at` on: its place and length, or the end of the text and 0.
std::pair<std::size_t, std::size_t> reserved_from(std::string_view text, std::size_t at) {
  constexpr std::string_view kFirstBytes("\0\xE2", 2);
  for (at = text.find_first_of(kFirstBytes, at); at != std::string_view::npos;
       at = text.find_first_of(kFirstBytes, at + 1)) {
    if (text[at] == '\0') return {at, 1};
    if (text.substr(at, kReservedMark.size()) == kReservedMark) return {at, kReservedMark.size()};
  }
  return {text.size(), 0};
}

bool is_blank(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    const CharacterClass kind = class_of(c.code);
    if (kind != CharacterClass::kSpace && kind != CharacterClass::kOther) return false;
    at += c.length;
  }
  return true;
}

/// Finds where a text must be cut.
class Cutter {
 public:
  Cutter(std::string_view text, const TrainingTextRules& rules) : text_(text), rules_(rules) {}

  /// End of the part that begins at `begin`.
  std::size_t end_of(std::size_t begin, bool& long_word) const {
    const auto most = static_cast<std::size_t>(rules_.max_bytes);
    std::size_t space = begin;  // The last one after the begin.
    std::int64_t word = 0;      // Characters of the word so far, with the spaces before it.
    bool in_spaces = true;
    for (std::size_t at = begin; at < text_.size();) {
      const bool is_space = text_[at] == ' ';
      if (is_space && !in_spaces) word = 0;
      in_spaces = is_space;
      if (is_space) space = at;
      const std::size_t length = utf8_at(text_, at).length;
      if (at + length - begin > most) return space > begin ? space : at;
      if (++word > rules_.max_word) {
        long_word = true;
        return at;
      }
      at += length;
    }
    return text_.size();
  }

 private:
  std::string_view text_;
  const TrainingTextRules& rules_;
};

}  // namespace

NextLine lines_of(const std::vector<std::string>& lines) {
  return [&lines, next = std::size_t{0}](std::string& line) mutable {
    if (next == lines.size()) return false;
    line = lines[next++];
    return true;
  };
}

bool TrainingText::next(std::string& part) {
  while (parts_.empty()) {
    if (!lines_(line_)) return false;
    ++number_;
    if (const std::size_t at = find_invalid_utf8(line_); at != std::string_view::npos)
      throw DataError("line ", number_, ": byte ", at + 1, " is not UTF-8");
    cut_line();
  }
  part.assign(parts_.back());
  parts_.pop_back();
  return true;
}

void TrainingText::cut_line() {
  const std::string_view text = line_;
  bool reserved = false;
  bool long_line = false;
  bool long_word = false;
  for (std::size_t begin = 0; begin < text.size();) {
    const auto [end, length] = reserved_from(text, begin);
    reserved = reserved || length > 0;
    cut_length(text.substr(begin, end - begin), long_line, long_word);
    begin = end + length;
  }
  if (!rules_.blanks_are_text) std::erase_if(parts_, is_blank);
  std::reverse(parts_.begin(), parts_.end());
  reserved_ += static_cast<std::int64_t>(reserved);
  long_lines_ += static_cast<std::int64_t>(long_line);
  long_words_ += static_cast<std::int64_t>(long_word && !long_line);
}

void TrainingText::cut_length(std::string_view text, bool& long_line, bool& long_word) {
  // Fewer bytes than either bound has characters, as most lines are: nothing to look for.
  if (static_cast<std::int64_t>(text.size()) <= std::min(rules_.max_bytes, rules_.max_word)) {
    if (!text.empty()) parts_.push_back(text);
    return;
  }
  const Cutter cutter(text, rules_);
  long_line = long_line || static_cast<std::int64_t>(text.size()) > rules_.max_bytes;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = cutter.end_of(begin, long_word);
    parts_.push_back(text.substr(begin, end - begin));
    begin = end;
    if (rules_.spaces_begin_words && begin < text.size() && text[begin] == ' ') ++begin;
  }
}

std::string TrainingText::changes() const {
  std::vector<std::string> said;
  if (long_lines_ > 0)
    said.push_back(to_text(with_thousands(long_lines_), " were longer than ",
                           with_thousands(rules_.max_bytes),
                           " bytes and were cut, at spaces where there are"));
  if (long_words_ > 0)
    said.push_back(to_text(with_thousands(long_words_), " had more than ", with_thousands(rules_.max_word),
                           " characters between two spaces and were cut there"));
  if (reserved_ > 0)
    said.push_back(
        to_text(with_thousands(reserved_),
                " held U+2585 or NUL, which SentencePiece keeps for itself, and were cut around it"));
  if (said.empty()) return "";
  return to_text("of ", with_thousands(number_), " lines to learn from ", join(said, "; "));
}

}  // namespace bitrain::text
