#include <bitrain/text/hf_tokenizer.h>

#include <algorithm>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/text/byte_trie.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/hf_decoder.h>
#include <bitrain/text/hf_model.h>
#include <bitrain/text/hf_normalizer.h>
#include <bitrain/text/hf_pre_tokenizer.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

using io::Json;

/// A token of its own beside the model's.
struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool special = false;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
};

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

bool is_space_before(std::string_view text, std::size_t at, std::size_t& begin) {
  if (at == 0) return false;
  begin = at - 1;
  while (begin > 0 && (static_cast<std::uint8_t>(text[begin]) & 0xC0U) == 0x80U) --begin;
  return class_of(utf8_at(text, begin).code) == CharacterClass::kSpace;
}

bool is_word_character(std::uint32_t code) {
  const CharacterClass kind = class_of(code);
  return code == '_' || kind == CharacterClass::kLetter || kind == CharacterClass::kDigit ||
         kind == CharacterClass::kMark;
}

/// Cuts texts at added tokens, the longest at each place from left to right.
class AddedTokenSplitter {
 public:
  void add(const AddedToken& token, std::string_view spelling) {
    if (spelling.empty()) return;
    trie_.add(spelling, static_cast<std::int32_t>(tokens_.size()));
    tokens_.push_back(token);
  }

  /// Calls part(begin, end, token) from left to right; null for the text between.
  template <class Part>
  void split(std::string_view text, Part&& part) const {
    std::size_t done = 0;
    if (!trie_.empty()) {
      for (std::size_t at = 0; at < text.size();) {
        const auto [length, index] = trie_.longest(text, at);
        const std::size_t end = at + length;
        if (length == 0 ||
            (tokens_[static_cast<std::size_t>(index)].single_word && !stands_alone(text, at, end))) {
          at += length == 0 ? utf8_at(text, at).length : length;
          continue;
        }
        const AddedToken& token = tokens_[static_cast<std::size_t>(index)];
        std::size_t from = at;
        std::size_t to = end;
        for (std::size_t begin = 0; token.lstrip && from > done && is_space_before(text, from, begin);)
          from = begin;
        while (token.rstrip && to < text.size() && class_of(utf8_at(text, to).code) == CharacterClass::kSpace)
          to += utf8_at(text, to).length;
        if (from > done) part(done, from, static_cast<const AddedToken*>(nullptr));
        part(from, to, &token);
        done = at = to;
      }
    }
    if (done < text.size()) part(done, text.size(), static_cast<const AddedToken*>(nullptr));
  }

 private:
  static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    std::size_t before = begin;
    static_cast<void>(is_space_before(text, begin, before));
    return (begin == 0 || !is_word_character(utf8_at(text, before).code)) &&
           (end == text.size() || !is_word_character(utf8_at(text, end).code));
  }

  ByteTrie trie_;
  std::vector<AddedToken> tokens_;
};

/// The spelling of a special token in a configuration: a string, or an object with "content".
std::optional<std::string> spelling_of(const Json& config, const char* key, const std::string& where) {
  const Json& value = member(config, key, where);
  if (value.is_null()) return std::nullopt;
  if (value.is_object()) return field<std::string>(value, "content", where + ": " + key);
  if (!value.is_string()) throw FormatError(where, ": '", key, "' is not a token");
  return value.get<std::string>();
}

class HfTokenizer : public Tokenizer {
 public:
  HfTokenizer(std::string_view bytes, const Json& config, const std::string& name)
      : bytes_(bytes), config_(config) {
    const Json json = io::parse_json(bytes, name);
    if (!json.is_object()) throw FormatError(name, ": not a tokenizer: no object");
    normalizer_ = make_normalizer(member(json, "normalizer", name), name);
    pre_tokenizer_ = make_pre_tokenizer(member(json, "pre_tokenizer", name), name);
    byte_level_ = pre_tokenizer_ != nullptr && pre_tokenizer_->byte_level();
    model_ = make_word_model(member(json, "model", name), byte_level_, name);
    decoder_ = make_decoder(member(json, "decoder", name), name);
    check_post_processor(member(json, "post_processor", name), name + ": post_processor");
    for (const auto& [token, id] : model_->vocabulary()) add_piece(id, token);
    read_added_tokens(member(json, "added_tokens", name), name + ": added_tokens");
    read_special_tokens(config, name);
  }

  [[nodiscard]] std::int64_t vocab_size() const override { return vocab_size_; }
  [[nodiscard]] const SpecialTokens& special_tokens() const override { return special_; }

