#include <bitrain/text/added_tokens.h>

#include <algorithm>
#include <iterator>

#include <bitrain/base/error.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/json_fields.h>

namespace bitrain::text {
namespace {

using io::Json;

bool is_space_before(std::string_view text, std::size_t at, std::size_t& begin) {
  if (at == 0) return false;
  begin = at - 1;
  while (begin > 0 && (static_cast<std::uint8_t>(text[begin]) & 0xC0U) == 0x80U) --begin;
  return class_of(utf8_at(text, begin).code) == CharacterClass::kSpace;
}

}  // namespace

AddedToken read_added_token(const Json& json, const std::string& where) {
  AddedToken token;
  token.content = field<std::string>(json, "content", where);
  const auto id = field<std::int64_t>(json, "id", where);
  if (id < 0 || id >= (1 << 30)) throw FormatError(where, ": the id of '", token.content, "' is ", id);
  token.id = static_cast<TokenId>(id);
  token.special = optional_field<bool>(json, "special", where).value_or(false);
  token.single_word = optional_field<bool>(json, "single_word", where).value_or(false);
  token.lstrip = optional_field<bool>(json, "lstrip", where).value_or(false);
  token.rstrip = optional_field<bool>(json, "rstrip", where).value_or(false);
  token.normalized = optional_field<bool>(json, "normalized", where).value_or(!token.special);
  return token;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  std::size_t before = begin;
  static_cast<void>(is_space_before(text, begin, before));
  return (begin == 0 || !is_word_character(utf8_at(text, before).code)) &&
         (end == text.size() || !is_word_character(utf8_at(text, end).code));
}

std::pair<std::size_t, std::size_t> with_spaces(const AddedToken& token, std::string_view text,
                                                std::size_t from, std::size_t begin, std::size_t end) {
  for (std::size_t before = 0; token.lstrip && begin > from && is_space_before(text, begin, before);)
    begin = before;
  while (token.rstrip && end < text.size() && class_of(utf8_at(text, end).code) == CharacterClass::kSpace)
    end += utf8_at(text, end).length;
  return {begin, end};
}

bool inside(const std::vector<Offset>& markup, Offset range) {
  const auto after = std::upper_bound(markup.begin(), markup.end(), range.begin,
                                      [](std::int32_t at, const Offset& mark) { return at < mark.begin; });
  return after != markup.begin() && range.end <= std::prev(after)->end;
}

}  // namespace bitrain::text
