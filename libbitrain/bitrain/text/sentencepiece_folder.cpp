#include <bitrain/text/sentencepiece_folder.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/text/saved_folder.h>
#include <bitrain/text/tokenizer_arguments.h>
#include <bitrain/text/tokenizer_json.h>

namespace bitrain::text {
namespace {

using io::Json;

/// `model` with the added tokens behind its pieces as pieces; nothing where they leave a gap.
std::optional<SpmModel> with_added_tokens(const SpmModel& model, std::vector<AddedToken> tokens) {
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  SpmModel result = model;
  std::vector<SpmPiece> more;
  for (const AddedToken& token : tokens) {
    const auto size = result.pieces.size() + more.size();
    if (static_cast<std::size_t>(token.id) < size) continue;
    if (static_cast<std::size_t>(token.id) > size) return std::nullopt;
    more.push_back({token.content, 0, token.special ? PieceType::kControl : PieceType::kUserDefined, {}});
  }
  result.append(more);
  return result;
}

/// Texts out of all pieces: as words, without blanks, and what tends to be cut otherwise by other code.
std::vector<std::string> probes(const SpmModel& model) {
  std::vector<std::string> texts = {
      "a  b   c    d",
      "word ",
      "word  ",
      "line\nline\n\nline",
      "tab\tbed\r\n",
      "\n",
      "e\xCC\x81 \xEF\xBC\xA1\xEF\xBC\xA2 \xEF\xAC\x81",
      "\xE2\x82\xAC 1.234,56 %",
      "\xF0\x9F\x98\x80\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x9A\x80",
      "\xC2\xA0x\xE3\x80\x80y",
      "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xE0\xB8\xA0\xE0\xB8\xB2\xE0\xB8\xA9\xE0\xB8\xB2",
      "A\xE2\x96\x81"
      "b"};
  for (const char* run : {"=", "-", "a", ".", "#", "0", "e ", "\n", "x  "}) {
    for (const int times : {2, 3, 5, 7, 8, 13, 31, 64}) {
      std::string text = "b";
      for (int i = 0; i < times; ++i) text += run;
      texts.push_back(std::move(text));
    }
  }
  std::string spaced;
  std::string joined;
  for (const SpmPiece& piece : model.pieces) {
    if (piece.type == PieceType::kControl || piece.type == PieceType::kUserDefined)
      texts.push_back("x" + piece.text + "y");
    if (piece.type != PieceType::kNormal) continue;
    std::string text = piece.text;
    for (std::size_t at = text.find(kSpaceMark); at != std::string::npos; at = text.find(kSpaceMark, at))
      text.replace(at, kSpaceMark.size(), " ");
    const std::size_t word = std::min(text.find_first_not_of(' '), text.size());
    spaced += (spaced.empty() ? "" : " ") + text.substr(word);
    joined += joined.empty() ? text.substr(word) : text;
    for (std::string* made : {&spaced, &joined}) {
      if (made->size() > 500) texts.push_back(std::exchange(*made, {}));
    }
  }
  texts.push_back(spaced);
  texts.push_back(joined);
  return texts;
}

/// The first of `texts` that gets other ids, with the ids; nothing where all are the same.
std::optional<std::string> first_difference(const Tokenizer& ours, const Tokenizer& json,
                                            const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    if (ours.encode(text) == json.encode(text)) continue;
    std::string shown = text.substr(0, 60);
    std::replace(shown.begin(), shown.end(), '\n', ' ');
    return to_text("they give other ids for a text such as '", shown, "'");
  }
  return std::nullopt;
}

Json roles_of(const HfTokenizer& json) {
  const SpecialTokens& special = json.special_tokens();
  Json roles = Json::object();
  const std::pair<const char*, std::optional<TokenId>> all[] = {
      {"bos_token", special.bos},  {"eos_token", special.eos}, {"unk_token", special.unk},
      {"sep_token", special.sep},  {"pad_token", special.pad}, {"cls_token", special.cls},
      {"mask_token", special.mask}};
  for (const auto& [role, id] : all)
    if (id) roles[role] = json.id_to_piece(*id);
  return roles;
}

/// The tokenizer.json that save() writes for a model without a class, with the roles of its folder.
std::shared_ptr<const HfTokenizer> own_json(const SpmModel& model, Json roles,
                                            const std::shared_ptr<const TokenizerFolder>& folder) {
  AutoTokenizer made;
  made.file = folder->where("tokenizer.model");
  made.json = tokenizer_json(model);
  made.bytes = made.json.dump() + "\n";
  made.roles = std::move(roles);
  return std::make_shared<const HfTokenizer>(std::move(made), folder);
}

}  // namespace

