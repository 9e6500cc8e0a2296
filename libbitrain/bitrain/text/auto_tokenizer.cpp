#include <bitrain/text/auto_tokenizer.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/tokenizer_arguments.h>
#include <bitrain/text/tokenizer_rules.h>
#include <bitrain/text/vocabulary_files.h>

namespace bitrain::text {
namespace {

using io::Json;

bool same(const AddedToken& a, const AddedToken& b) {
  return a.content == b.content && a.special == b.special && a.single_word == b.single_word &&
         a.lstrip == b.lstrip && a.rstrip == b.rstrip && a.normalized == b.normalized;
}

/// Added tokens with the ids that `tokenizers` gives them: that of the vocabulary, or the next free one.
class TokenTable {
 public:
  TokenTable(const Json& vocab, const std::string& file) : file_(file) {
    if (vocab.is_object()) {
      for (const auto& [piece, id] : vocab.items())
        if (id.is_number_integer()) ids_.emplace(piece, id.get<std::int64_t>());
    } else if (vocab.is_array()) {
      for (const Json& entry : vocab)
        if (entry.is_array() && !entry.empty() && entry[0].is_string())
          ids_.emplace(entry[0].get<std::string>(), static_cast<std::int64_t>(size_++));
    }
    size_ = std::max<std::int64_t>(size_, static_cast<std::int64_t>(ids_.size()));
    for (const auto& [piece, id] : ids_) end_ = std::max(end_, id + 1);
  }

  [[nodiscard]] std::optional<std::int64_t> id_of(const std::string& text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  [[nodiscard]] bool has(const AddedToken& token) const {
    const auto found = places_.find(token.content);
    return found != places_.end() && same(token, tokens_[found->second]);
  }
  [[nodiscard]] bool is_added(const std::string& text) const { return places_.count(text) != 0; }
  /// Ids of the vocabulary alone.
  [[nodiscard]] std::int64_t size() const { return size_; }

  void add(AddedToken token) {
    if (token.content.empty()) return;
    if (const auto found = places_.find(token.content); found != places_.end()) {
      AddedToken& old = tokens_[found->second];  // Gets new properties; once special is always special.
      token.id = old.id;
      token.special = token.special || old.special;
      changed_ = changed_ || !same(token, old);
      old = std::move(token);
      return;
    }
    const std::int64_t next = std::max(size_, next_);
    const auto [place, is_new] = ids_.emplace(token.content, next);
    if (is_new && next < end_)
      throw ConfigError(file_, ": has ", size_, " tokens but ids up to ", end_ - 1,
                        ": AutoTokenizer would give the added token '", token.content, "' the id ", next,
                        ", which is another token's; list it in the vocabulary");
    token.id = static_cast<TokenId>(place->second);
    next_ = std::max(next_, place->second + 1);
    places_.emplace(token.content, tokens_.size());
    tokens_.push_back(std::move(token));
    changed_ = true;
  }

  /// Whether tokens came or changed since the last call.
  bool take_changed() { return std::exchange(changed_, false); }

  [[nodiscard]] Json json() const {
    std::vector<const AddedToken*> sorted;
    for (const AddedToken& token : tokens_) sorted.push_back(&token);
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const AddedToken* a, const AddedToken* b) { return a->id < b->id; });
    Json list = Json::array();
    for (const AddedToken* token : sorted)
      list.push_back({{"id", token->id},
                      {"content", token->content},
                      {"single_word", token->single_word},
                      {"lstrip", token->lstrip},
                      {"rstrip", token->rstrip},
                      {"normalized", token->normalized},
                      {"special", token->special}});
    return list;
  }

