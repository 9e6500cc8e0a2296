#include <bitrain/data/row_values.h>

#include <algorithm>

#include <bitrain/base/format.h>
#include <bitrain/base/strings.h>

namespace bitrain::data {
namespace {

bool is_word_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

}  // namespace

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

const char* kind_of_json(const io::Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "true or false";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a text";
  return value.is_array() ? "a list" : "an object";
}

bool says_nothing(const io::Json& value) {
  if (value.is_null()) return true;
  if (value.is_string())
    return is_one_of(trim(value.get_ref<const std::string&>()), {"", "[]", "{}", "null"});
  return value.is_structured() && std::all_of(value.begin(), value.end(), says_nothing);
}

std::string jq_key(const std::string& key) {
  const bool plain = !key.empty() && std::all_of(key.begin(), key.end(), is_word_byte) &&
                     !(key.front() >= '0' && key.front() <= '9');
  if (plain) return "." + key;
  std::string quoted = ".";
  for (const char c : io::Json(key).dump(-1, ' ', false, io::Json::error_handler_t::replace))
    quoted += c == '\'' ? "\\u0027" : std::string(1, c);  // It would end the quotes of the shell.
  return quoted;
}

std::string plain_name(std::string_view key) {
  std::string name = lower_ascii(std::string(key));
  name.erase(
      std::remove_if(name.begin(), name.end(), [](char c) { return c == '_' || c == '-' || c == ' '; }),
      name.end());
  return name;
}

std::vector<std::string> texts_in(const io::Json& value) {
  if (value.is_string()) return {value.get<std::string>()};
  if (value.is_number()) return {value.dump()};
  std::vector<std::string> texts;
  if (!value.is_structured()) return texts;
  const auto append = [&](const io::Json& member) {
    for (std::string& text : texts_in(member)) texts.push_back(std::move(text));
  };
  for (const char* content : {"content", "value"})
    if (value.is_object() && value.contains(content) && (value.contains("role") || value.contains("from"))) {
      append(value.at(content));
      return texts;
    }
  for (const io::Json& member : value) append(member);
  return texts;
}

bool has_words(std::string_view whole, std::string_view part) {
  part = trim(part);
  if (part.empty()) return true;
  for (std::size_t at = whole.find(part); at != std::string_view::npos; at = whole.find(part, at + 1)) {
    const std::size_t end = at + part.size();
    const bool begins = at == 0 || !is_word_byte(whole[at - 1]) || !is_word_byte(part.front());
    const bool ends = end == whole.size() || !is_word_byte(whole[end]) || !is_word_byte(part.back());
    if (begins && ends) return true;
  }
  return false;
}

std::optional<bool> mark_of(const io::Json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number() && (value == 0 || value == 1)) return value == 1;
  if (!value.is_string()) return std::nullopt;
  const std::string word = lower_ascii(std::string(trim(value.get_ref<const std::string&>())));
  if (is_one_of(word, {"", "true", "yes", "1", "1.0"})) return true;
  if (is_one_of(word, {"false", "no", "0", "0.0"})) return false;
  return std::nullopt;
}

}  // namespace bitrain::data
