#include <bitrain/text/hf_tokenizer.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/text/bert_vocabulary.h>
#include <bitrain/text/byte_trie.h>
#include <bitrain/text/characters.h>
#include <bitrain/text/hf_decoder.h>
#include <bitrain/text/hf_model.h>
#include <bitrain/text/hf_normalizer.h>
#include <bitrain/text/hf_post_processor.h>
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

/// The pieces of a WordPiece vocabulary as the lines of a vocab.txt, nothing where an id is missing.
std::optional<std::string> vocabulary_lines(const std::unordered_map<TokenId, std::string>& pieces,
                                            std::int64_t vocab_size) {
  std::string lines;
  for (TokenId id = 0; id < vocab_size; ++id) {
    const auto found = pieces.find(id);
    if (found == pieces.end() || found->second.find('\n') != std::string::npos) return std::nullopt;
    lines += found->second + "\n";
  }
  return lines;
}

/// transformers' BertTokenizer builds its normaliser from the configuration, whatever tokenizer.json says.
void copy_bert_settings(const Json& normalizer, Json& config) {
  if (!normalizer.is_object() || normalizer.value("type", "") != "BertNormalizer") return;
  const std::pair<const char*, const char*> settings[] = {{"do_lower_case", "lowercase"},
                                                          {"strip_accents", "strip_accents"},
                                                          {"tokenize_chinese_chars", "handle_chinese_chars"}};
  for (const auto& [to, from] : settings) config[to] = normalizer.contains(from) ? normalizer[from] : Json();
}

}  // namespace

struct HfTokenizer::State {
  State(std::string_view tokenizer_json, const Json& configuration, std::string file)
      : bytes(tokenizer_json), config(configuration), name(std::move(file)) {
    const Json json = io::parse_json(bytes, name);
    if (!json.is_object()) throw FormatError(name, ": not a tokenizer: no object");
    normalizer_json = member(json, "normalizer", name);
    normalizer = make_normalizer(normalizer_json, name);
    pre_tokenizer = make_pre_tokenizer(member(json, "pre_tokenizer", name), name);
    const bool byte_level = pre_tokenizer != nullptr && pre_tokenizer->byte_level();
    model = make_word_model(member(json, "model", name), byte_level, name);
    decoder = make_decoder(member(json, "decoder", name), name);
    input_template = make_input_template(member(json, "post_processor", name), name);
    for (const auto& [token, id] : model->vocabulary()) add_piece(id, token);
    read_added_tokens(member(json, "added_tokens", name), name + ": added_tokens");
    for (const auto* items : {&input_template.single, &input_template.pair}) {
      for (const InputTemplate::Item& item : *items) {
        if (item.kind == InputTemplate::Kind::kSpecial && pieces.count(item.id) == 0)
          throw FormatError(name, ": post_processor: the id ", item.id, " is not in the vocabulary");
      }
    }
    read_special_tokens();
  }

  [[nodiscard]] std::string piece(TokenId id) const {
    const auto found = pieces.find(id);
    if (found == pieces.end())
      throw DataError("the id ", id, " is not one of the ", pieces.size(), " tokens of the vocabulary");
    return found->second;
  }

  [[nodiscard]] std::optional<TokenId> id_of(std::string_view piece) const {
    const std::string key(piece);
    if (const auto found = added_ids.find(key); found != added_ids.end()) return found->second;
    const auto found = model->vocabulary().find(key);
    if (found == model->vocabulary().end()) return std::nullopt;
    return found->second;
  }

  [[nodiscard]] std::array<std::pair<const char*, std::optional<TokenId>>, 7> roles() const {
    return {{{"bos_token", special.bos},
             {"eos_token", special.eos},
             {"unk_token", special.unk},
             {"pad_token", special.pad},
             {"cls_token", special.cls},
             {"sep_token", special.sep},
             {"mask_token", special.mask}}};
  }

  void add_piece(TokenId id, const std::string& piece) {
    pieces[id] = piece;
    vocab_size = std::max<std::int64_t>(vocab_size, id + 1);
  }

  void read_added_tokens(const Json& list, const std::string& where) {
    if (list.is_null()) return;
    if (!list.is_array()) throw FormatError(where, ": not a list");
    for (const Json& json : list) {
      const AddedToken token = read_added_token(json, where);
      add_piece(token.id, token.content);
      added_ids[token.content] = token.id;
      if (token.special) {  // Its spelling in a text is plain text.
        special_ids.insert(token.id);
        continue;
      }
      if (token.normalized && normalizer != nullptr) {
        AlignedText spelling;
        spelling.text = token.content;
        normalizer->apply(spelling);
        normalized_tokens.add(token, spelling.text);
      } else {
        raw_tokens.add(token, token.content);
      }
    }
  }

