#include <bitrain/text/tokenizer_arguments.h>

#include <algorithm>
#include <charconv>
#include <iterator>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/json_fields.h>

namespace bitrain::text {
namespace {

using io::Json;

constexpr const char* kConfig = "tokenizer_config.json";
constexpr const char* kMap = "special_tokens_map.json";
constexpr const char* kAdded = "added_tokens.json";
constexpr std::string_view kRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};

bool is_role(std::string_view key) {
  return std::find(std::begin(kRoles), std::end(kRoles), key) != std::end(kRoles);
}

/// A token as a configuration spells it: its text, or an object with "content".
NamedToken read_token(const Json& json, const std::string& file, const std::string& where) {
  NamedToken named;
  named.file = file;
  if (json.is_string()) {
    named.token.content = json.get<std::string>();
    named.token.special = true;
    named.as_text = true;
    return named;
  }
  if (!json.is_object()) throw FormatError(where, " is neither a text nor an object");
  AddedToken& token = named.token;
  token.content = field<std::string>(json, "content", where);
  token.special = optional_field<bool>(json, "special", where).value_or(file == kMap);
  token.single_word = optional_field<bool>(json, "single_word", where).value_or(false);
  token.lstrip = optional_field<bool>(json, "lstrip", where).value_or(false);
  token.rstrip = optional_field<bool>(json, "rstrip", where).value_or(false);
  token.normalized = optional_field<bool>(json, "normalized", where).value_or(!token.special);
  return named;
}

std::int64_t id_of_key(const std::string& key, const std::string& where) {
  std::int64_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= (1 << 30))
    throw FormatError(where, ": '", key, "' is not an id");
  return id;
}

class Reader {
 public:
  Reader(const TokenizerFolder& folder, const Json& json_tokens) : folder_(folder), json_(json_tokens) {}

  TokenizerArguments read() {
    read_config();
    const Json& decoder = member(folder_.config, "added_tokens_decoder", folder_.where(kConfig));
    if (!decoder.is_null()) {
      read_decoder(decoder);
    } else {
      read_map();
      read_added_tokens();
      read_json_tokens();
    }
    take_properties();
    return finish();
  }

 private:
  void set(const std::string& role, std::optional<NamedToken> token) {
    const auto found =
        std::find_if(named_.begin(), named_.end(), [&](const auto& entry) { return entry.first == role; });
    if (found != named_.end())
      found->second = std::move(token);
    else
      named_.emplace_back(role, std::move(token));
  }

  /// Of keys that are no roles: other values are not tokens to transformers.
  static bool is_token(const Json& value, const char* file) {
    const bool marked = value.is_object() && value.contains("__type") && value["__type"] == "AddedToken";
    return value.is_string() || marked || (value.is_object() && file == std::string_view(kMap));
  }

  /// model_specific_special_tokens of tokenizer_config.json; of keys that say the same in another way the
  /// text of one, or an object of extra ones, takes its place.
  void read_specific() {
    const std::string where = folder_.where(kConfig);
    const Json& specific = member(folder_.config, "model_specific_special_tokens", where);
    if (specific.is_null()) return;
    if (!specific.is_object()) throw FormatError(where, ": 'model_specific_special_tokens' is not an object");
    const Json& extra = member(folder_.config, "extra_special_tokens", where);
    bool replaced = extra.is_object() && !extra.empty();
    for (const auto& [key, value] : folder_.config.items())
      replaced = replaced || (ends_with(key, "_token") && !is_role(key) && value.is_string());
    if (replaced) return;
    for (const auto& [role, token] : specific.items())
      set(role, read_token(token, kConfig, where + ": 'model_specific_special_tokens'"));
  }

