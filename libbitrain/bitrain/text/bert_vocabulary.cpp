#include <bitrain/text/bert_vocabulary.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/json_fields.h>

namespace bitrain::text {
namespace {

using io::Json;

using Vocabulary = std::unordered_map<std::string, std::int64_t>;

/// Lists the tokens of the lines, in order, and where each is.
std::pair<Json, Vocabulary> read_lines(std::string_view text, const std::string& name) {
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    throw FormatError(name, ": byte ", at + 1, " is not UTF-8");
  Json::object_t entries;  // Filled as a list: its own look-up is linear.
  Vocabulary ids;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string token(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (ends_with(token, "\r")) token.pop_back();
    const auto id = static_cast<std::int64_t>(ids.size());
    if (token.empty()) throw FormatError(name, ": line ", id + 1, " is empty");
    if (const auto [first, is_new] = ids.emplace(token, id); !is_new)
      throw FormatError(name, ": '", token, "' is on line ", first->second + 1, " and again on line ",
                        id + 1);
    entries.Container::emplace_back(std::move(token), id);
  }
  return {Json(std::move(entries)), std::move(ids)};
}

void check_class(const Json& config, const std::string& name) {
  constexpr std::string_view kKnown[] = {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer",
                                         "PreTrainedTokenizerFast", "TokenizersBackend"};
  auto type = optional_field<std::string>(config, "tokenizer_class", name).value_or("BertTokenizer");
  std::string_view stem = type;
  if (ends_with(stem, "TokenizerFast") && stem != "PreTrainedTokenizerFast") stem.remove_suffix(4);
  if (std::find(std::begin(kKnown), std::end(kKnown), stem) == std::end(kKnown))
    throw UnsupportedError(name, ": a vocab.txt of the class '", type,
                           "' is not supported without tokenizer.json");
  if (!optional_field<bool>(config, "do_basic_tokenize", name).value_or(true))
    throw UnsupportedError(name, ": 'do_basic_tokenize': false is not supported");
}

/// The spelling of a special token in the configuration, or the usual one.
std::string spelling(const Json& config, const std::string& key, const std::string& name) {
  const Json& value = member(config, key.c_str(), name);
  if (value.is_object()) return field<std::string>(value, "content", name + ": '" + key + "'");
  const auto* usual = std::find_if(std::begin(kBertSpecialTokens), std::end(kBertSpecialTokens),
                                   [&](const auto& token) { return token.first == key; });
  return optional_field<std::string>(config, key.c_str(), name).value_or(usual->second);
}

}  // namespace

Json bert_tokenizer_json(std::string_view vocab_txt, const Json& config, const std::string& name) {
  const std::string where = name + ": configuration";
  check_class(config, where);
  auto [vocabulary, ids] = read_lines(vocab_txt, name);
  Json added = Json::array();
  const auto special = [&, &known = ids](const char* key) {
    const std::string token = spelling(config, key, where);
    const auto found = known.find(token);
    if (found == known.end())
      throw FormatError(name, ": the ", key, " '", token, "' is not in the vocabulary");
    added.push_back({{"id", found->second},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
    return std::make_pair(token, found->second);
  };
  special("pad_token");
  const std::string unknown = special("unk_token").first;
  const auto cls = special("cls_token");
  const auto sep = special("sep_token");
  special("mask_token");
  const bool lower = optional_field<bool>(config, "do_lower_case", where).value_or(true);
  const std::optional<bool> strip = optional_field<bool>(config, "strip_accents", where);
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer",
           {{"type", "BertNormalizer"},
            {"clean_text", true},
            {"handle_chinese_chars",
             optional_field<bool>(config, "tokenize_chinese_chars", where).value_or(true)},
            {"strip_accents", strip ? Json(*strip) : Json()},
            {"lowercase", lower}}},
          {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
          {"post_processor",
           {{"type", "BertProcessing"},
            {"sep", Json::array({sep.first, sep.second})},
            {"cls", Json::array({cls.first, cls.second})}}},
          {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
          {"model",
           {{"type", "WordPiece"},
            {"unk_token", unknown},
            {"continuing_subword_prefix", "##"},
            {"max_input_chars_per_word", 100},
            {"vocab", std::move(vocabulary)}}}};
}

}  // namespace bitrain::text
