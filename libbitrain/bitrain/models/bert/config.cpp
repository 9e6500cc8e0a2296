#include <bitrain/models/bert/config.h>

#include <algorithm>
#include <array>
#include <set>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/config_reader.h>
#include <bitrain/models/sizes.h>

namespace bitrain::models {
namespace {

using io::Json;

struct Family {
  const char* model_type;
  const char* architecture;
};
constexpr std::array<Family, 6> kFamilies = {{{"bert", "BertModel"},
                                              {"distilbert", "DistilBertModel"},
                                              {"roberta", "RobertaModel"},
                                              {"xlm-roberta", "XLMRobertaModel"},
                                              {"camembert", "CamembertModel"},
                                              {"xmod", "XmodModel"}}};
constexpr std::array<const char*, 4> kActivations = {"gelu", "gelu_new", "gelu_pytorch_tanh", "relu"};

/// Hugging Face's keys for the shape: DistilBERT has its own.
struct Keys {
  const char* hidden_size = "hidden_size";
  const char* layers = "num_hidden_layers";
  const char* heads = "num_attention_heads";
  const char* intermediate_size = "intermediate_size";
  const char* activation = "hidden_act";
  const char* dropout = "hidden_dropout_prob";
  const char* attention_dropout = "attention_probs_dropout_prob";
  const char* classifier_dropout = "classifier_dropout";
};
constexpr Keys kDistilKeys = {"dim",        "n_layers", "n_heads",           "hidden_dim",
                              "activation", "dropout",  "attention_dropout", "seq_classif_dropout"};

Keys keys_of(const BertConfig& config) {
  return config.is_distilbert() ? kDistilKeys : Keys{};
}

const Family* family(const std::string& model_type) {
  const auto* found = std::find_if(kFamilies.begin(), kFamilies.end(),
                                   [&](const Family& known) { return known.model_type == model_type; });
  return found == kFamilies.end() ? nullptr : found;
}

std::string known_families() {
  std::vector<std::string> names;
  names.reserve(kFamilies.size());
  for (const Family& known : kFamilies) names.emplace_back(known.model_type);
  return join(names, ", ");
}

bool known_activation(const std::string& name) {
  return std::find(kActivations.begin(), kActivations.end(), name) != kActivations.end();
}

/// The list of languages; ConfigReader has no lists of strings.
void read_languages(const ConfigReader& reader, const std::string& name, BertConfig& config) {
  const Json* json = reader.find("languages");
  if (!json) return;
  config.languages.clear();
  if (!json->is_array()) throw FormatError(name, ": languages: a list was expected");
  for (const Json& element : *json) {
    if (!element.is_string()) throw FormatError(name, ": languages: a list of strings was expected");
    config.languages.push_back(element.get<std::string>());
  }
}

void check_adapters(const BertConfig& config) {
  if (config.languages.empty()) throw ConfigError("an xmod model needs at least one of languages");
  if (std::set<std::string>(config.languages.begin(), config.languages.end()).size() !=
      config.languages.size()) {
    throw ConfigError("languages lists a language twice: ", join(config.languages, ", "));
  }
  if (config.adapter_reduction_factor < 1 || config.adapter_reduction_factor > config.hidden_size) {
    throw ConfigError("adapter_reduction_factor must lie between 1 and hidden_size (", config.hidden_size,
                      "), not ", config.adapter_reduction_factor);
  }
  if (config.default_language && std::find(config.languages.begin(), config.languages.end(),
                                           *config.default_language) == config.languages.end()) {
    throw ConfigError("default_language '", *config.default_language,
                      "' has no adapter; there are: ", join(config.languages, ", "));
  }
}

template <class T>
Json optional_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

/// Every key, as for a model made here.
Json all_keys(const BertConfig& config) {
  const Keys keys = keys_of(config);
  Json json = {{"architectures", {family(config.model_type)->architecture}},
               {"model_type", config.model_type},
               {"vocab_size", config.vocab_size},
               {keys.hidden_size, config.hidden_size},
               {keys.layers, config.num_hidden_layers},
               {keys.heads, config.num_attention_heads},
               {keys.intermediate_size, config.intermediate_size},
               {keys.activation, config.hidden_act},
               {keys.dropout, config.hidden_dropout_prob},
               {keys.attention_dropout, config.attention_probs_dropout_prob},
               {"max_position_embeddings", config.max_position_embeddings},
               {"initializer_range", config.initializer_range},
               {"pad_token_id", config.pad_token_id},
               {"bos_token_id", optional_json(config.bos_token_id)},
               {"eos_token_id", optional_json(config.eos_token_id)}};
  if (config.classifier_dropout) json[keys.classifier_dropout] = *config.classifier_dropout;
  if (!config.is_distilbert()) {
    json["type_vocab_size"] = config.type_vocab_size;
    json["layer_norm_eps"] = config.layer_norm_eps;
    json["position_embedding_type"] = "absolute";
  }
  if (config.has_language_adapters()) {
    json["pre_norm"] = config.pre_norm;
    json["adapter_reduction_factor"] = config.adapter_reduction_factor;
    json["adapter_layer_norm"] = config.adapter_layer_norm;
    json["adapter_reuse_layer_norm"] = config.adapter_reuse_layer_norm;
    json["ln_before_adapter"] = config.ln_before_adapter;
    json["languages"] = config.languages;
    json["default_language"] = optional_json(config.default_language);
  }
  return json;
}

/// transformers reads a DistilBERT's shape under the usual names too, and of two numbers passes over one.
void refuse_two_shapes(const Json& json, const std::string& name) {
  constexpr Keys kUsual = {};
  const std::array<std::pair<const char*, const char*>, 3> twins = {
      {{kDistilKeys.hidden_size, kUsual.hidden_size},
       {kDistilKeys.layers, kUsual.layers},
       {kDistilKeys.heads, kUsual.heads}}};
  for (const auto& [own, usual] : twins) {
    if (!json.contains(own) || !json.contains(usual) || json[own] == json[usual]) continue;
    throw FormatError(name, ": ", own, " is ", json[own].dump(), ", but ", usual, " is ", json[usual].dump(),
                      "; they name the same number: take one of them out");
  }
}

}  // namespace

void check(const BertConfig& config) {
  if (family(config.model_type) == nullptr)
    throw ConfigError("unknown model_type '", config.model_type, "'; there are: ", known_families());
  if (!known_activation(config.hidden_act)) {
    throw ConfigError("unknown hidden_act '", config.hidden_act,
                      "'; there are: gelu, gelu_new, gelu_pytorch_tanh, relu");
  }
  check_size("vocab_size", config.vocab_size, kMostRows);
  check_size("hidden_size", config.hidden_size, kMostWidth);
  check_size("num_hidden_layers", config.num_hidden_layers, kMostLayers);
  check_size("num_attention_heads", config.num_attention_heads, kMostLayers);
  check_size("intermediate_size", config.intermediate_size, kMostWidth);
  check_size("type_vocab_size", config.type_vocab_size, kMostRows);
  if (config.hidden_size % config.num_attention_heads != 0) {
    throw ConfigError("hidden_size (", config.hidden_size, ") must be a multiple of num_attention_heads (",
                      config.num_attention_heads, ")");
  }
  if (config.pad_token_id < 0 || config.pad_token_id >= config.vocab_size) {
    throw ConfigError("pad_token_id (", config.pad_token_id, ") lies outside the vocabulary of ",
                      config.vocab_size);
  }
  check_size("max_position_embeddings", config.max_position_embeddings, kMostPositions);
  if (config.max_position_embeddings <= config.first_position()) {
    throw ConfigError("max_position_embeddings (", config.max_position_embeddings,
                      ") leaves no position: the first is ", config.first_position());
  }
  if (!(config.layer_norm_eps > 0)) throw ConfigError("layer_norm_eps must be above 0");
  if (!(config.hidden_dropout_prob >= 0 && config.hidden_dropout_prob < 1))
    throw ConfigError("hidden_dropout_prob must lie in [0, 1), not ", config.hidden_dropout_prob);
  if (config.classifier_dropout && !(*config.classifier_dropout >= 0 && *config.classifier_dropout < 1))
    throw ConfigError("classifier_dropout must lie in [0, 1), not ", *config.classifier_dropout);
  if (config.has_language_adapters()) check_adapters(config);
}

nn::Activation activation_of(const BertConfig& config) {
  if (config.hidden_act == "relu") return nn::Activation::kRelu;
  return config.hidden_act == "gelu" ? nn::Activation::kGelu : nn::Activation::kGeluTanh;
}

BertConfig bert_config_from_json(const Json& json, const std::string& name) {
  const ConfigReader reader(json, name);
  BertConfig config;
  config.read_config = json;
  reader.require("model_type", config.model_type);
  if (family(config.model_type) == nullptr) {
    throw UnsupportedError(name, ": model_type '", config.model_type,
                           "' is not supported as an encoder; there are: ", known_families());
  }
  if (config.model_type != "bert" && !config.is_distilbert()) {
    config.pad_token_id = 1;
    config.bos_token_id = 0;
    config.eos_token_id = 2;
  }
  if (config.is_distilbert()) refuse_two_shapes(json, name);
  const Keys keys = keys_of(config);
  reader.require("vocab_size", config.vocab_size);
  reader.require(keys.hidden_size, config.hidden_size);
  reader.require(keys.layers, config.num_hidden_layers);
  reader.require(keys.heads, config.num_attention_heads);
  reader.read(keys.intermediate_size, config.intermediate_size);
  reader.read(keys.activation, config.hidden_act);
  reader.read(keys.dropout, config.hidden_dropout_prob);
  reader.read(keys.attention_dropout, config.attention_probs_dropout_prob);
  reader.read(keys.classifier_dropout, config.classifier_dropout);
  reader.read("max_position_embeddings", config.max_position_embeddings);
  reader.read("initializer_range", config.initializer_range);
  if (!config.is_distilbert()) {
    reader.read("type_vocab_size", config.type_vocab_size);
    reader.read("layer_norm_eps", config.layer_norm_eps);
  }
  reader.read("pad_token_id", config.pad_token_id);
  if (reader.find("bos_token_id")) reader.read("bos_token_id", config.bos_token_id);
  if (reader.find("eos_token_id")) reader.read("eos_token_id", config.eos_token_id);
  if (config.has_language_adapters()) {
    reader.read("pre_norm", config.pre_norm);
    reader.read("adapter_reduction_factor", config.adapter_reduction_factor);
    reader.read("adapter_layer_norm", config.adapter_layer_norm);
    reader.read("adapter_reuse_layer_norm", config.adapter_reuse_layer_norm);
    reader.read("ln_before_adapter", config.ln_before_adapter);
    read_languages(reader, name, config);
    reader.read("default_language", config.default_language);
  }
  std::string positions = "absolute";
  reader.read("position_embedding_type", positions);
  if (positions != "absolute") {
    throw UnsupportedError(name, ": position_embedding_type '", positions,
                           "' is not supported; there is absolute");
  }
  bool decoder = false;
  reader.read("is_decoder", decoder);
  if (decoder) throw UnsupportedError(name, ": is_decoder: this family is supported as an encoder only");
  bool causal = false;
  reader.read("is_causal", causal);
  if (causal) {
    throw UnsupportedError(name,
                           ": is_causal: tokens of this model do not see those after them, which is not "
                           "supported for this family; if it is an encoder, take the key out");
  }
  if (!known_activation(config.hidden_act)) {
    throw UnsupportedError(name, ": ", keys.activation, " '", config.hidden_act,
                           "' is not supported; there are: gelu, gelu_new, gelu_pytorch_tanh, relu");
  }
  try {
    check(config);
  } catch (Error& error) {
    error.add_context(name);
    throw;
  }
  return config;
}

Json config_to_json(const BertConfig& config) {
  const Json now = all_keys(config);
  if (config.read_config.is_null()) return now;
  Json json = carry_over(config.read_config, all_keys(bert_config_from_json(config.read_config)), now);
  json["architectures"] = now["architectures"];  // The file may have been that of a model with a head.
  return json;
}

}  // namespace bitrain::models