  [[nodiscard]] std::vector<TokenId> encode(std::string_view text) const override {
    std::vector<TokenId> ids;
    ids.reserve(text.size() / 3 + 4);
    tokenize(text, false,
             [&](TokenId id, const AlignedText&, std::size_t, std::size_t) { ids.push_back(id); });
    return ids;
  }

  [[nodiscard]] Encoding encode_with_offsets(std::string_view text) const override {
    Encoding encoding;
    tokenize(text, true, [&](TokenId id, const AlignedText& from, std::size_t begin, std::size_t end) {
      encoding.ids.push_back(id);
      encoding.offsets.push_back(from.origin_of(begin, end));
    });
    return encoding;
  }

  [[nodiscard]] std::string decode(const std::vector<TokenId>& ids) const override {
    std::vector<std::string> tokens;
    for (const TokenId id : ids) {
      std::string piece = id_to_piece(id);
      if (special_ids_.count(id) == 0) tokens.push_back(std::move(piece));
    }
    if (decoder_ == nullptr) return join(tokens, " ");
    decoder_->apply(tokens);
    return replace_invalid_utf8(join(tokens, ""));
  }

  [[nodiscard]] std::string id_to_piece(TokenId id) const override {
    const auto found = pieces_.find(id);
    if (found == pieces_.end())
      throw DataError("the id ", id, " is not one of the ", pieces_.size(), " tokens of the vocabulary");
    return found->second;
  }

  [[nodiscard]] std::optional<TokenId> piece_to_id(std::string_view piece) const override {
    const std::string key(piece);
    if (const auto found = added_ids_.find(key); found != added_ids_.end()) return found->second;
    const auto found = model_->vocabulary().find(key);
    if (found == model_->vocabulary().end()) return std::nullopt;
    return found->second;
  }

  void save(const std::filesystem::path& dir) const override {
    io::write_file_atomic(dir / "tokenizer.json", bytes_);
    Json config = config_.is_object() ? config_ : Json::object();
    Json map = Json::object();
    const std::pair<const char*, std::optional<TokenId>> roles[] = {{"bos_token", special_.bos},
                                                                    {"eos_token", special_.eos},
                                                                    {"unk_token", special_.unk},
                                                                    {"pad_token", special_.pad}};
    for (const auto& [key, id] : roles) {
      if (!id) continue;
      map[key] = id_to_piece(*id);
      if (!config.contains(key)) config[key] = id_to_piece(*id);
    }
    if (!config.contains("tokenizer_class")) config["tokenizer_class"] = "PreTrainedTokenizerFast";
    io::write_json(dir / "tokenizer_config.json", config);
    io::write_json(dir / "special_tokens_map.json", map);
  }

 private:
  void add_piece(TokenId id, const std::string& piece) {
    pieces_[id] = piece;
    vocab_size_ = std::max<std::int64_t>(vocab_size_, id + 1);
  }

  /// BOS and EOS are not encode()'s business, so it is enough that nothing unknown is asked for.
  static void check_post_processor(const Json& json, const std::string& where) {
    if (json.is_null()) return;
    const auto type = field<std::string>(json, "type", where);
    if (type == "Sequence") {
      const Json& list = member(json, "processors", where);
      if (!list.is_array()) throw FormatError(where, ": 'processors' is not a list");
      for (const Json& step : list) check_post_processor(step, where);
      return;
    }
    if (type != "TemplateProcessing" && type != "ByteLevel" && type != "BertProcessing" &&
        type != "RobertaProcessing")
      throw UnsupportedError(where, ": the type '", type, "' is not supported");
  }

  void read_added_tokens(const Json& list, const std::string& where) {
    if (list.is_null()) return;
    if (!list.is_array()) throw FormatError(where, ": not a list");
    for (const Json& json : list) {
      const AddedToken token = read_added_token(json, where);
      add_piece(token.id, token.content);
      added_ids_[token.content] = token.id;
      if (token.special) {  // Its spelling in a text is plain text.
        special_ids_.emplace(token.id, token.content);
        continue;
      }
      if (token.normalized && normalizer_ != nullptr) {
        AlignedText spelling;
        spelling.text = token.content;
        normalizer_->apply(spelling);
        normalized_tokens_.add(token, spelling.text);
      } else {
        raw_tokens_.add(token, token.content);
      }
    }
  }

  void read_special_tokens(const Json& config, const std::string& name) {
    const auto id_of = [&](const char* key) -> std::optional<TokenId> {
      if (!config.is_object()) return std::nullopt;
      const auto spelling = spelling_of(config, key, name + ": configuration");
      return spelling ? piece_to_id(*spelling) : std::nullopt;
    };
    special_ = {id_of("bos_token"), id_of("eos_token"), id_of("unk_token"), id_of("pad_token")};
    if (!special_.unk) special_.unk = model_->unknown();
  }