 private:
  const std::string& file_;
  std::unordered_map<std::string, std::int64_t> ids_;
  std::int64_t size_ = 0;
  std::int64_t end_ = 0;  ///< Behind the largest id.
  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, std::size_t> places_;
  std::int64_t next_ = 0;  ///< Behind the largest id of an added token.
  bool changed_ = false;
};

/// The first "Precompiled" of a normaliser, null for none.
Json charsmap_of(const Json& normalizer) {
  if (!normalizer.is_object()) return nullptr;
  const std::string type = normalizer.value("type", "");
  if (type == "Precompiled") return normalizer.value("precompiled_charsmap", Json());
  if (type != "Sequence" || !normalizer.contains("normalizers")) return nullptr;
  for (const Json& step : normalizer["normalizers"])
    if (step.is_object() && step.value("type", "") == "Precompiled")
      return step.value("precompiled_charsmap", Json());
  return nullptr;
}

class Maker {
 public:
  Maker(const TokenizerFolder& folder, const SpmModel* model) : folder_(folder), model_(model) {}

  AutoTokenizer make() {
    has_json_ = folder_.has_json;
    if (has_json_) read_json();
    made_.made_by = tokenizer_class_of(folder_, made_.bytes.find("\"ByteLevel\"") != std::string::npos);
    arguments_ = read_tokenizer_arguments(
        folder_, has_json_ ? member(made_.json, "added_tokens", made_.file) : Json());
    refuse_unknown_class();
    build();
    add_tokens();
    for (const auto& [role, token] : arguments_.named)
      if (token && !token->token.content.empty()) made_.roles[role] = token->token.content;
    if (changed_) made_.replaced = std::exchange(made_.bytes, made_.json.dump() + "\n");
    return std::move(made_);
  }

 private:
  [[nodiscard]] TokenizerRule rule() const { return made_.made_by.rule; }

  void read_json() {
    made_.file = folder_.where("tokenizer.json");
    made_.bytes = io::read_file(folder_.path / "tokenizer.json");
    made_.json = io::parse_json(made_.bytes, made_.file);
    if (!made_.json.is_object()) throw FormatError(made_.file, ": not a tokenizer: no object");
  }

  void refuse_unknown_class() const {
    if (rule() != TokenizerRule::kOther) return;
    throw UnsupportedError(folder_.where(made_.made_by.named_by), ": AutoTokenizer makes a ",
                           made_.made_by.name, " of this folder, by rules that are not known here",
                           has_json_ ? "; if tokenizer.json alone says it all, set 'tokenizer_class' to "
                                       "'PreTrainedTokenizerFast' in tokenizer_config.json"
                                     : "");
  }

  /// Sets the members of made_.json but the added tokens.
  void build() {
    if (has_json_ && rule() == TokenizerRule::kJson) return;
    if (rule() == TokenizerRule::kJson && model_ == nullptr) {  // Beside no class of its own.
      made_.made_by.rule = TokenizerRule::kBert;
      if (made_.made_by.name.empty()) made_.made_by.name = "BertTokenizer";
    }
    changed_ = true;
    if (model_ != nullptr && !has_json_ && !arguments_.extra) take_model_tokens();
    Json parts;
    if (!has_json_ && rule() == TokenizerRule::kJson && model_ != nullptr)
      parts = build_generic(*model_, arguments_);
    else
      parts = build_tokenizer(rule(), read_vocabulary(), folder_, arguments_);
    if (!has_json_)
      made_.json = {
          {"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", Json::array()}};
    for (auto& [key, value] : parts.items()) made_.json[key] = std::move(value);
  }

  TokenizerVocabulary read_vocabulary() {
    if (has_json_) return vocabulary_of_json();
    made_.file = folder_.where(vocabulary_file(rule()));
    switch (rule()) {
      case TokenizerRule::kBert: return read_vocab_txt(folder_);
      case TokenizerRule::kXlmRoberta:
      case TokenizerRule::kCamembert: return fairseq_vocabulary(rule(), *model_, arguments_);
      case TokenizerRule::kLlama:
      case TokenizerRule::kGemma:
        if (model_->type != SpmType::kBpe)
          throw ConfigError(made_.file, " is no BPE model, but ", made_.made_by.named_by, " names the class ",
                            made_.made_by.name, ", which is BPE");
        return vocabulary_of(*model_, /*as_unigram=*/false);
      default: return read_vocab_json(folder_);
    }
  }

