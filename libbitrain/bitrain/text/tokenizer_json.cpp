#include <bitrain/text/tokenizer_json.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/text/base64.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {
namespace {

using io::Json;

/// SentencePiece joins the neighbours whose union has the best score; `tokenizers` follows a list of pairs.
/// So: every way to cut a piece in two pieces, in the order of the pieces' scores.
Json merges_of(const SpmModel& model) {
  std::unordered_map<std::string_view, std::size_t> ids;
  std::vector<const SpmPiece*> by_score;
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type != PieceType::kNormal) continue;
    ids.emplace(model.pieces[i].text, i);
    by_score.push_back(&model.pieces[i]);
  }
  std::stable_sort(by_score.begin(), by_score.end(),
                   [](const SpmPiece* a, const SpmPiece* b) { return a->score > b->score; });
  Json merges = Json::array();
  for (const SpmPiece* piece : by_score) {
    const std::string_view text = piece->text;
    // The longer left part first: SentencePiece goes from left to right among equals, which makes left parts
    // long where the cut is not unique ("=" in runs).
    std::vector<std::size_t> cuts;
    for (std::size_t cut = utf8_at(text, 0).length; cut < text.size(); cut += utf8_at(text, cut).length) {
      if (ids.count(text.substr(0, cut)) != 0 && ids.count(text.substr(cut)) != 0) cuts.push_back(cut);
    }
    for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut)
      merges.push_back({std::string(text.substr(0, *cut)), std::string(text.substr(*cut))});
  }
  return merges;
}

Json replace(const Json& pattern, std::string_view content) {
  return {{"type", "Replace"}, {"pattern", pattern}, {"content", content}};
}

Json normalizer_of(const SpmModel& model) {
  Json steps = Json::array();
  if (!model.precompiled_charsmap.empty())
    steps.push_back(
        {{"type", "Precompiled"}, {"precompiled_charsmap", to_base64(model.precompiled_charsmap)}});
  if (model.remove_extra_whitespaces) {
    steps.push_back(replace({{"Regex", "\\A +| +\\z"}}, ""));
    steps.push_back(replace({{"Regex", " {2,}"}}, " "));
  }
  const std::string_view space = model.escape_whitespaces ? kSpaceMark : " ";
  if (model.add_dummy_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", space}});
  if (model.escape_whitespaces) steps.push_back(replace({{"String", " "}}, kSpaceMark));
  if (steps.empty()) return nullptr;
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

Json decoder_of(const SpmModel& model) {
  Json steps = Json::array();
  steps.push_back(replace({{"String", kSpaceMark}}, " "));
  if (model.byte_fallback) steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (model.add_dummy_prefix)
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

Json model_of(const SpmModel& model) {
  const auto unknown = std::find_if(model.pieces.begin(), model.pieces.end(),
                                    [](const SpmPiece& p) { return p.type == PieceType::kUnknown; });
  if (model.type == SpmType::kUnigram) {
    Json vocabulary = Json::array();
    for (const SpmPiece& piece : model.pieces) vocabulary.push_back({piece.text, piece.score});
    return {{"type", "Unigram"},
            {"unk_id", unknown - model.pieces.begin()},
            {"vocab", std::move(vocabulary)},
            {"byte_fallback", model.byte_fallback}};
  }
  Json::object_t vocabulary;  // Filled as a list: its own look-up is linear, and pieces are unique.
  vocabulary.reserve(model.pieces.size());
  for (std::size_t i = 0; i < model.pieces.size(); ++i)
    vocabulary.Container::emplace_back(model.pieces[i].text, i);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown->text},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", model.byte_fallback},
          {"ignore_merges", false},
          {"vocab", std::move(vocabulary)},
          {"merges", merges_of(model)}};
}

bool is_added(const SpmPiece& piece) {
  return piece.type == PieceType::kControl || piece.type == PieceType::kUnknown ||
         piece.type == PieceType::kUserDefined;
}

Json added_token(const SpmPiece& piece) {
  return {{"content", piece.text}, {"single_word", false},
          {"lstrip", false},       {"rstrip", false},
          {"normalized", false},   {"special", piece.type != PieceType::kUserDefined}};
}

/// Puts BOS in front of each text, as Llama's tokenizers do.
Json post_processor_of(const SpmModel& model) {
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    const std::string& bos = model.pieces[id].text;
    if (model.pieces[id].type != PieceType::kControl || bos != model.bos_piece) continue;
    const Json mark = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
    const auto sequence = [](const char* name, int type) {
      return Json{{"Sequence", {{"id", name}, {"type_id", type}}}};
    };
    return {{"type", "TemplateProcessing"},
            {"single", Json::array({mark, sequence("A", 0)})},
            {"pair", Json::array({mark, sequence("A", 0), mark, sequence("B", 1)})},
            {"special_tokens", {{bos, {{"id", bos}, {"ids", {id}}, {"tokens", {bos}}}}}}};
  }
  return nullptr;
}

}  // namespace

Json tokenizer_json(const SpmModel& model) {
  if (model.type != SpmType::kBpe && model.type != SpmType::kUnigram)
    throw UnsupportedError("SentencePiece models of type word and char have no tokenizer.json");
  if (model.treat_whitespace_as_suffix)
    throw UnsupportedError("SentencePiece models with white space as a suffix have no tokenizer.json");
  Json added = Json::array();
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    if (!is_added(model.pieces[i])) continue;
    Json entry = {{"id", i}};
    entry.update(added_token(model.pieces[i]));
    added.push_back(std::move(entry));
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", normalizer_of(model)},
          {"pre_tokenizer", nullptr},
          {"post_processor", post_processor_of(model)},
          {"decoder", decoder_of(model)},
          {"model", model_of(model)}};
}

Json special_tokens_map_json(const SpmModel& model) {
  Json map = Json::object();
  for (const SpmPiece& piece : model.pieces) {
    if (piece.type == PieceType::kUnknown) map["unk_token"] = piece.text;
    if (piece.type != PieceType::kControl) continue;
    if (piece.text == model.bos_piece) map["bos_token"] = piece.text;
    if (piece.text == model.eos_piece) map["eos_token"] = piece.text;
    if (piece.text == model.pad_piece) map["pad_token"] = piece.text;
  }
  return map;
}

Json tokenizer_config_json(const SpmModel& model) {
  Json decoders = Json::object();
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    if (is_added(model.pieces[i])) decoders[std::to_string(i)] = added_token(model.pieces[i]);
  }
  Json config = {{"added_tokens_decoder", std::move(decoders)}, {"clean_up_tokenization_spaces", false}};
  config.update(special_tokens_map_json(model));
  config["model_max_length"] = 1e30;
  // The class that takes tokenizer.json as it stands; transformers 5 builds LlamaTokenizer's parts anew.
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  return config;
}

void write_tokenizer_files(const SpmModel& model, const std::filesystem::path& dir) {
  io::write_file_atomic(dir / "tokenizer.model", model.serialize());
  // Not indented: a vocabulary of 50,000 pieces would double in size.
  io::write_file_atomic(dir / "tokenizer.json", tokenizer_json(model).dump() + "\n");
  io::write_json(dir / "tokenizer_config.json", tokenizer_config_json(model));
  io::write_json(dir / "special_tokens_map.json", special_tokens_map_json(model));
}

}  // namespace bitrain::text
