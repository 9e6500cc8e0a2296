#include <bitrain/hub/sentence_transformers.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/sentence_modules.h>
#include <bitrain/hub/sentence_settings.h>
#include <bitrain/io/directory.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/config_reader.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

using io::Json;
using models::ConfigReader;
using models::Dense;
using nn::Pooling;

// ---- Names

/// The booleans of folders before version 6, in the order in which modes were joined.
constexpr std::array<std::pair<const char*, Pooling>, 6> kPoolingKeys = {
    {{"pooling_mode_cls_token", Pooling::kCls},
     {"pooling_mode_max_tokens", Pooling::kMax},
     {"pooling_mode_mean_tokens", Pooling::kMean},
     {"pooling_mode_mean_sqrt_len_tokens", Pooling::kMeanSqrtLenTokens},
     {"pooling_mode_weightedmean_tokens", Pooling::kWeightedMean},
     {"pooling_mode_lasttoken", Pooling::kLastToken}}};

std::string known_pooling_modes() {
  std::vector<std::string> names;
  for (const Pooling mode : nn::pooling_modes()) names.emplace_back(nn::pooling_name(mode));
  return join(names, ", ");
}

// ---- Reading

/// Transformer, Pooling, Dense.., Normalize?; a Dropout among the last, which works in sentence-transformers'
/// training alone, is left out.
std::vector<ModuleEntry> read_sentence_modules(const fs::path& directory) {
  std::vector<ModuleEntry> modules =
      read_modules(directory, {"Transformer", "Pooling", "Dense", "Normalize", "Dropout"});
  bool ordered = modules.size() >= 2 && modules[0].type == "Transformer" && modules[1].type == "Pooling";
  if (ordered &&
      std::erase_if(modules, [](const ModuleEntry& module) { return module.type == "Dropout"; }) > 0)
    log_info(directory.string(),
             ": the module Dropout does nothing when texts are encoded; it is passed over");
  for (std::size_t i = 2; i < modules.size(); ++i) {
    const bool last = i + 1 == modules.size();
    ordered = ordered && (modules[i].type == "Dense" || (modules[i].type == "Normalize" && last));
  }
  if (!ordered) {
    throw UnsupportedError((directory / "modules.json").string(), ": the modules ", names_of(modules),
                           " are not supported in this order; there is: Transformer, Pooling, any number of "
                           "Dense and Dropout, at most one Normalize");
  }
  return modules;
}

Pooling pooling_mode(const std::string& name, const std::string& where) {
  if (const std::optional<Pooling> mode = nn::pooling_named(name)) return *mode;
  throw UnsupportedError(where, ": the pooling mode '", name,
                         "' is not supported; there are: ", known_pooling_modes());
}

/// The modes of the booleans; the mean where none is set.
std::vector<Pooling> old_pooling_modes(const Json& json, const ConfigReader& reader,
                                       const std::string& where) {
  std::vector<Pooling> modes;
  for (const auto& [key, mode] : kPoolingKeys) {
    bool active = false;
    reader.read(key, active);
    if (active) modes.push_back(mode);
  }
  for (const auto& [key, value] : json.items()) {
    const bool known = std::any_of(kPoolingKeys.begin(), kPoolingKeys.end(),
                                   [&name = key](const auto& entry) { return name == entry.first; });
    if (known || !starts_with(key, "pooling_mode_") || value == false) continue;
    (void)pooling_mode(key.substr(std::string("pooling_mode_").size()),
                       where);  // Known under the new keys only.
    throw FormatError(where, ": ", key, " is no key of a pooling module");
  }
  if (modes.empty()) modes.push_back(Pooling::kMean);
  return modes;
}

/// pooling_mode, one name or a list, or the booleans of old.
std::vector<Pooling> read_pooling_modes(const Json& json, const ConfigReader& reader,
                                        const std::string& where) {
  const Json* given = reader.find("pooling_mode");
  if (given == nullptr) return old_pooling_modes(json, reader, where);
  std::vector<Pooling> modes;
  const Json list = given->is_array() ? *given : Json::array({*given});
  for (const Json& name : list) {
    if (!name.is_string()) throw FormatError(where, ": pooling_mode: a name was expected, not ", name.dump());
    modes.push_back(pooling_mode(name.get<std::string>(), where));
  }
  if (modes.empty()) throw FormatError(where, ": pooling_mode is an empty list");
  return modes;
}

std::vector<Pooling> read_pooling(const fs::path& directory, std::int64_t hidden_size,
                                  SentenceSettings& settings) {
  const fs::path path = directory / "config.json";
  const std::string where = path.string();
  const Json& json = settings.pooling_file.content = io::read_json(path);
  const ConfigReader reader(json, where);
  std::vector<Pooling> modes = read_pooling_modes(json, reader, where);
  std::int64_t width = hidden_size;
  reader.read("word_embedding_dimension", width);
  reader.read("embedding_dimension", width);
  // sentence-transformers asks nobody for this number; some folders give what comes out in its place.
  const std::int64_t pooled = hidden_size * static_cast<std::int64_t>(modes.size());
  if (width != hidden_size && width != pooled) {
    throw FormatError(where, ": embedding_dimension (word_embedding_dimension) is ", width,
                      ", but the transformer's hidden states have ", hidden_size, " features",
                      modes.size() > 1 ? to_text(" and ", modes.size(), " pooling modes make ", pooled) : "");
  }
  reader.read("include_prompt", settings.include_prompt);
  return modes;
}

