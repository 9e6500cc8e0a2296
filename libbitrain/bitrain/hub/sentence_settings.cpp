#include <bitrain/hub/sentence_settings.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/hf_tokenizer.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

using io::Json;
using models::ConfigReader;

/// Arguments that say where from a part is loaded, not what it computes.
constexpr std::array<const char*, 8> kLoading = {"trust_remote_code", "revision",         "token",
                                                 "cache_dir",         "local_files_only", "use_auth_token",
                                                 "code_revision",     "force_download"};

/// Arguments that sentence-transformers hands on when it opens a part of the model.
struct Arguments {
  const char* key;
  const char* old_key;
  std::vector<std::string> harmless;
  const char* remedy;
};

const std::vector<Arguments>& all_arguments() {
  static const std::vector<Arguments> arguments = {
      {"model_kwargs",
       "model_args",
       {"attn_implementation", "torch_dtype", "dtype", "device_map", "low_cpu_mem_usage", "use_safetensors",
        "add_pooling_layer"},
       "take it out if the results are the same without it"},
      {"processor_kwargs",
       "tokenizer_args",
       {"use_fast", "model_max_length"},
       "set it in tokenizer_config.json and take it out here"},
      {"config_kwargs", "config_args", {"use_cache"}, "set it in config.json and take it out here"}};
  return arguments;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void refuse_arguments(const ConfigReader& reader, const std::string& where, const Arguments& known) {
  for (const char* key : {known.key, known.old_key}) {
    const Json* given = reader.find(key);
    if (given == nullptr) continue;
    if (!given->is_object()) throw FormatError(where, ": ", key, ": an object was expected");
    for (const auto& [name, value] : given->items()) {
      const bool loading = std::find(kLoading.begin(), kLoading.end(), name) != kLoading.end();
      if (!loading && !contains(known.harmless, name))
        throw UnsupportedError(where, ": ", key, ": '", name, "' is not supported; ", known.remedy);
    }
  }
}

/// Arguments of the tokenizer's calls: of those for texts, padding and cutting as usual change nothing.
void refuse_processing(const ConfigReader& reader, const std::string& where) {
  const Json* given = reader.find("processing_kwargs");
  if (given == nullptr) return;
  if (!given->is_object()) throw FormatError(where, ": processing_kwargs: an object was expected");
  for (const char* of : {"text", "common"}) {
    const auto arguments = given->find(of);
    if (arguments == given->end() || arguments->is_null()) continue;
    if (!arguments->is_object())
      throw FormatError(where, ": processing_kwargs: ", of, ": an object was expected");
    for (const auto& [name, value] : arguments->items()) {
      if (name == "padding" || name == "return_tensors") continue;
      if (name == "truncation" && (value == true || value == "longest_first")) continue;
      throw UnsupportedError(where, ": processing_kwargs: ", of, ": '", name,
                             "' is not supported; texts are cut to max_seq_length and get the special tokens "
                             "of the tokenizer; take it out if that is what is wanted");
    }
  }
}

void refuse_other_output(const ConfigReader& reader, const std::string& where, const TransformerTask& task) {
  std::string name = task.name;
  reader.read("transformer_task", name);
  if (name != task.name)
    throw UnsupportedError(where, ": transformer_task '", name, "' is not supported; there is ", task.name);
  std::string output = task.module_output;
  reader.read("module_output_name", output);
  if (output != task.module_output)
    throw UnsupportedError(where, ": module_output_name '", output, "' is not supported; there is ",
                           task.module_output);
  const Json* modalities = reader.find("modality_config");
  if (modalities == nullptr) return;
  const Json expected = {{"method", "forward"}, {"method_output_name", task.method_output}};
  const auto text = modalities->find("text");
  const bool usual = modalities->is_object() && text != modalities->end() && text->is_object() &&
                     text->value("method", Json()) == "forward" &&
                     text->value("method_output_name", Json()) == task.method_output;
  if (!usual)
    throw UnsupportedError(where, ": modality_config ", modalities->dump(),
                           " is not supported; there is for text: ", expected.dump());
}

/// sentence_bert_config.json, or under the names that other families once had; null where there is none.
Json read_transformer_file(const fs::path& directory, std::string& where) {
  for (const char* family :
       {"bert", "roberta", "distilbert", "camembert", "xlm-roberta", "xlnet", "albert"}) {
    const fs::path path = directory / to_text("sentence_", family, "_config.json");
    if (!fs::exists(path)) continue;
    where = path.string();
    return io::read_json(path);
  }
  return nullptr;
}

}  // namespace

std::string prompt_of(const SentenceSettings& settings, const std::optional<std::string>& name) {
  const std::optional<std::string>& wanted = name ? name : settings.default_prompt_name;
  if (!wanted) return "";
  if (const auto found = settings.prompts.find(*wanted); found != settings.prompts.end())
    return found->second;
  std::vector<std::string> names;
  for (const auto& [known, text] : settings.prompts) names.push_back(known);
  throw ConfigError("there is no prompt '", *wanted, "'", did_you_mean(*wanted, names),
                    names.empty() ? "; the model has none" : "; there are: " + join(names, ", "));
}

