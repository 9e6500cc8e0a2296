#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::text {

/// A text that is being rewritten, and which bytes of the first text each of its bytes comes from.
struct AlignedText {
  std::string text;
  std::vector<Offset> origin;  ///< As long as `text`; empty when not `tracked`.
  bool tracked = false;
  std::size_t first_bytes = 0;  ///< Of the first text; 0: this is it.

  [[nodiscard]] std::string_view view() const { return text; }
  [[nodiscard]] std::size_t bytes_at_first() const { return first_bytes > 0 ? first_bytes : text.size(); }
  /// The bytes of the first text behind the bytes [begin, end), end > begin.
  [[nodiscard]] Offset origin_of(std::size_t begin, std::size_t end) const {
    Offset all = origin[begin];
    for (std::size_t i = begin + 1; i < end; ++i) {
      all.begin = std::min(all.begin, origin[i].begin);
      all.end = std::max(all.end, origin[i].end);
    }
    return all;
  }
};

/// Builds a new text from parts of an old one. Steps that make a text far longer than it was are refused:
/// thirty that double it would make a gigabyte of a letter. Unicode's own rules make at most 11 bytes of one.
class Rewriter {
 public:
  explicit Rewriter(const AlignedText& from) : from_(from) {
    to_.tracked = from.tracked;
    to_.first_bytes = from.bytes_at_first();
    to_.text.reserve(from.text.size() + 8);
  }
  /// The bytes [begin, end) as they are.
  void keep(std::size_t begin, std::size_t end) {
    to_.text.append(from_.text, begin, end - begin);
    if (to_.tracked)
      to_.origin.insert(to_.origin.end(), from_.origin.begin() + static_cast<std::ptrdiff_t>(begin),
                        from_.origin.begin() + static_cast<std::ptrdiff_t>(end));
  }
  /// `content` in place of the bytes [begin, end); none of them makes it an insertion.
  void put(std::string_view content, std::size_t begin, std::size_t end) {
    if (to_.text.size() + content.size() > most_bytes()) refuse_length();
    to_.text += content;
    if (!to_.tracked) return;
    Offset offset;
    if (begin < end) {
      offset = from_.origin_of(begin, end);
    } else if (begin < from_.origin.size()) {
      offset = {from_.origin[begin].begin, from_.origin[begin].begin};
    } else if (!from_.origin.empty()) {
      offset = {from_.origin.back().end, from_.origin.back().end};
    }
    to_.origin.insert(to_.origin.end(), content.size(), offset);
  }
  [[nodiscard]] std::size_t size() const { return to_.text.size(); }
  [[nodiscard]] AlignedText take() { return std::move(to_); }

 private:
  [[noreturn]] void refuse_length() const {
    throw DataError("the tokenizer's rules make more than ", most_bytes(), " bytes of a text of ",
                    to_.first_bytes, " bytes: its normalizer or pre-tokenizer is damaged");
  }

  [[nodiscard]] std::size_t most_bytes() const { return 64 * to_.first_bytes + (std::size_t{64} << 10); }

  const AlignedText& from_;
  AlignedText to_;
};

}  // namespace bitrain::text