/// A normalisation has no settings but what it works on; old ones have no file.
void check_normalize(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  if (!directory.has_filename() || !fs::exists(path)) return;
  const Json json = io::read_json(path);
  const ConfigReader reader(json, path.string());
  for (const char* key : {"module_input_name", "module_output_name"}) {
    std::string name = "sentence_embedding";
    reader.read(key, name);
    if (name != "sentence_embedding")
      throw UnsupportedError(path.string(), ": ", key, " '", name,
                             "' is not supported; there is sentence_embedding");
  }
}

// ---- Writing

Json pooling_json(const models::SentenceEncoder& model, const SentenceSettings& settings) {
  const std::vector<Pooling>& modes = model.options().pooling;
  const std::int64_t width = model.encoder().config().hidden_size;
  // The booleans have one order. Any other, or a mode twice, needs the keys of version 6.
  const bool ordered = std::adjacent_find(modes.begin(), modes.end(), std::greater_equal<>()) == modes.end();
  Json json;
  if (ordered) {
    json["word_embedding_dimension"] = width;
    for (const auto& [key, mode] : kPoolingKeys)
      json[key] = std::find(modes.begin(), modes.end(), mode) != modes.end();
  } else {
    json["embedding_dimension"] = width;
    for (const Pooling mode : modes) json["pooling_mode"].push_back(nn::pooling_name(mode));
  }
  json["include_prompt"] = settings.include_prompt;
  return json;
}

/// The folder's own pooling, Normalize and prompts go with the adapter; on its bare base they would be lost.
void refuse_adapter(const fs::path& directory, const fs::path& root) {
  const fs::path path = root / "adapter_config.json";
  if (fs::exists(root / "config.json") || !fs::exists(path)) return;
  const Json json = io::read_json(path);
  std::string base;
  ConfigReader(json, path.string()).read("base_model_name_or_path", base);
  throw UnsupportedError(
      path.string(), ": the transformer of this sentence-transformers folder is an adapter on '", base,
      "', which is not supported; write it merged, in Python: s = SentenceTransformer('", directory.string(),
      "'); s[0].model = PeftModel.from_pretrained(AutoModel.from_pretrained('", base, "'), '", root.string(),
      "').merge_and_unload(); s.save_pretrained('merged')");
}

}  // namespace

OpenedSentenceEncoder open_sentence_encoder(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  OpenedSentenceEncoder result;
  const bool plain = !fs::exists(directory / "modules.json");
  if (plain) log_info(directory.string(), " has no modules.json: taking the mean of its hidden states");
  const std::vector<ModuleEntry> modules =
      plain ? std::vector<ModuleEntry>{{"Transformer", directory}} : read_sentence_modules(directory);
  const fs::path& root = modules.front().directory;
  if (!plain) refuse_adapter(directory, root);
  OpenedEncoder opened = open_encoder(root, options);
  result.tokenizer = std::move(opened.tokenizer);
  read_transformer(root, opened.model->max_tokens(), kFeatureExtraction, result.settings);
  if (result.settings.do_lower_case && result.tokenizer)
    result.tokenizer = lower_cased(*result.tokenizer, root);
  read_settings(directory, result.settings);

  models::EmbeddingOptions embedding;
  std::vector<std::unique_ptr<Dense>> dense;
  for (const ModuleEntry& module : modules) {
    if (module.type == "Pooling")
      embedding.pooling = read_pooling(module.directory, opened.model->config().hidden_size, result.settings);
    else if (module.type == "Dense")
      dense.push_back(read_dense(module.directory, "sentence_embedding", options));
    else if (module.type == "Normalize") {
      check_normalize(module.directory);
      embedding.normalize = true;
    }
  }
  try {
    result.model = std::make_unique<models::SentenceEncoder>(std::move(opened.model), std::move(embedding),
                                                             std::move(dense));
  } catch (Error& error) {
    error.add_context(directory.string());
    throw;
  }
  SentenceSettings& settings = result.settings;
  settings.settings_file.known = settings_json(settings);
  settings.transformer_file.known = transformer_json(settings);
  settings.pooling_file.known = pooling_json(*result.model, settings);
  return result;
}

void write_sentence_encoder(const fs::path& directory, models::SentenceEncoder& model,
                            const text::Tokenizer* tokenizer, const SentenceSettings& settings,
                            const SaveOptions& options) {
  write_encoder(directory, model.encoder(), tokenizer, options);
  ModuleWriter modules(directory);
  modules.add("models.Transformer");
  io::write_json(modules.add("models.Pooling") / "config.json",
                 settings.pooling_file.with(pooling_json(model, settings)));
  for (const auto& dense : model.dense())
    write_dense(modules.add("models.Dense"), *dense, "sentence_embedding", options);
  if (model.options().normalize)
    io::write_json(modules.add("models.Normalize") / "config.json", Json::object());
  modules.finish();
  io::write_json(directory / "sentence_bert_config.json", transformer_file_json(settings));
  io::write_json(directory / "config_sentence_transformers.json",
                 settings.settings_file.with(settings_json(settings)));
}

void save_sentence_encoder(const fs::path& directory, models::SentenceEncoder& model,
                           const text::Tokenizer* tokenizer, const SentenceSettings& settings,
                           const SaveOptions& options) {
  io::AtomicDirectory folder(directory);
  write_sentence_encoder(folder.path(), model, tokenizer, settings, options);
  folder.commit();
}

}  // namespace bitrain::hub
