#include <bitrain/hub/late_interaction_dir.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/sentence_modules.h>
#include <bitrain/hub/sentence_settings.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/json.h>
#include <bitrain/models/config_reader.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

using io::Json;
using models::ConfigReader;
using models::LateInteractionOptions;

constexpr const char* kTokenFeatures = "token_embeddings";
constexpr const char* kLengths = "sentence_bert_config.json";
constexpr const char* kSettings = "config_sentence_transformers.json";

/// The one module of that type, or null.
const ModuleEntry* find_module(const std::vector<ModuleEntry>& modules, const std::string& type) {
  const auto found = std::find_if(modules.begin(), modules.end(),
                                  [&](const ModuleEntry& module) { return module.type == type; });
  return found == modules.end() ? nullptr : &*found;
}

std::vector<ModuleEntry> read_late_modules(const fs::path& directory) {
  const std::string where = (directory / "modules.json").string();
  if (!fs::exists(where))
    throw FormatError(directory.string(),
                      " has no modules.json: it is no late-interaction folder; the stage late_interaction "
                      "gives an encoder a projection");
  std::vector<ModuleEntry> modules =
      read_modules(directory, {"Transformer", "Pooling", "Dense", "MultiVectorMask", "Normalize"});
  if (modules.front().type != "Transformer")
    throw UnsupportedError(where, ": the first module must be a Transformer, not ", modules.front().type);
  if (find_module(modules, "Dense") == nullptr)
    throw FormatError(where, ": the modules ", names_of(modules),
                      " have no projection (a Dense over token_embeddings); the stage late_interaction gives "
                      "an encoder one");
  if (find_module(modules, "MultiVectorMask") == nullptr)
    throw FormatError(where, ": the modules ", names_of(modules),
                      " have no MultiVectorMask: PyLate's own folders, whose markers are tokens, are not "
                      "supported");
  if (find_module(modules, "Normalize") == nullptr || modules.size() != 4 || modules[1].type != "Dense")
    throw UnsupportedError(where, ": the modules ", names_of(modules),
                           " are not supported in this order; there is: Transformer, Dense, MultiVectorMask, "
                           "Normalize");
  return modules;
}

void read_lengths(const fs::path& directory, std::int64_t longest, LateInteractionOptions& options) {
  const std::string where = (directory / kLengths).string();
  const Json json = io::read_json(where);
  const ConfigReader reader(json, where);
  if (const auto made_for = check_transformer(json, where, kFeatureExtraction))
    longest = std::min(longest, *made_for);
  bool lower_case = false;
  reader.read("do_lower_case", lower_case);
  if (lower_case) throw UnsupportedError(where, ": do_lower_case is not supported for token vectors");
  options.document_length = options.query_length = longest;
  reader.read("document_length", options.document_length);
  reader.read("query_length", options.query_length);
  const Json* expansion = reader.find("query_expansion");
  options.query_expansion = expansion != nullptr;
  if (expansion != nullptr) {
    const ConfigReader inner(*expansion, where + ": query_expansion");
    std::string strategy = "fixed";
    std::optional<std::string> token;
    bool attend = false;
    inner.read("strategy", strategy);
    inner.read("attend", attend);
    inner.read("token", token);
    inner.require("length", options.query_length);
    if (strategy != "fixed" || !attend || token)
      throw UnsupportedError(
          where, ": query_expansion ", expansion->dump(),
          " is not supported; there is strategy fixed with attend true and the mask token");
  }
  for (const std::int64_t length : {options.query_length, options.document_length})
    if (length < 3) throw FormatError(where, ": texts are cut to ", length, " tokens; 3 is the least");
  if (options.query_length > longest)
    throw FormatError(where, ": queries of ", options.query_length, " tokens do not fit the ", longest,
                      " positions of the model");
  options.document_length = std::min(options.document_length, longest);
}

void read_prompts(const fs::path& directory, LateInteractionOptions& options) {
  const std::string where = (directory / kSettings).string();
  if (!fs::exists(where)) return;
  const Json json = io::read_json(where);
  const ConfigReader reader(json, where);
  std::string similarity = "maxsim";
  reader.read("similarity_fn_name", similarity);
  if (similarity != "maxsim")
    throw UnsupportedError(where, ": similarity_fn_name '", similarity,
                           "' is not supported; there is maxsim");
  const Json* prompts = reader.find("prompts");
  if (prompts == nullptr) return;
  const ConfigReader texts(*prompts, where + ": prompts");
  texts.read("query", options.query_prompt);
  texts.read("document", options.document_prompt);
}

/// A prompt that sentence-transformers reads as one token would be several here.
void check_prompt(const std::string& prompt, const text::Tokenizer& tokenizer, const fs::path& directory) {
  const std::string_view marker = trim(prompt);
  if (marker.empty()) return;
  const std::optional<text::TokenId> id = tokenizer.piece_to_id(marker);
  if (id && tokenizer.encode(marker) != std::vector<text::TokenId>{*id})
    throw UnsupportedError(directory.string(), ": the prompt '", prompt,
                           "' is a token of its own; markers before texts are supported as plain text only");
}

