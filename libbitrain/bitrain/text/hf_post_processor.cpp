#include <bitrain/text/hf_post_processor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/text/json_fields.h>

namespace bitrain::text {
namespace {

using io::Json;
using Item = InputTemplate::Item;
using Kind = InputTemplate::Kind;

TokenId checked_id(const Json& json, const std::string& where) {
  if (!json.is_number_unsigned() || json.get<std::uint64_t>() >= (1U << 30))
    throw FormatError(where, ": an id is not a whole number below 2^30");
  return json.get<TokenId>();
}

std::int32_t type_id_of(const Json& json, const std::string& where) {
  const auto type_id = field<std::int64_t>(json, "type_id", where);
  if (type_id < 0 || type_id > 255) throw FormatError(where, ": 'type_id' is ", type_id, ", not 0 to 255");
  return static_cast<std::int32_t>(type_id);
}

/// The "single" or "pair" of a TemplateProcessing; each of its `texts` texts must stand in it once.
std::vector<Item> read_items(const Json& json, const char* key, int texts, const std::string& place) {
  const std::string where = place + ": '" + key + "'";
  const Json& list = member(json, key, place);
  if (!list.is_array()) throw FormatError(where, " is not a list");
  const Json& specials = member(json, "special_tokens", place);
  std::vector<Item> items;
  for (const Json& piece : list) {
    if (const Json& sequence = member(piece, "Sequence", where); !sequence.is_null()) {
      const auto name = field<std::string>(sequence, "id", where);
      if (name != "A" && (name != "B" || texts == 1))
        throw FormatError(where, ": there is no text '", name, "'");
      items.push_back({name == "A" ? Kind::kFirst : Kind::kSecond, 0, type_id_of(sequence, where)});
      continue;
    }
    const Json& special = member(piece, "SpecialToken", where);
    const auto name = field<std::string>(special, "id", where);
    const Json& token = member(specials, name.c_str(), place + ": 'special_tokens'");
    if (token.is_null()) throw FormatError(where, ": the token '", name, "' is not among the special_tokens");
    const Json& ids = member(token, "ids", to_text(place, ": '", name, "'"));
    if (!ids.is_array()) throw FormatError(place, ": the ids of '", name, "' are not a list");
    for (const Json& id : ids)
      items.push_back({Kind::kSpecial, checked_id(id, where), type_id_of(special, where)});
  }
  for (int text = 0; text < texts; ++text) {
    const Kind kind = text == 0 ? Kind::kFirst : Kind::kSecond;
    if (std::count_if(items.begin(), items.end(), [&](const Item& item) { return item.kind == kind; }) != 1)
      throw FormatError(where, ": the text '", text == 0 ? "A" : "B", "' does not stand in it once");
  }
  return items;
}

/// The id of ["[SEP]", 102].
TokenId marker(const Json& json, const char* key, const std::string& where) {
  const Json& value = member(json, key, where);
  if (!value.is_array() || value.size() != 2 || !value[0].is_string())
    throw FormatError(where, ": '", key, "' is not a token and its id");
  return checked_id(value[1], where + ": '" + key + "'");
}

/// Nothing where the processor adds nothing.
std::optional<InputTemplate> read(const Json& json, const std::string& where) {
  if (json.is_null()) return std::nullopt;
  const auto type = field<std::string>(json, "type", where);
  if (type == "ByteLevel") return std::nullopt;
  if (type == "TemplateProcessing")
    return InputTemplate{read_items(json, "single", 1, where), read_items(json, "pair", 2, where)};
  const Item first{Kind::kFirst, 0, 0};
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    const bool bert = type == "BertProcessing";
    const std::int32_t second_type = bert ? 1 : 0;
    const Item cls{Kind::kSpecial, marker(json, "cls", where), 0};
    const Item sep{Kind::kSpecial, marker(json, "sep", where), 0};
    InputTemplate result{{cls, first, sep}, {cls, first, sep}};
    if (!bert) result.pair.push_back(sep);
    result.pair.push_back({Kind::kSecond, 0, second_type});
    result.pair.push_back({Kind::kSpecial, sep.id, second_type});
    return result;
  }
  if (type != "Sequence") throw UnsupportedError(where, ": the type '", type, "' is not supported");
  const Json& list = member(json, "processors", where);
  if (!list.is_array()) throw FormatError(where, ": 'processors' is not a list");
  std::optional<InputTemplate> result;
  for (const Json& step : list) {
    auto made = read(step, where);
    if (made && result)
      throw UnsupportedError(where, ": two steps that add special tokens are not supported");
    if (made) result = std::move(made);
  }
  return result;
}

}  // namespace

InputTemplate make_input_template(const io::Json& json, const std::string& where) {
  return read(json, where + ": post_processor").value_or(InputTemplate{});
}

}  // namespace bitrain::text