  TokenizerVocabulary vocabulary_of_json() {
    Json& model = made_.json["model"];
    if (!model.is_object()) throw FormatError(made_.file, ": 'model' is missing");
    const std::string type = optional_field<std::string>(model, "type", made_.file).value_or("");
    if (!type.empty() && type != model_type_of(rule()))
      throw ConfigError(made_.file, " has a model of type ", type, ", but ", made_.made_by.named_by,
                        " names the class ", made_.made_by.name, ", which makes a ", model_type_of(rule()),
                        " of it; set 'tokenizer_class' to 'PreTrainedTokenizerFast' to take tokenizer.json "
                        "as it stands");
    TokenizerVocabulary result;
    result.vocab = std::move(model["vocab"]);
    if (model.contains("merges")) result.merges = std::move(model["merges"]);
    result.charsmap = charsmap_of(member(made_.json, "normalizer", made_.file));
    return result;
  }

  /// Control and user-defined pieces become added tokens.
  void take_model_tokens() {
    arguments_.extra.emplace();
    for (const SpmPiece& piece : model_->pieces) {
      if (piece.type != PieceType::kControl && piece.type != PieceType::kUserDefined) continue;
      NamedToken named;
      named.token.content = piece.text;
      named.token.special = piece.type == PieceType::kControl;
      named.file = vocabulary_file(rule());
      arguments_.extra->push_back(std::move(named));
    }
  }

  void add_tokens() {
    const Json& model = member(made_.json, "model", made_.file);
    TokenTable table(model.is_object() ? member(model, "vocab", made_.file) : model, made_.file);
    const Json file_tokens =
        has_json_ ? std::exchange(made_.json["added_tokens"], Json::array()) : Json::array();
    const bool stands = has_json_ && rule() == TokenizerRule::kJson;
    if (stands) add_file_tokens(table, file_tokens);
    static_cast<void>(table.take_changed());
    add_folder_tokens(table);
    for (const auto& [id, token] : arguments_.decoder) check_id(table, id, token.token.content, token.file);
    if (!stands && has_json_) check_file_tokens(table, file_tokens);
    const bool more = table.take_changed();
    changed_ = changed_ || more;
    made_.json["added_tokens"] = stands && !more ? file_tokens : table.json();
    if (!stands) set_post_processor(table);
  }

  void add_file_tokens(TokenTable& table, const Json& tokens) const {
    if (!tokens.is_array()) return;
    const std::string where = made_.file + ": added_tokens";
    for (const Json& json : tokens) {
      const AddedToken token = read_added_token(json, where);
      table.add(token);
      check_id(table, token.id, token.content, "tokenizer.json");
    }
  }

  void check_id(const TokenTable& table, std::int64_t id, const std::string& text,
                const std::string& file) const {
    const auto has = table.id_of(text);
    if (!has || *has == id) return;
    throw ConfigError(folder_.where(file), ": gives '", text, "' the id ", id, ", but it is ", *has,
                      *has < table.size() ? " in the vocabulary of " : " behind the vocabulary of ",
                      made_.file, " (", table.size(),
                      " ids, which added tokens continue without a gap): the files are of different "
                      "tokenizers, or one is damaged");
  }

  /// A class that builds anew loses the added tokens that tokenizer_config.json does not list.
  void check_file_tokens(const TokenTable& table, const Json& tokens) const {
    if (!tokens.is_array()) return;
    for (const Json& json : tokens) {
      const AddedToken token = read_added_token(json, made_.file + ": added_tokens");
      check_id(table, token.id, token.content, "tokenizer.json");
      if (!token.content.empty() && !table.id_of(token.content))
        throw ConfigError(made_.file, ": the added token '", token.content, "' (id ", token.id,
                          ") is not in the added_tokens_decoder of ", folder_.where("tokenizer_config.json"),
                          ", which alone counts for the class ", made_.made_by.name,
                          "; add it there, or take the added_tokens_decoder away");
    }
  }