void read_mask(const fs::path& directory, LateInteractionOptions& options) {
  const std::string where = (directory / "config.json").string();
  const Json json = io::read_json(where);
  const ConfigReader reader(json, where);
  const Json* words = reader.find("skiplist_words");
  options.skiplist_words.clear();
  if (words != nullptr) {
    if (!words->is_array()) throw FormatError(where, ": skiplist_words: a list was expected");
    for (const Json& word : *words) {
      if (!word.is_string()) throw FormatError(where, ": skiplist_words: a list of strings was expected");
      options.skiplist_words.push_back(word.get<std::string>());
    }
  }
  const Json* tasks = reader.find("skiplist_tasks");
  if ((tasks != nullptr && *tasks != Json::array({"document"})) ||
      reader.find("keep_only_token_ids") != nullptr)
    throw UnsupportedError(where, ": only documents may have tokens that do not count, by skiplist_words");
}

void check_normalize(const fs::path& directory) {
  const std::string where = (directory / "config.json").string();
  const Json json = fs::exists(where) ? io::read_json(where) : Json::object();
  std::string features = "sentence_embedding";
  ConfigReader(json, where).read("module_input_name", features);
  if (features != kTokenFeatures)
    throw UnsupportedError(where, ": normalises ", features, "; only unit vectors of tokens are supported");
}

Json lengths_json(const LateInteractionOptions& options) {
  Json json = {{"document_length", options.document_length}};
  if (options.query_expansion)
    json["query_expansion"] = {
        {"strategy", "fixed"}, {"attend", true}, {"token", nullptr}, {"length", options.query_length}};
  else
    json["query_length"] = options.query_length;
  return json;
}

}  // namespace

bool is_late_interaction(const fs::path& directory) {
  if (!fs::exists(directory / "modules.json")) return false;
  const Json modules = io::read_json(directory / "modules.json");
  return std::any_of(modules.begin(), modules.end(), [](const Json& module) {
    return module.is_object() && module.contains("type") && module["type"].is_string() &&
           ends_with(module["type"].get<std::string>(), ".MultiVectorMask");
  });
}

OpenedLateInteraction open_late_interaction(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  const std::vector<ModuleEntry> modules = read_late_modules(directory);
  OpenedEncoder opened = open_encoder(modules.front().directory, options);
  LateInteractionOptions late;
  read_lengths(modules.front().directory, opened.model->max_tokens(), late);
  read_prompts(directory, late);
  read_mask(find_module(modules, "MultiVectorMask")->directory, late);
  check_normalize(find_module(modules, "Normalize")->directory);
  if (opened.tokenizer) {
    check_prompt(late.query_prompt, *opened.tokenizer, directory);
    check_prompt(late.document_prompt, *opened.tokenizer, directory);
  }
  OpenOptions dense = options;
  dense.dtype = opened.model->input_embeddings().weight.scalar_type();
  OpenedLateInteraction result;
  result.tokenizer = std::move(opened.tokenizer);
  try {
    result.model = std::make_unique<models::LateInteractionEncoder>(
        std::move(opened.model), read_dense(modules[1].directory, kTokenFeatures, dense), std::move(late));
  } catch (Error& error) {
    error.add_context(directory.string());
    throw;
  }
  return result;
}

void save_late_interaction(const fs::path& directory, models::LateInteractionEncoder& model,
                           const text::Tokenizer* tokenizer, const SaveOptions& options) {
  const LateInteractionOptions& late = model.options();
  io::AtomicDirectory folder(directory);
  write_encoder(folder.path(), model.encoder(), tokenizer, options);
  ModuleWriter modules(folder.path());
  modules.add("base.modules.transformer.Transformer");
  write_dense(modules.add("base.modules.dense.Dense"), model.projection(), kTokenFeatures, options);
  io::write_json(
      modules.add("multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask") / "config.json",
      {{"skiplist_words", late.skiplist_words},
       {"skiplist_tasks", Json::array({"document"})},
       {"keep_only_token_ids", nullptr}});
  io::write_json(modules.add("base.modules.normalize.Normalize") / "config.json",
                 {{"module_input_name", kTokenFeatures}, {"module_output_name", kTokenFeatures}});
  modules.finish();
  io::write_json(folder.path() / kLengths, lengths_json(late));
  io::write_json(folder.path() / kSettings,
                 {{"model_type", "MultiVectorEncoder"},
                  {"prompts", {{"query", late.query_prompt}, {"document", late.document_prompt}}},
                  {"default_prompt_name", nullptr},
                  {"similarity_fn_name", "maxsim"}});
  folder.commit();
}

}  // namespace bitrain::hub
