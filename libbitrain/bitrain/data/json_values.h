#pragma once

#include <cstdint>
#include <string>
#include <string_view>

/// Rows of JSON that are not one a line.
namespace bitrain::data {

/// The values of a JSON text, each as its own text: the elements of one array, or values one after another.
/// Only brackets and strings are looked at; what is within a value is its parser's to judge.
class JsonValues {
 public:
  /// `path` is for messages. `text` must live as long.
  JsonValues(std::string_view text, std::string path);

  /// False at the end. Throws DataError, with file and line, for a value that is not closed and for anything
  /// but white space and single commas between the elements of an array.
  bool next(std::string_view& value);
  /// Of the first byte of the value that next() gave last, from 1.
  [[nodiscard]] std::int64_t line() const { return line_; }

 private:
  void skip_space();
  bool next_element();
  std::string_view take_value();
  [[noreturn]] void fail(const std::string& what) const;

  std::string_view text_;
  std::string path_;
  std::size_t at_ = 0;
  std::int64_t lines_ = 1;  ///< Of the byte at at_.
  std::int64_t line_ = 0;
  bool in_array_ = false;
  bool first_ = true;
};

/// Whether text begins as JSON rows do and no other text: with {"key": or {'key':, or an array of such or of
/// texts.
[[nodiscard]] bool begins_json(std::string_view text);

/// Whether the JSON rows of a file that begins with `head` are not one a line: one array, an object over
/// several lines, or several objects in the first line. Damaged JSON counts as one a line.
[[nodiscard]] bool is_json_document(std::string_view head);

}  // namespace bitrain::data