  void add_folder_tokens(TokenTable& table) {
    std::vector<AddedToken> wanted;
    const auto is_named = [&](const std::string& text) {
      return std::any_of(arguments_.named.begin(), arguments_.named.end(), [&](const auto& entry) {
        return entry.second && entry.second->token.content == text;
      });
    };
    for (const auto& [id, token] : arguments_.decoder)
      if (!table.has(token.token)) wanted.push_back(token.token);
    std::unordered_set<std::string> seen;
    for (const AddedToken& token : wanted) seen.insert(token.content);
    const auto want = [&](const AddedToken& token) {
      if (!table.is_added(token.content) && seen.insert(token.content).second) wanted.push_back(token);
    };
    for (const auto& [role, token] : arguments_.named)
      if (token) want(token->token);
    if (arguments_.extra)
      for (const NamedToken& token : *arguments_.extra) want(token.token);
    for (AddedToken& token : wanted) {
      token.special = token.special || is_named(token.content);
      table.add(std::move(token));
    }
    if (rule() == TokenizerRule::kQwen2) make_plainly_special(table);
  }

  /// Qwen2Tokenizer adds all its special tokens again, without properties.
  void make_plainly_special(TokenTable& table) const {
    const auto add = [&](const std::string& text) {
      AddedToken token;
      token.content = text;
      token.special = true;
      table.add(std::move(token));
    };
    for (const auto& [role, token] : arguments_.named)
      if (token) add(token->token.content);
    if (arguments_.extra)
      for (const NamedToken& token : *arguments_.extra) add(token.token.content);
  }

  [[nodiscard]] TemplateToken token_of(const TokenTable& table, const char* role) const {
    const auto* found = arguments_.find(role);
    if (found == nullptr || !*found) return std::nullopt;
    const auto id = table.id_of((*found)->token.content);
    if (!id) return std::nullopt;
    return std::pair((*found)->token.content, *id);
  }

  [[nodiscard]] TemplateToken needed(const TokenTable& table, const char* role) const {
    TemplateToken token = token_of(table, role);
    if (!token)
      throw FormatError(folder_.where("tokenizer_config.json"), ": a ", made_.made_by.name, " needs a ",
                        role);
    return token;
  }

  void set_post_processor(const TokenTable& table) {
    Json& processor = made_.json["post_processor"];
    if (rule() == TokenizerRule::kBert) {
      processor = bert_frame(needed(table, "cls_token"), needed(table, "sep_token"));
    } else if (rule() == TokenizerRule::kRoberta) {
      processor = roberta_frame(needed(table, "cls_token"), needed(table, "sep_token"));
    } else if (rule() == TokenizerRule::kXlmRoberta || rule() == TokenizerRule::kCamembert) {
      processor = roberta_frame(needed(table, "bos_token"), needed(table, "eos_token"));
    } else if (!has_json_ || rule() == TokenizerRule::kGptNeoX) {
      const auto asked = [&](const char* key) {
        return !has_json_ && optional_field<bool>(folder_.config, key, folder_.where("tokenizer_config.json"))
                                 .value_or(false);
      };
      processor = frame_with(asked("add_bos_token") ? token_of(table, "bos_token") : std::nullopt,
                             asked("add_eos_token") ? token_of(table, "eos_token") : std::nullopt);
    }
  }

  const TokenizerFolder& folder_;
  const SpmModel* model_;
  bool has_json_ = false;
  bool changed_ = false;  ///< Against tokenizer.json as it was read.
  TokenizerArguments arguments_;
  AutoTokenizer made_;
};

}  // namespace

const char* vocabulary_file(TokenizerRule rule) {
  switch (rule) {
    case TokenizerRule::kJson:
    case TokenizerRule::kLlama:
    case TokenizerRule::kGemma:
    case TokenizerRule::kOther: return "tokenizer.model";
    case TokenizerRule::kBert: return "vocab.txt";
    case TokenizerRule::kXlmRoberta:
    case TokenizerRule::kCamembert: return "sentencepiece.bpe.model";
    case TokenizerRule::kGpt2:
    case TokenizerRule::kQwen2:
    case TokenizerRule::kGptNeoX:
    case TokenizerRule::kRoberta: break;
  }
  return "vocab.json";
}

AutoTokenizer make_auto_tokenizer(const TokenizerFolder& folder, const SpmModel* model) {
  return Maker(folder, model).make();
}

}  // namespace bitrain::text