  void read_special_tokens() {
    const auto id_in_config = [&](const char* key) -> std::optional<TokenId> {
      if (!config.is_object()) return std::nullopt;
      const auto spelling = spelling_of(config, key, name + ": configuration");
      return spelling ? id_of(*spelling) : std::nullopt;
    };
    special = {id_in_config("bos_token"), id_in_config("eos_token"), id_in_config("unk_token"),
               id_in_config("pad_token"), id_in_config("cls_token"), id_in_config("sep_token"),
               id_in_config("mask_token")};
    if (!special.unk) special.unk = model->unknown();
  }

  /// Cuts a text: calls on_added(token, text, begin, end) for added tokens and on_words(words) for what lies
  /// between, from left to right. The texts map their bytes back to the input where `tracked`.
  template <class OnAdded, class OnWords>
  void cut(std::string_view input, bool tracked, OnAdded&& on_added, OnWords&& on_words) const {
    tracked = tracked || (pre_tokenizer != nullptr && pre_tokenizer->needs_start());
    AlignedText text = valid_text(input, tracked);
    raw_tokens.split(text.text, [&](std::size_t begin, std::size_t end, const AddedToken* token) {
      if (token != nullptr) return on_added(*token, text, begin, end);
      AlignedText part = begin == 0 && end == text.text.size() ? std::move(text) : slice(text, begin, end);
      if (normalizer != nullptr) normalizer->apply(part);
      normalized_tokens.split(part.text, [&](std::size_t from, std::size_t to, const AddedToken* inner) {
        if (inner != nullptr) return on_added(*inner, part, from, to);
        Words words;
        words.text = from == 0 && to == part.text.size() ? std::move(part) : slice(part, from, to);
        words.at_start = tracked && words.text.origin.front().begin == 0;
        words.ranges.emplace_back(0, words.text.text.size());
        if (pre_tokenizer != nullptr) pre_tokenizer->apply(words);
        on_words(words);
      });
    });
  }

  /// Calls emit(id, text, begin, end) for every token.
  template <class Emit>
  void tokenize(std::string_view input, bool tracked, Emit&& emit) const {
    thread_local std::vector<WordModel::Token> tokens;
    cut(
        input, tracked,
        [&](const AddedToken& token, const AlignedText& text, std::size_t begin, std::size_t end) {
          emit(token.id, text, begin, end);
        },
        [&](const Words& words) {
          for (const auto& [begin, end] : words.ranges) {
            tokens.clear();
            model->encode(words.text.view().substr(begin, end - begin), tokens);
            std::size_t at = begin;
            for (const WordModel::Token& token : tokens) {
              emit(token.id, words.text, at, at + token.length);
              at += token.length;
            }
          }
        });
  }

  static AlignedText slice(const AlignedText& text, std::size_t begin, std::size_t end) {
    Rewriter rewriter(text);
    rewriter.keep(begin, end);
    return rewriter.take();
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

  std::string bytes;
  Json config;
  std::string name;
  Json normalizer_json;
  std::unique_ptr<const Normalizer> normalizer;
  std::unique_ptr<const PreTokenizer> pre_tokenizer;
  std::unique_ptr<const WordModel> model;
  std::unique_ptr<const Decoder> decoder;
  InputTemplate input_template;
  AddedTokenSplitter raw_tokens;
  AddedTokenSplitter normalized_tokens;
  std::unordered_map<TokenId, std::string> pieces;
  std::unordered_map<std::string, TokenId> added_ids;
  std::unordered_set<TokenId> special_ids;
  SpecialTokens special;
  std::int64_t vocab_size = 0;
};

HfTokenizer::HfTokenizer(std::string_view tokenizer_json, const Json& config, const std::string& name)
    : state_(std::make_unique<const State>(tokenizer_json, config, name)) {}

HfTokenizer::~HfTokenizer() = default;

std::int64_t HfTokenizer::vocab_size() const {
  return state_->vocab_size;
}

const SpecialTokens& HfTokenizer::special_tokens() const {
  return state_->special;
}

const InputTemplate& HfTokenizer::input_template() const {
  return state_->input_template;
}

std::string HfTokenizer::id_to_piece(TokenId id) const {
  return state_->piece(id);
}

std::optional<TokenId> HfTokenizer::piece_to_id(std::string_view piece) const {
  return state_->id_of(piece);
}

std::vector<TokenId> HfTokenizer::encode(std::string_view text) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 4);
  state_->tokenize(text, false,
                   [&](TokenId id, const AlignedText&, std::size_t, std::size_t) { ids.push_back(id); });
  return ids;
}

Encoding HfTokenizer::encode_with_offsets(std::string_view text) const {
  Encoding encoding;
  state_->tokenize(text, true, [&](TokenId id, const AlignedText& from, std::size_t begin, std::size_t end) {
    encoding.ids.push_back(id);
    encoding.offsets.push_back(from.origin_of(begin, end));
  });
  return encoding;
}

