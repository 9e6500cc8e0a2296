#include <bitrain/text/hf_tokenizer.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/text/added_tokens.h>
#include <bitrain/text/hf_decoder.h>
#include <bitrain/text/hf_model.h>
#include <bitrain/text/hf_normalizer.h>
#include <bitrain/text/hf_post_processor.h>
#include <bitrain/text/hf_pre_tokenizer.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/saved_folder.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

using io::Json;

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

SpecialSpellings special_spellings(const Json& json) {
  SpecialSpellings special;
  const auto added = json.find("added_tokens");
  if (added == json.end() || !added->is_array()) return special;
  for (const Json& token : *added)
    if (token.is_object() && token.value("special", Json()) == true &&
        token.value("content", Json()).is_string())
      special.insert(token["content"].get<std::string>());
  return special;
}

}  // namespace

struct HfTokenizer::State {
  State(std::string text, const Json& json, Json roles, std::string file)
      : bytes(std::move(text)), config(std::move(roles)), name(std::move(file)) {
    if (!json.is_object()) throw FormatError(name, ": not a tokenizer: no object");
    normalizer = make_normalizer(member(json, "normalizer", name), name);
    pre_tokenizer = make_pre_tokenizer(member(json, "pre_tokenizer", name), name);
    const bool byte_level = pre_tokenizer != nullptr && pre_tokenizer->byte_level();
    model = make_word_model(member(json, "model", name), byte_level, special_spellings(json), name);
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
      const AddedToken& token = added.emplace_back(read_added_token(json, where));
      add_piece(token.id, token.content);
      added_ids[token.content] = token.id;
      if (token.special) special_ids.insert(token.id);
      if (token.normalized) {  // Looked for behind the others, without a normaliser too.
        AlignedText spelling;
        spelling.text = token.content;
        if (normalizer != nullptr) normalizer->apply(spelling);
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
    if (config.is_object())
      splits_special_tokens =
          optional_field<bool>(config, "split_special_tokens", name + ": configuration").value_or(false);
  }

  /// Cuts a text: calls on_added(token, text, begin, end) for added tokens and on_words(words) for what lies
  /// between, from left to right. The texts map their bytes back to the input where `tracked`. Special tokens
  /// count inside `markup` only; null for nowhere.
  template <class OnAdded, class OnWords>
  void cut(std::string_view input, bool tracked, const std::vector<Offset>* markup, OnAdded&& on_added,
           OnWords&& on_words) const {
    tracked = tracked || markup != nullptr || (pre_tokenizer != nullptr && pre_tokenizer->needs_start());
    AlignedText text = valid_text(input, tracked);
    const bool specials = markup != nullptr;
    const auto marked_in = [markup](const AlignedText& from) {
      return [markup, &from](std::size_t begin, std::size_t end) {
        return inside(*markup, from.origin_of(begin, end));
      };
    };
    raw_tokens.split(text.text, specials, marked_in(text),
                     [&](std::size_t begin, std::size_t end, const AddedToken* token) {
                       if (token != nullptr) return on_added(*token, text, begin, end);
                       AlignedText part =
                           begin == 0 && end == text.text.size() ? std::move(text) : slice(text, begin, end);
                       if (normalizer != nullptr) normalizer->apply(part);
                       normalized_tokens.split(
                           part.text, specials, marked_in(part),
                           [&](std::size_t from, std::size_t to, const AddedToken* inner) {
                             if (inner != nullptr) return on_added(*inner, part, from, to);
                             Words words;
                             words.text = from == 0 && to == part.text.size() ? std::move(part)
                                                                              : slice(part, from, to);
                             words.at_start = tracked && words.text.origin.front().begin == 0;
                             words.ranges.emplace_back(0, words.text.text.size());
                             if (pre_tokenizer != nullptr) pre_tokenizer->apply(words);
                             on_words(words);
                           });
                     });
  }

  /// Calls emit(id, text, begin, end) for every token.
  template <class Emit>
  void tokenize(std::string_view input, bool tracked, const std::vector<Offset>* markup, Emit&& emit) const {
    thread_local std::vector<WordModel::Token> tokens;
    cut(
        input, tracked, markup,
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

  [[nodiscard]] Encoding encode(std::string_view text, const std::vector<Offset>* markup) const {
    Encoding encoding;
    tokenize(text, true, markup,
             [&](TokenId id, const AlignedText& from, std::size_t begin, std::size_t end) {
               encoding.ids.push_back(id);
               encoding.offsets.push_back(from.origin_of(begin, end));
             });
    return encoding;
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
  std::unique_ptr<const Normalizer> normalizer;
  std::unique_ptr<const PreTokenizer> pre_tokenizer;
  std::unique_ptr<const WordModel> model;
  std::unique_ptr<const Decoder> decoder;
  InputTemplate input_template;
  AddedTokenSplitter raw_tokens;
  AddedTokenSplitter normalized_tokens;
  std::unordered_map<TokenId, std::string> pieces;
  std::vector<AddedToken> added;
  std::unordered_map<std::string, TokenId> added_ids;
  std::unordered_set<TokenId> special_ids;
  SpecialTokens special;
  bool splits_special_tokens = false;  ///< Their spellings are never tokens: "split_special_tokens".
  std::int64_t vocab_size = 0;
  std::shared_ptr<const TokenizerFolder> folder;
  TokenizerClass made_by;
  bool as_read = true;   ///< This is the tokenizer that was read from the folder.
  bool generic = false;  ///< Its class would build another one.
};

HfTokenizer::HfTokenizer(std::string_view tokenizer_json, const Json& config, const std::string& name)
    : state_(std::make_unique<State>(std::string(tokenizer_json), io::parse_json(tokenizer_json, name),
                                     config, name)) {}

HfTokenizer::HfTokenizer(AutoTokenizer made, std::shared_ptr<const TokenizerFolder> folder) {
  Json config = std::move(made.roles);
  if (folder != nullptr && folder->config.contains("split_special_tokens"))
    config["split_special_tokens"] = folder->config["split_special_tokens"];
  state_ = std::make_unique<State>(std::move(made.bytes), made.json, std::move(config), made.file);
  state_->made_by = std::move(made.made_by);
  state_->folder = std::move(folder);
}

HfTokenizer::~HfTokenizer() = default;

std::int64_t HfTokenizer::vocab_size() const {
  return state_->vocab_size;
}

const SpecialTokens& HfTokenizer::special_tokens() const {
  return state_->special;
}

const std::vector<AddedToken>& HfTokenizer::added_tokens() const {
  return state_->added;
}

const std::string& HfTokenizer::json() const {
  return state_->bytes;
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
  state_->tokenize(text, false, nullptr,
                   [&](TokenId id, const AlignedText&, std::size_t, std::size_t) { ids.push_back(id); });
  return ids;
}

Encoding HfTokenizer::encode_with_offsets(std::string_view text) const {
  return state_->encode(text, nullptr);
}

Encoding HfTokenizer::encode_markup(std::string_view text, const std::vector<Offset>& markup) const {
  return state_->encode(text, state_->splits_special_tokens ? nullptr : &markup);
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
      text, false, nullptr, [](const AddedToken&, const AlignedText&, std::size_t, std::size_t) {},
      [&](const Words& part) {
        for (const auto& [begin, end] : part.ranges)
          words.push_back(part.text.text.substr(begin, end - begin));
      });
  return words;
}

std::string HfTokenizer::model_difference() const {
  return state_->folder == nullptr ? "" : state_->folder->model_difference;
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
  // Added tokens behind the vocabulary join it, so that ids go on without a gap.
  for (const AddedToken& token : state_->added)
    if (state_->model->vocabulary().count(token.content) == 0)
      vocabulary.Container::emplace_back(token.content, token.id);
  std::unordered_set<std::string_view> fresh;
  std::int64_t id = vocab_size();
  for (const std::string& piece : pieces) {
    if (piece.empty() || find_invalid_utf8(piece) != std::string_view::npos)
      throw DataError("a piece to add is empty or not UTF-8");
    if (piece_to_id(piece) || !fresh.insert(piece).second)
      throw DataError("the piece '", piece, "' is in the vocabulary already");
    vocabulary.Container::emplace_back(piece, id++);
  }
  return changed(std::move(json), state_->generic);
}

std::shared_ptr<const HfTokenizer> HfTokenizer::changed(Json json, bool generic) const {
  std::string text = json.dump() + "\n";
  auto result = std::make_shared<HfTokenizer>(text, state_->config, state_->name);
  result->state_->folder = state_->folder;
  result->state_->made_by = state_->made_by;
  result->state_->as_read = false;
  result->state_->generic = generic;
  return result;
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
  return changed(std::move(json), /*generic=*/true);
}

void HfTokenizer::save(const std::filesystem::path& dir) const {
  const State& state = *state_;
  SavedFolder saved;
  saved.folder = state.folder;
  saved.tokenizer_class = state.generic ? kGenericClass : state.made_by.name;
  saved.must_have_class = state.generic;
  for (const auto& [key, id] : state.roles())
    if (id && (state.folder == nullptr || state.config.contains(key))) saved.roles[key] = id_to_piece(*id);
  if (state.folder == nullptr && state.config.is_object()) saved.config = state.config;
  const bool as_read = state.folder != nullptr && state.as_read;
  if (as_read) saved.vocabulary = state.folder->vocabulary;
  if (wordpiece() != nullptr && saved.vocabulary.count("vocab.txt") == 0)
    if (auto lines = vocabulary_lines(state.pieces, vocab_size()))
      saved.vocabulary["vocab.txt"] = std::move(*lines);
  // A class that reads a SentencePiece model or vocab.json heeds other flags beside a tokenizer.json.
  const bool may_add = !as_read || state.folder->has_json || wordpiece() != nullptr;
  if (may_add) saved.vocabulary.try_emplace("tokenizer.json", state.bytes);
  write_saved_folder(dir, saved);
}

std::shared_ptr<const HfTokenizer> make_hf_tokenizer(std::string_view tokenizer_json, const Json& config,
                                                     const std::string& name) {
  return std::make_shared<const HfTokenizer>(tokenizer_json, config, name);
}

}  // namespace bitrain::text