std::optional<std::int64_t> check_transformer(const Json& json, const std::string& where,
                                              const TransformerTask& task) {
  const ConfigReader reader(json, where);
  for (const Arguments& arguments : all_arguments()) refuse_arguments(reader, where, arguments);
  refuse_processing(reader, where);
  refuse_other_output(reader, where, task);
  if (reader.find("tokenizer_name_or_path") != nullptr)
    throw UnsupportedError(where,
                           ": tokenizer_name_or_path is not supported; put the tokenizer's files into "
                           "the folder and take the key out");
  std::optional<std::int64_t> length;
  for (const char* key : {"tokenizer_args", "processor_kwargs"}) {  // The last one counts.
    const Json* given = reader.find(key);
    if (given == nullptr || !given->contains("model_max_length")) continue;
    ConfigReader(*given, where + ": " + key).read("model_max_length", length);
    if (length && *length < 1)
      throw FormatError(where, ": ", key, ": model_max_length must be at least 1, not ", *length);
  }
  return length;
}

/// "No limit" is a huge number there.
std::optional<std::int64_t> model_max_length(const fs::path& directory, std::int64_t longest) {
  const fs::path path = directory / "tokenizer_config.json";
  if (!fs::exists(path)) return std::nullopt;
  const Json json = io::read_json(path);
  std::optional<double> length;
  ConfigReader(json, path.string()).read("model_max_length", length);
  if (!length || *length < 1 || *length >= static_cast<double>(longest)) return std::nullopt;
  return static_cast<std::int64_t>(*length);
}

void read_transformer(const fs::path& directory, std::int64_t longest, const TransformerTask& task,
                      SentenceSettings& settings) {
  std::string where = directory.string();
  settings.transformer_file.content = read_transformer_file(directory, where);
  const Json& found = settings.transformer_file.content;
  const Json json = found.is_null() ? Json::object() : found;
  const std::optional<std::int64_t> argument = check_transformer(json, where, task);
  const ConfigReader reader(json, where);
  std::optional<std::int64_t> length;
  reader.read("max_seq_length", length);
  if (length && *length < 1) throw FormatError(where, ": max_seq_length must be at least 1, not ", *length);
  if (argument) length = argument;
  settings.max_seq_length =
      length ? std::min(*length, longest) : model_max_length(directory, longest).value_or(longest);
  reader.read("do_lower_case", settings.do_lower_case);
}

void read_settings(const fs::path& directory, SentenceSettings& settings) {
  const fs::path path = directory / "config_sentence_transformers.json";
  if (!fs::exists(path)) return;
  const Json& json = settings.settings_file.content = io::read_json(path);
  const ConfigReader reader(json, path.string());
  reader.read("default_prompt_name", settings.default_prompt_name);
  reader.read("similarity_fn_name", settings.similarity_fn_name);
  reader.read("truncate_dim", settings.truncate_dim);
  if (settings.truncate_dim && *settings.truncate_dim < 1)
    throw FormatError(path.string(), ": truncate_dim must be at least 1, not ", *settings.truncate_dim);
  const Json* prompts = reader.find("prompts");
  if (prompts == nullptr) return;
  const ConfigReader texts(*prompts, path.string() + ": prompts");
  for (const auto& [name, text] : prompts->items()) texts.read(name.c_str(), settings.prompts[name]);
}

std::shared_ptr<const text::Tokenizer> lower_cased(const text::Tokenizer& tokenizer,
                                                   const fs::path& directory) {
  if (const auto* known = dynamic_cast<const text::HfTokenizer*>(&tokenizer)) return known->lower_cased();
  throw UnsupportedError(directory.string(),
                         ": do_lower_case is not supported for a tokenizer.model; write a tokenizer.json "
                         "that lower-cases, or lower-case the texts");
}

Json settings_json(const SentenceSettings& settings) {
  Json json = {{"model_type", "SentenceTransformer"},
               {"prompts", Json::object()},
               {"default_prompt_name",
                settings.default_prompt_name ? Json(*settings.default_prompt_name) : Json(nullptr)},
               {"similarity_fn_name", settings.similarity_fn_name}};
  for (const auto& [name, text] : settings.prompts) json["prompts"][name] = text;
  if (settings.truncate_dim) json["truncate_dim"] = *settings.truncate_dim;
  return json;
}

Json transformer_json(const SentenceSettings& settings) {
  return {{"max_seq_length", settings.max_seq_length}, {"do_lower_case", settings.do_lower_case}};
}

/// An argument of the tokenizer would go before a new max_seq_length.
Json transformer_file_json(const SentenceSettings& settings) {
  const Json now = transformer_json(settings);
  const models::ReadJson& file = settings.transformer_file;
  Json json = file.with(now);
  if (file.content.is_null() || file.known["max_seq_length"] == now["max_seq_length"]) return json;
  for (const char* key : {"tokenizer_args", "processor_kwargs"})
    if (json.contains(key) && json[key].is_object()) json[key].erase("model_max_length");
  return json;
}

}  // namespace bitrain::hub