  /// Adds to what there is already.
  static void read_extra(const Json& list, const char* file, const std::string& where,
                         std::optional<std::vector<NamedToken>>& to) {
    if (!list.is_array()) throw FormatError(where, " is not a list");
    if (!to) to.emplace();
    for (const Json& item : list) {
      NamedToken token = read_token(item, file, where);
      if (std::none_of(to->begin(), to->end(),
                       [&](const NamedToken& other) { return other.token.content == token.token.content; }))
        to->push_back(std::move(token));
    }
  }

  void read_extras_of(const Json& config, const char* file) {
    const std::string name = folder_.where(file);
    const Json& extra = member(config, "extra_special_tokens", name);
    const std::string where = name + ": 'extra_special_tokens'";
    if (extra.is_object()) {
      for (const auto& [role, token] : extra.items()) set(role, read_token(token, file, where));
    } else if (!extra.is_null()) {
      read_extra(extra, file, where, extra_);
    }
    const Json& additional = member(config, "additional_special_tokens", name);
    if (additional.is_null() || (extra_ && !extra_->empty())) return;
    // Those of the map come last, and those beside an object: added_tokens.json does not look at them.
    const bool late = file == std::string_view(kMap) || (extra.is_object() && !extra.empty());
    if (late) late_extra_.reset();
    read_extra(additional, file, name + ": 'additional_special_tokens'", late ? late_extra_ : extra_);
  }

  /// The keys "..._token" of a configuration.
  void read_roles(const Json& config, const char* file) {
    for (const auto& [key, value] : config.items()) {
      const std::string where = folder_.where(file) + ": '" + key + "'";
      if (!is_role(key)) {
        if (ends_with(key, "_token") && is_token(value, file)) {
          NamedToken token = read_token(value, file, where);
          token.token.special = token.token.special || file == std::string_view(kMap);
          set(key, std::move(token));
        }
        continue;
      }
      if (value.is_null()) {
        set(key, std::nullopt);
        continue;
      }
      NamedToken token = read_token(value, file, where);
      token.token.special = true;
      set(key, std::move(token));
    }
  }

  void read_config() {
    read_roles(folder_.config, kConfig);
    read_extras_of(folder_.config, kConfig);
    read_specific();
  }

  void add_to_decoder(std::int64_t id, NamedToken token) {
    const auto found = decoder_.find(id);
    if (found != decoder_.end() && found->second.token.content != token.token.content)
      throw ConfigError(folder_.path.string(), ": ", found->second.file, " gives the id ", id, " to '",
                        found->second.token.content, "', ", token.file, " to '", token.token.content,
                        "': they are of different tokenizers; take away the wrong one");
    decoder_[id] = std::move(token);
  }

  void read_decoder(const Json& decoder) {
    const std::string where = folder_.where(kConfig) + ": 'added_tokens_decoder'";
    if (!decoder.is_object()) throw FormatError(where, " is not an object");
    for (const auto& [key, value] : decoder.items()) {
      if (!value.is_object()) throw FormatError(where, ": '", key, "' is not an object");
      NamedToken token = read_token(value, kConfig, where + ": '" + key + "'");
      token.token.special = optional_field<bool>(value, "special", where).value_or(false);
      if (!value.contains("normalized")) token.token.normalized = !token.token.special;
      add_to_decoder(id_of_key(key, where), std::move(token));
    }
  }

  /// special_tokens_map.json goes before tokenizer_config.json here; it is not read beside an
  /// added_tokens_decoder.
  void read_map() {
    if (folder_.special_tokens_map.is_null()) return;
    for (const auto& [role, before] : named_) {
      const Json& now = member(folder_.special_tokens_map, role.c_str(), folder_.where(kMap));
      if (!before || now.is_null()) continue;
      const NamedToken token = read_token(now, kMap, folder_.where(kMap) + ": '" + role + "'");
      if (token.token.content != before->token.content)
        log_warn(folder_.path.string(), ": the ", role, " is '", before->token.content, "' in ", kConfig,
                 " and '", token.token.content, "' in ", kMap,
                 "; the latter counts, as in AutoTokenizer, since the former has no added_tokens_decoder");
    }
    read_roles(folder_.special_tokens_map, kMap);
    read_extras_of(folder_.special_tokens_map, kMap);
  }

