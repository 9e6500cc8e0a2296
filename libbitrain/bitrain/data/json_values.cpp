#include <bitrain/data/json_values.h>

#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>

namespace bitrain::data {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view without_space(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  return text;
}

/// Where the string ends that begins at `begin`: behind its second quote, or npos.
std::size_t end_of_string(std::string_view text, std::size_t begin) {
  const char quote = text[begin];
  for (std::size_t i = begin + 1; i < text.size(); ++i) {
    if (text[i] == '\\')
      ++i;
    else if (text[i] == quote)
      return i + 1;
  }
  return std::string_view::npos;
}

/// Where the object or array ends that begins at `begin`: behind its last bracket, or npos.
std::size_t end_of_brackets(std::string_view text, std::size_t begin) {
  std::int64_t depth = 0;
  for (std::size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      i = end_of_string(text, i);
      if (i == std::string_view::npos) return i;
      --i;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

/// `text` behind a string in either quotes, or nothing where it does not begin with one.
std::string_view behind_string(std::string_view text) {
  if (text.empty() || (text[0] != '"' && text[0] != '\'')) return {};
  const std::size_t end = end_of_string(text, 0);
  return end == std::string_view::npos ? std::string_view() : without_space(text.substr(end));
}

bool begins_object(std::string_view text) {
  return starts_with(text, "{") && starts_with(behind_string(without_space(text.substr(1))), ":");
}

/// Whether text is JSON, or the beginning of some that was cut.
bool is_json_prefix(std::string_view text) {
  struct Handler : nlohmann::json_sax<io::Json> {
    std::size_t failed_at = std::string_view::npos;
    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(std::size_t) override { return true; }
    bool end_object() override { return true; }
    bool start_array(std::size_t) override { return true; }
    bool end_array() override { return true; }
    bool key(string_t&) override { return true; }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
      failed_at = position;
      return false;
    }
  } handler;
  if (io::Json::sax_parse(text.begin(), text.end(), &handler)) return true;
  // A character may be cut as well: what is wrong is then at most its four bytes before the end.
  return handler.failed_at + 4 > text.size();
}

}  // namespace

JsonValues::JsonValues(std::string_view text, std::string path) : text_(text), path_(std::move(path)) {
  skip_space();
  if (at_ < text_.size() && text_[at_] == '[') {
    in_array_ = true;
    ++at_;
  }
}

void JsonValues::skip_space() {
  for (; at_ < text_.size() && kSpace.find(text_[at_]) != std::string_view::npos; ++at_)
    lines_ += text_[at_] == '\n' ? 1 : 0;
}

void JsonValues::fail(const std::string& what) const {
  throw DataError(path_, ":", lines_, ": not valid JSON: ", what);
}

bool JsonValues::next(std::string_view& value) {
  skip_space();
  if (in_array_ ? !next_element() : at_ == text_.size()) return false;
  line_ = lines_;
  value = take_value();
  lines_ += std::count(value.begin(), value.end(), '\n');
  return true;
}

/// Goes on to the next element of the array; false behind the last one, which must be the end of the text.
bool JsonValues::next_element() {
  if (at_ == text_.size()) fail("the file ends within the array that it begins with");
  const bool comma = text_[at_] == ',';
  if (text_[at_] == ']') {
    ++at_;
    skip_space();
    if (at_ < text_.size()) fail("something follows the array that the file begins with");
    in_array_ = false;
    return false;
  }
  if (comma == first_)
    fail(comma ? "a comma before the first element" : "a comma is missing between elements");
  first_ = false;
  if (!comma) return true;
  ++at_;
  skip_space();
  if (at_ == text_.size() || text_[at_] == ',' || text_[at_] == ']')
    fail("nothing follows a comma between elements");
  return true;
}

std::string_view JsonValues::take_value() {
  const char first = text_[at_];
  std::size_t end = std::string_view::npos;
  if (first == '{' || first == '[')
    end = end_of_brackets(text_, at_);
  else if (first == '"')
    end = end_of_string(text_, at_);
  else
    end = std::min(text_.find_first_of(" \t\r\n,[]{}", at_ + 1), text_.size());
  if (end == std::string_view::npos) fail(to_text("what begins here with ", first, " is not closed"));
  const std::string_view value = text_.substr(at_, end - at_);
  at_ = end;
  return value;
}

bool begins_json(std::string_view text) {
  text = without_space(text);
  if (begins_object(text)) return true;
  if (!starts_with(text, "[")) return false;
  const std::string_view element = without_space(text.substr(1));
  const std::string_view behind = starts_with(element, "\"") ? behind_string(element) : std::string_view();
  return begins_object(element) || starts_with(behind, ",") || starts_with(behind, "]");
}

bool is_json_document(std::string_view head) {
  head = without_space(head);
  if (starts_with(head, "[")) return true;
  if (!starts_with(head, "{")) return false;
  const std::size_t line = std::min(head.find('\n'), head.size());
  const std::size_t end = end_of_brackets(head, 0);
  if (end == std::string_view::npos) return line < head.size() && is_json_prefix(head);
  if (end <= line) return starts_with(without_space(head.substr(end, line - end)), "{");
  return is_json_prefix(head.substr(0, end));
}

}  // namespace bitrain::data