std::shared_ptr<const SentencePieceTokenizer> sentencepiece_alike(
    const SpmModel& model, const std::shared_ptr<const HfTokenizer>& json,
    const std::shared_ptr<const TokenizerFolder>& folder, const TokenizerClass& made_by,
    std::string& difference) {
  const auto folded = with_added_tokens(model, json->added_tokens());
  if (!folded || json->vocab_size() != static_cast<std::int64_t>(folded->pieces.size())) {
    difference = to_text("they have ", model.pieces.size(), " and ", json->vocab_size(), " tokens");
    return nullptr;
  }
  for (std::size_t id = 0; id < folded->pieces.size(); ++id) {
    const std::string& piece = folded->pieces[id].text;
    if (json->piece_to_id(piece) == static_cast<TokenId>(id)) continue;
    difference = to_text("id ", id, " is '", piece, "' in tokenizer.model alone");
    return nullptr;
  }
  SentencePieceOrigin origin{folder, json, made_by, false, false, true};
  auto tokenizer = std::make_shared<const SentencePieceTokenizer>(*folded, origin);
  if (const auto other = first_difference(*tokenizer, *json, probes(model))) {
    difference = *other;
    return nullptr;
  }
  const std::vector<std::string> spaces = {
      " ", "  ", " word", "  word", "\xE2\x96\x81", " \n", " \xE2\x96\x81x"};
  if (!first_difference(*tokenizer, *json, spaces)) return tokenizer;
  origin.spaces_differ = true;
  return std::make_shared<const SentencePieceTokenizer>(*folded, origin);
}

std::shared_ptr<const SentencePieceTokenizer> sentencepiece_alone(
    SpmModel model, const std::shared_ptr<const TokenizerFolder>& folder) {
  const TokenizerArguments arguments = read_tokenizer_arguments(*folder, Json());
  Json roles = special_tokens_map_json(model);
  std::vector<AddedToken> tokens;
  const auto id_in_model = [&](const std::string& text) {
    const auto found = std::find_if(model.pieces.begin(), model.pieces.end(),
                                    [&](const SpmPiece& piece) { return piece.text == text; });
    return found == model.pieces.end() ? -1 : found - model.pieces.begin();
  };
  for (const auto& [id, named] : arguments.decoder) {
    const std::ptrdiff_t has = id_in_model(named.token.content);
    if (has != id && (has >= 0 || id < static_cast<std::int64_t>(model.pieces.size())))
      throw ConfigError(folder->where(named.file), ": gives '", named.token.content, "' the id ", id,
                        ", but in ", folder->where("tokenizer.model"),
                        has >= 0
                            ? to_text(" it is ", has)
                            : to_text(" that is '", model.pieces[static_cast<std::size_t>(id)].text, "'"),
                        ": the files are of different tokenizers");
    if (has >= 0) continue;
    tokens.push_back(named.token);
    tokens.back().id = static_cast<TokenId>(id);
  }
  const auto known = [&](const std::string& text) {
    return id_in_model(text) >= 0 ||
           std::any_of(tokens.begin(), tokens.end(), [&](const AddedToken& t) { return t.content == text; });
  };
  for (const auto& [role, named] : arguments.named) {
    if (!named) {
      roles.erase(role);
      continue;
    }
    if (!known(named->token.content))
      throw ConfigError(folder->where(named->file), ": the ", role, " '", named->token.content,
                        "' is neither a piece of tokenizer.model nor an added token of this folder");
    roles[role] = named->token.content;
  }
  auto folded = with_added_tokens(model, tokens);
  if (!folded)
    throw ConfigError(folder->path.string(), ": the added tokens leave a gap behind the ",
                      model.pieces.size(), " pieces of tokenizer.model; their ids must continue it");
  const auto json = own_json(*folded, std::move(roles), folder);
  return std::make_shared<const SentencePieceTokenizer>(
      *std::move(folded), SentencePieceOrigin{folder, json, {}, true, false, true});
}

std::shared_ptr<const HfTokenizer> extended_json(const SpmModel& extended,
                                                 const SentencePieceOrigin& origin) {
  if (origin.own) return own_json(extended, roles_of(*origin.json), origin.folder);
  AutoTokenizer made;
  if (!origin.folder->has_json) {
    made = make_auto_tokenizer(*origin.folder, &extended);
  } else {
    made.file = origin.folder->where("tokenizer.json");
    made.json = io::parse_json(origin.json->json(), made.file);
    Json model = tokenizer_json(extended)["model"];
    made.json["model"]["vocab"] = std::move(model["vocab"]);
    if (model.contains("merges")) made.json["model"]["merges"] = std::move(model["merges"]);
    made.bytes = made.json.dump() + "\n";
    made.roles = roles_of(*origin.json);
    made.made_by = origin.made_by;
  }
  return std::make_shared<const HfTokenizer>(std::move(made), origin.folder);
}

void write_sentencepiece_folder(const SpmModel& model, const SentencePieceOrigin& origin,
                                const HfTokenizer& json, const std::filesystem::path& dir) {
  SavedFolder saved;
  saved.folder = origin.folder;
  saved.tokenizer_class = origin.own ? kGenericClass : origin.made_by.name;
  saved.roles = roles_of(json);
  if (origin.own) saved.config = tokenizer_config_json(model);
  if (origin.as_read) saved.vocabulary = origin.folder->vocabulary;
  saved.vocabulary.try_emplace("tokenizer.model", model.serialize());
  if (origin.own || origin.folder->has_json) saved.vocabulary.try_emplace("tokenizer.json", json.json());
  write_saved_folder(dir, saved);
}

}  // namespace bitrain::text