  void read_added_tokens() {
    if (folder_.added_tokens.is_null()) return;
    const std::string where = folder_.where(kAdded);
    for (const auto& [text, id] : folder_.added_tokens.items()) {
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= (1 << 30))
        throw FormatError(where, ": the id of '", text, "' is not a whole number from 0 below 2^30");
      NamedToken named;
      named.file = kAdded;
      named.token.content = text;
      named.token.special = is_special(text);
      named.token.normalized = !named.token.special;
      add_to_decoder(id.get<std::int64_t>(), std::move(named));
    }
  }

  [[nodiscard]] bool is_special(const std::string& text) const {
    const auto spells = [&](const NamedToken& token) { return token.token.content == text; };
    return std::any_of(named_.begin(), named_.end(),
                       [&](const auto& entry) {
                         return is_role(entry.first) && entry.second && spells(*entry.second);
                       }) ||
           (extra_ && std::any_of(extra_->begin(), extra_->end(), spells));
  }

  void read_json_tokens() {
    if (!json_.is_array()) return;
    const std::string where = folder_.where("tokenizer.json") + ": added_tokens";
    for (const Json& json : json_) {
      NamedToken named;
      named.token = read_added_token(json, where);
      named.file = "tokenizer.json";
      add_to_decoder(named.token.id, std::move(named));
    }
  }

  /// A role whose spelling is among the added tokens is that token, with its properties.
  void take_properties() {
    for (auto& [role, named] : named_) {
      if (!named || !is_role(role)) continue;
      for (const auto& [id, token] : decoder_)
        if (token.token.content == named->token.content) named = token;
    }
  }

  TokenizerArguments finish() {
    TokenizerArguments result;
    for (const std::string_view role : kRoles) {
      const auto found =
          std::find_if(named_.begin(), named_.end(), [&](const auto& entry) { return entry.first == role; });
      if (found != named_.end()) result.named.push_back(*found);
    }
    for (auto& entry : named_)
      if (!is_role(entry.first)) result.named.push_back(std::move(entry));
    result.extra = extra_ ? std::move(extra_) : std::move(late_extra_);
    result.decoder = std::move(decoder_);
    return result;
  }

  const TokenizerFolder& folder_;
  const Json& json_;
  std::vector<std::pair<std::string, std::optional<NamedToken>>> named_;
  std::optional<std::vector<NamedToken>> extra_;
  std::optional<std::vector<NamedToken>> late_extra_;
  std::map<std::int64_t, NamedToken> decoder_;
};

}  // namespace

const std::optional<NamedToken>* TokenizerArguments::find(const std::string& role) const {
  const auto found =
      std::find_if(named.begin(), named.end(), [&](const auto& entry) { return entry.first == role; });
  return found == named.end() ? nullptr : &found->second;
}

std::optional<std::string> TokenizerArguments::token_or(const std::string& role,
                                                        const std::optional<std::string>& usual) {
  if (const auto* found = find(role); found != nullptr) {
    if (!*found) return std::nullopt;
    return (*found)->token.content;
  }
  if (!usual) return std::nullopt;
  NamedToken token;
  token.token.content = *usual;
  token.token.special = true;
  token.file = "the tokenizer's class";
  token.as_text = true;
  // In the order of the roles, in which they are added.
  const auto rank = [](std::string_view key) {
    return std::find(std::begin(kRoles), std::end(kRoles), key) - std::begin(kRoles);
  };
  const auto place = std::find_if(named.begin(), named.end(),
                                  [&](const auto& entry) { return rank(entry.first) > rank(role); });
  named.emplace(place, role, std::move(token));
  return usual;
}

TokenizerArguments read_tokenizer_arguments(const TokenizerFolder& folder, const Json& json_tokens) {
  return Reader(folder, json_tokens).read();
}

}  // namespace bitrain::text
