#include <bitrain/text/tokenizer_rules.h>

#include <algorithm>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/text/base64.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

using io::Json;

// Qwen2Tokenizer's expression.
constexpr const char* kQwen2Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json replace(const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", content}};
}

Json sequence(const char* key, Json steps) {
  return {{"type", "Sequence"}, {key, std::move(steps)}};
}

Json metaspace(const char* scheme, bool split) {
  return {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", split}};
}

Json byte_level(bool prefix, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json bpe(TokenizerVocabulary vocabulary, const Json& unknown, bool fuse_unknown, bool byte_fallback) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", fuse_unknown},
          {"byte_fallback", byte_fallback},
          {"ignore_merges", false},
          {"vocab", std::move(vocabulary.vocab)},
          {"merges", std::move(vocabulary.merges)}};
}

/// Pieces to text where bytes have pieces of their own.
Json byte_fallback_decoder(bool strips) {
  Json steps = Json::array({replace("▁", " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (strips) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return sequence("decoders", std::move(steps));
}

/// Builds what a class builds, from the flags of tokenizer_config.json.
class Builder {
 public:
  Builder(TokenizerVocabulary vocabulary, const TokenizerFolder& folder, TokenizerArguments& arguments)
      : vocabulary_(std::move(vocabulary)),
        config_(folder.config),
        where_(folder.where("tokenizer_config.json")),
        arguments_(arguments) {}

  Json llama() {
    usual({{"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}});
    const bool prefix = flag("add_prefix_space", true);
    const char* scheme = !prefix ? "never" : flag("legacy", false) ? "always" : "first";
    return {{"model", bpe(std::move(vocabulary_), nullptr, true, true)},
            {"normalizer", nullptr},
            {"pre_tokenizer", metaspace(scheme, false)},
            {"decoder", byte_fallback_decoder(prefix)}};
  }

  Json gemma() {
    usual({{"unk_token", "<unk>"},
           {"bos_token", "<bos>"},
           {"eos_token", "<eos>"},
           {"pad_token", "<pad>"},
           {"mask_token", "<mask>"}});
    const auto unknown = arguments_.token_or("unk_token", std::nullopt);
    return {{"model", bpe(std::move(vocabulary_), unknown ? Json(*unknown) : Json(), true, true)},
            {"normalizer", replace(" ", "▁")},
            {"pre_tokenizer",
             {{"type", "Split"},
              {"pattern", {{"String", " "}}},
              {"behavior", "MergedWithPrevious"},
              {"invert", false}}},
            {"decoder", byte_fallback_decoder(false)}};
  }

  Json gpt2() {
    const char* end = "<|endoftext|>";
    usual({{"unk_token", end}, {"bos_token", end}, {"eos_token", end}});
    return bytes(nullptr, byte_level(flag("add_prefix_space", false), true));
  }

  Json gpt_neox() {
    const char* end = "<|endoftext|>";
    usual({{"unk_token", end}, {"bos_token", end}, {"eos_token", end}, {"pad_token", "<|padding|>"}});
    return bytes({{"type", "NFC"}}, byte_level(flag("add_prefix_space", false), true));
  }

  Json qwen2() {
    const char* end = "<|endoftext|>";
    usual({{"unk_token", end}, {"eos_token", end}, {"pad_token", end}});
    Json steps = Json::array({{{"type", "Split"},
                               {"pattern", {{"Regex", kQwen2Words}}},
                               {"behavior", "Isolated"},
                               {"invert", false}},
                              byte_level(flag("add_prefix_space", false), false)});
    return bytes({{"type", "NFC"}}, sequence("pretokenizers", std::move(steps)));
  }

  Json roberta() {
    usual_of_roberta();
    return bytes(nullptr, byte_level(flag("add_prefix_space", false), true));
  }

  Json camembert() {
    usual_of_roberta();
    for (auto& [role, token] : arguments_.named)
      if (role == "mask_token" && token && token->as_text) token->token.lstrip = true;
    if (!arguments_.extra) {
      arguments_.extra.emplace();
      for (const char* text : {"<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"}) {
        NamedToken named;
        named.token.content = text;
        named.token.special = true;
        named.file = "the tokenizer's class";
        arguments_.extra->push_back(std::move(named));
      }
    }
    const auto unknown = arguments_.token_or("unk_token", std::nullopt);
    std::size_t unknown_id = 0;
    for (std::size_t id = 0; unknown && id < vocabulary_.vocab.size(); ++id) {
      const Json& entry = vocabulary_.vocab[id];
      if (entry.is_array() && !entry.empty() && entry[0] == Json(*unknown)) {
        unknown_id = id;
        break;
      }
    }
    return unigram(unknown_id);
  }

  Json xlm_roberta() {
    usual_of_roberta();
    return unigram(3);
  }

  Json bert() {
    usual({{"unk_token", "[UNK]"},
           {"sep_token", "[SEP]"},
           {"pad_token", "[PAD]"},
           {"cls_token", "[CLS]"},
           {"mask_token", "[MASK]"}});
    const std::optional<bool> strips = optional_field<bool>(config_, "strip_accents", where_);
    const auto unknown = arguments_.token_or("unk_token", std::nullopt);
    if (!unknown) throw FormatError(where_, ": a BertTokenizer needs an unk_token");
    return {{"model",
             {{"type", "WordPiece"},
              {"unk_token", *unknown},
              {"continuing_subword_prefix", "##"},
              {"max_input_chars_per_word", 100},
              {"vocab", std::move(vocabulary_.vocab)}}},
            {"normalizer",
             {{"type", "BertNormalizer"},
              {"clean_text", true},
              {"handle_chinese_chars", flag("tokenize_chinese_chars", true)},
              {"strip_accents", strips ? Json(*strips) : Json()},
              {"lowercase", flag("do_lower_case", true)}}},
            {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
            {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}}};
  }

 private:
  [[nodiscard]] bool flag(const char* key, bool usually) const {
    return optional_field<bool>(config_, key, where_).value_or(usually);
  }

  void usual(std::initializer_list<std::pair<const char*, const char*>> tokens) {
    for (const auto& [role, text] : tokens) static_cast<void>(arguments_.token_or(role, text));
  }

  void usual_of_roberta() {
    usual({{"bos_token", "<s>"},
           {"eos_token", "</s>"},
           {"sep_token", "</s>"},
           {"cls_token", "<s>"},
           {"unk_token", "<unk>"},
           {"pad_token", "<pad>"},
           {"mask_token", "<mask>"}});
  }

  /// XLM-R's, with SentencePiece's normaliser.
  Json unigram(std::size_t unknown_id) {
    const char* scheme = flag("add_prefix_space", true) ? "always" : "never";
    Json steps = Json::array({{{"type", "WhitespaceSplit"}}, metaspace(scheme, true)});
    Json charsmap;
    if (!vocabulary_.charsmap.is_null())
      charsmap = {{"type", "Precompiled"}, {"precompiled_charsmap", vocabulary_.charsmap}};
    return {{"model",
             {{"type", "Unigram"},
              {"unk_id", unknown_id},
              {"vocab", std::move(vocabulary_.vocab)},
              {"byte_fallback", false}}},
            {"normalizer", charsmap},
            {"pre_tokenizer", sequence("pretokenizers", std::move(steps))},
            {"decoder", metaspace(scheme, true)}};
  }

  Json bytes(Json normalizer, Json pre_tokenizer) {
    return {{"model", bpe(std::move(vocabulary_), nullptr, false, false)},
            {"normalizer", std::move(normalizer)},
            {"pre_tokenizer", std::move(pre_tokenizer)},
            {"decoder", byte_level(true, true)}};
  }

  TokenizerVocabulary vocabulary_;
  const Json& config_;
  const std::string where_;
  TokenizerArguments& arguments_;
};

/// Every way to cut a piece in two pieces, in the order of ids, the shorter left part first.
Json merges_by_id(const std::vector<SpmPiece>& pieces) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < pieces.size(); ++id) ids.emplace(pieces[id].text, id);
  Json merges = Json::array();
  for (const SpmPiece& piece : pieces) {
    const std::string_view text = piece.text;
    for (std::size_t cut = utf8_at(text, 0).length; cut < text.size(); cut += utf8_at(text, cut).length) {
      const std::string_view left = text.substr(0, cut);
      const std::string_view right = text.substr(cut);
      if (ids.count(left) != 0 && ids.count(right) != 0)
        merges.push_back(Json::array({std::string(left), std::string(right)}));
    }
  }
  return merges;
}

Json special(const std::pair<std::string, std::int64_t>& token, int type) {
  return {{"SpecialToken", {{"id", token.first}, {"type_id", type}}}};
}

Json text_of(const char* name, int type) {
  return {{"Sequence", {{"id", name}, {"type_id", type}}}};
}

Json processing(Json single, Json pair, std::initializer_list<const TemplateToken*> tokens) {
  Json specials = Json::object();
  for (const TemplateToken* token : tokens)
    if (*token)
      specials[(*token)->first] = {{"id", (*token)->first},
                                   {"ids", {static_cast<std::uint64_t>((*token)->second)}},
                                   {"tokens", {(*token)->first}}};
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", std::move(specials)}};
}

}  // namespace

TokenizerVocabulary vocabulary_of(const SpmModel& model, bool as_unigram) {
  TokenizerVocabulary result;
  if (!model.precompiled_charsmap.empty()) result.charsmap = to_base64(model.precompiled_charsmap);
  if (as_unigram) {
    result.vocab = Json::array();
    for (const SpmPiece& piece : model.pieces) result.vocab.push_back(Json::array({piece.text, piece.score}));
    return result;
  }
  Json::object_t vocabulary;  // Filled as a list: its own look-up is linear, and pieces are unique.
  vocabulary.reserve(model.pieces.size());
  for (std::size_t id = 0; id < model.pieces.size(); ++id)
    vocabulary.Container::emplace_back(model.pieces[id].text, id);
  result.vocab = std::move(vocabulary);
  result.merges = merges_by_id(model.pieces);
  return result;
}

Json build_tokenizer(TokenizerRule rule, TokenizerVocabulary vocabulary, const TokenizerFolder& folder,
                     TokenizerArguments& arguments) {
  Builder builder(std::move(vocabulary), folder, arguments);
  switch (rule) {
    case TokenizerRule::kLlama: return builder.llama();
    case TokenizerRule::kGpt2: return builder.gpt2();
    case TokenizerRule::kQwen2: return builder.qwen2();
    case TokenizerRule::kGemma: return builder.gemma();
    case TokenizerRule::kGptNeoX: return builder.gpt_neox();
    case TokenizerRule::kBert: return builder.bert();
    case TokenizerRule::kRoberta: return builder.roberta();
    case TokenizerRule::kXlmRoberta: return builder.xlm_roberta();
    case TokenizerRule::kCamembert: return builder.camembert();
    case TokenizerRule::kJson:
    case TokenizerRule::kOther: break;
  }
  throw StateError("this class builds no tokenizer");
}

Json build_generic(const SpmModel& model, TokenizerArguments& arguments) {
  const auto unknown = std::find_if(model.pieces.begin(), model.pieces.end(),
                                    [](const SpmPiece& p) { return p.type == PieceType::kUnknown; });
  const auto has = [&](const std::string& text) {
    return std::any_of(model.pieces.begin(), model.pieces.end(),
                       [&](const SpmPiece& p) { return p.text == text; });
  };
  if (has(model.bos_piece)) static_cast<void>(arguments.token_or("bos_token", model.bos_piece));
  if (has(model.eos_piece)) static_cast<void>(arguments.token_or("eos_token", model.eos_piece));
  static_cast<void>(arguments.token_or("unk_token", unknown->text));
  const bool as_unigram = model.type == SpmType::kUnigram;
  TokenizerVocabulary vocabulary = vocabulary_of(model, as_unigram);
  Json normalizers = Json::array();
  if (!vocabulary.charsmap.is_null())
    normalizers.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", vocabulary.charsmap}});
  normalizers.push_back(replace(" ", "▁"));
  Json decoder = sequence("decoders", Json::array({replace("▁", " ")}));
  if (model.byte_fallback) decoder = byte_fallback_decoder(false);
  Json made;
  if (as_unigram)
    made = {{"type", "Unigram"},
            {"unk_id", unknown - model.pieces.begin()},
            {"vocab", std::move(vocabulary.vocab)},
            {"byte_fallback", model.byte_fallback}};
  else
    made = bpe(std::move(vocabulary), unknown->text, true, model.byte_fallback);
  return {{"model", std::move(made)},
          {"normalizer", sequence("normalizers", std::move(normalizers))},
          {"pre_tokenizer", nullptr},
          {"decoder", std::move(decoder)}};
}

const char* model_type_of(TokenizerRule rule) {
  if (rule == TokenizerRule::kBert) return "WordPiece";
  const bool unigram = rule == TokenizerRule::kXlmRoberta || rule == TokenizerRule::kCamembert;
  return unigram ? "Unigram" : "BPE";
}

Json frame_with(const TemplateToken& bos, const TemplateToken& eos) {
  Json single = Json::array();
  Json second = Json::array();
  for (const auto& [list, name, type] : {std::tuple(&single, "A", 0), std::tuple(&second, "B", 1)}) {
    if (bos) list->push_back(special(*bos, type));
    list->push_back(text_of(name, type));
    if (eos) list->push_back(special(*eos, type));
  }
  Json pair = single;
  for (const Json& item : second) pair.push_back(item);
  return processing(std::move(single), std::move(pair), {&bos, &eos});
}

Json bert_frame(const TemplateToken& cls, const TemplateToken& sep) {
  const Json single = Json::array({special(*cls, 0), text_of("A", 0), special(*sep, 0)});
  Json pair = single;
  pair.push_back(text_of("B", 1));
  pair.push_back(special(*sep, 1));
  return processing(single, std::move(pair), {&cls, &sep});
}

Json roberta_frame(const TemplateToken& cls, const TemplateToken& sep) {
  const Json single = Json::array({special(*cls, 0), text_of("A", 0), special(*sep, 0)});
  Json pair = single;
  for (const Json& item : {special(*sep, 0), text_of("B", 0), special(*sep, 0)}) pair.push_back(item);
  return processing(single, std::move(pair), {&cls, &sep});
}

}  // namespace bitrain::text