  /// Calls emit(id, text, begin, end) for every token; `text` maps its bytes back to the input.
  template <class Emit>
  void tokenize(std::string_view input, bool tracked, Emit&& emit) const {
    tracked = tracked || (pre_tokenizer_ != nullptr && pre_tokenizer_->needs_start());
    AlignedText text = valid_text(input, tracked);
    raw_tokens_.split(text.text, [&](std::size_t begin, std::size_t end, const AddedToken* token) {
      if (token != nullptr) return emit(token->id, text, begin, end);
      Rewriter rewriter(text);
      rewriter.keep(begin, end);
      AlignedText part = rewriter.take();
      if (normalizer_ != nullptr) normalizer_->apply(part);
      normalized_tokens_.split(part.text, [&](std::size_t from, std::size_t to, const AddedToken* inner) {
        if (inner != nullptr) return emit(inner->id, part, from, to);
        Words words;
        if (from == 0 && to == part.text.size()) {
          words.text = std::move(part);
        } else {
          Rewriter cut(part);
          cut.keep(from, to);
          words.text = cut.take();
        }
        words.at_start = tracked && words.text.origin.front().begin == 0;
        encode_words(std::move(words), emit);
      });
    });
  }

  template <class Emit>
  void encode_words(Words words, Emit&& emit) const {
    words.ranges.emplace_back(0, words.text.text.size());
    if (pre_tokenizer_ != nullptr) pre_tokenizer_->apply(words);
    thread_local std::vector<WordModel::Token> tokens;
    for (const auto& [begin, end] : words.ranges) {
      tokens.clear();
      model_->encode(words.text.view().substr(begin, end - begin), tokens);
      std::size_t at = begin;
      for (const WordModel::Token& token : tokens) {
        emit(token.id, words.text, at, at + token.length);
        at += token.length;
      }
    }
  }

  static AlignedText valid_text(std::string_view input, bool tracked) {
    AlignedText text;
    text.tracked = tracked;
    if (find_invalid_utf8(input) == std::string_view::npos) {
      text.text = std::string(input);
      if (tracked) {
        text.origin.resize(input.size());
        for (std::size_t i = 0; i < input.size(); ++i)
          text.origin[i] = {static_cast<std::int32_t>(i), static_cast<std::int32_t>(i + 1)};
      }
      return text;
    }
    for (std::size_t at = 0; at < input.size();) {
      const Utf8Char c = utf8_at(input, at);
      text.text += c.valid ? input.substr(at, c.length) : kReplacement;
      for (std::size_t i = 0; tracked && i < (c.valid ? c.length : kReplacement.size()); ++i) {
        const auto from = static_cast<std::int32_t>(c.valid ? at + i : at);
        text.origin.push_back({from, from + 1});
      }
      at += c.length;
    }
    return text;
  }

  std::string bytes_;
  Json config_;
  std::unique_ptr<const Normalizer> normalizer_;
  std::unique_ptr<const PreTokenizer> pre_tokenizer_;
  std::unique_ptr<const WordModel> model_;
  std::unique_ptr<const Decoder> decoder_;
  bool byte_level_ = false;
  AddedTokenSplitter raw_tokens_;
  AddedTokenSplitter normalized_tokens_;
  std::unordered_map<TokenId, std::string> pieces_;
  std::unordered_map<std::string, TokenId> added_ids_;
  std::unordered_map<TokenId, std::string> special_ids_;
  SpecialTokens special_;
  std::int64_t vocab_size_ = 0;
};

}  // namespace

std::shared_ptr<const Tokenizer> make_hf_tokenizer(std::string_view tokenizer_json, const Json& config,
                                                   const std::string& name) {
  return std::make_shared<const HfTokenizer>(tokenizer_json, config, name);
}

std::shared_ptr<const Tokenizer> open_hf_tokenizer(const std::filesystem::path& dir) {
  Json config = Json::object();
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {  // The latter wins.
    std::error_code ignored;
    if (!std::filesystem::exists(dir / file, ignored)) continue;
    const Json more = io::read_json(dir / file);
    if (!more.is_object()) throw FormatError((dir / file).string(), ": not an object");
    config.update(more);
  }
  const std::filesystem::path path = dir / "tokenizer.json";
  return make_hf_tokenizer(io::read_file(path), config, path.string());
}

}  // namespace bitrain::text