std::string HfTokenizer::decode(const std::vector<TokenId>& ids) const {
  std::vector<std::string> tokens;
  for (const TokenId id : ids) {
    std::string piece = id_to_piece(id);
    if (state_->special_ids.count(id) == 0) tokens.push_back(std::move(piece));
  }
  if (state_->decoder == nullptr) return join(tokens, " ");
  state_->decoder->apply(tokens);
  return replace_invalid_utf8(join(tokens, ""));
}

std::vector<std::string> HfTokenizer::words(std::string_view text) const {
  std::vector<std::string> words;
  state_->cut(
      text, false, [](const AddedToken&, const AlignedText&, std::size_t, std::size_t) {},
      [&](const Words& part) {
        for (const auto& [begin, end] : part.ranges)
          words.push_back(part.text.text.substr(begin, end - begin));
      });
  return words;
}

const WordPieceModel* HfTokenizer::wordpiece() const {
  return dynamic_cast<const WordPieceModel*>(state_->model.get());
}

std::shared_ptr<const HfTokenizer> HfTokenizer::with_pieces(const std::vector<std::string>& pieces) const {
  if (wordpiece() == nullptr)
    throw UnsupportedError(state_->name, ": pieces can be added to a WordPiece tokenizer only");
  Json json = io::parse_json(state_->bytes, state_->name);
  // As a list: an ordered object looks keys up one by one.
  auto& vocabulary = json["model"]["vocab"].get_ref<Json::object_t&>();
  std::unordered_set<std::string_view> fresh;
  std::int64_t id = vocab_size();
  for (const std::string& piece : pieces) {
    if (piece.empty() || find_invalid_utf8(piece) != std::string_view::npos)
      throw DataError("a piece to add is empty or not UTF-8");
    if (piece_to_id(piece) || !fresh.insert(piece).second)
      throw DataError("the piece '", piece, "' is in the vocabulary already");
    vocabulary.Container::emplace_back(piece, id++);
  }
  return make_hf_tokenizer(json.dump(), state_->config, state_->name);
}

std::shared_ptr<const HfTokenizer> HfTokenizer::lower_cased() const {
  Json json = io::parse_json(state_->bytes, state_->name);
  const auto is = [](const Json& step, const char* type) {
    return step.is_object() && step.value("type", "") == type;
  };
  const Json old = json.value("normalizer", Json());
  Json steps = is(old, "Sequence") ? old.at("normalizers")
               : old.is_null()     ? Json::array()
                                   : Json::array({old});
  if (std::none_of(steps.begin(), steps.end(), [&](const Json& step) { return is(step, "Lowercase"); }))
    steps.insert(steps.begin(), Json::object({{"type", "Lowercase"}}));
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  return make_hf_tokenizer(json.dump(), state_->config, state_->name);
}

void HfTokenizer::save(const std::filesystem::path& dir) const {
  io::write_file_atomic(dir / "tokenizer.json", state_->bytes);
  Json config = state_->config.is_object() ? state_->config : Json::object();
  Json map = Json::object();
  for (const auto& [key, id] : state_->roles()) {
    if (!id) continue;
    map[key] = id_to_piece(*id);
    if (!config.contains(key)) config[key] = id_to_piece(*id);
  }
  if (!config.contains("tokenizer_class")) config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (wordpiece() != nullptr) {
    copy_bert_settings(state_->normalizer_json, config);
    if (const auto lines = vocabulary_lines(state_->pieces, vocab_size()))
      io::write_file_atomic(dir / "vocab.txt", *lines);
  }
  io::write_json(dir / "tokenizer_config.json", config);
  io::write_json(dir / "special_tokens_map.json", map);
}

std::shared_ptr<const HfTokenizer> make_hf_tokenizer(std::string_view tokenizer_json, const Json& config,
                                                     const std::string& name) {
  return std::make_shared<const HfTokenizer>(tokenizer_json, config, name);
}

std::shared_ptr<const HfTokenizer> open_hf_tokenizer(const std::filesystem::path& dir) {
  Json config = Json::object();
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {  // The latter wins.
    std::error_code ignored;
    if (!std::filesystem::exists(dir / file, ignored)) continue;
    const Json more = io::read_json(dir / file);
    if (!more.is_object()) throw FormatError((dir / file).string(), ": not an object");
    config.update(more);
  }
  std::error_code ignored;
  const std::filesystem::path path = dir / "tokenizer.json";
  const std::filesystem::path lines = dir / "vocab.txt";
  if (std::filesystem::exists(path, ignored) || !std::filesystem::exists(lines, ignored))
    return make_hf_tokenizer(io::read_file(path), config, path.string());
  const Json json = bert_tokenizer_json(io::read_file(lines), config, lines.string());
  for (const auto& [key, token] : kBertSpecialTokens)
    if (!config.contains(key)) config[key] = token;
  return make_hf_tokenizer(json.dump(), config, lines.string());
}

}  // namespace bitrain::text
