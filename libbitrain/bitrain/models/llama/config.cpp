#include <bitrain/models/llama/config.h>

#include <bitrain/base/error.h>
#include <bitrain/models/config_reader.h>
#include <bitrain/models/sizes.h>

namespace bitrain::models {
namespace {

using io::Json;

/// The keys without which transformers computes nothing; `null` is the factor only of yarn.
void require_rope_keys(const Json& json, const ConfigReader& reader, RopeParameters& rope,
                       std::int64_t longest, std::int64_t original) {
  if (rope.rope_type == "default") return;
  if (rope.rope_type == "yarn" && json.contains("factor") && json["factor"].is_null())
    rope.factor = static_cast<double>(longest) / static_cast<double>(original > 0 ? original : longest);
  else
    reader.require("factor", rope.factor);
  if (rope.rope_type != "llama3") return;
  reader.require("low_freq_factor", rope.low_freq_factor);
  reader.require("high_freq_factor", rope.high_freq_factor);
}

void read_rope(const Json& json, const std::string& name, LlamaConfig& config) {
  RopeParameters& rope = config.rope_parameters;
  const ConfigReader top(json, name);
  top.read("rope_theta", rope.rope_theta);
  // transformers 5 writes rope_parameters; before, the scaling stood apart from rope_theta. Of both, as it
  // reads them, the old key counts, unless it is empty.
  const Json* old = top.find("rope_scaling");
  const char* key = old != nullptr && !old->empty() ? "rope_scaling" : "rope_parameters";
  const Json* found = top.find(key);
  if (!found) return;
  const ConfigReader reader(*found, name + ": " + key);
  reader.read("type", rope.rope_type);
  reader.read("rope_type", rope.rope_type);
  reader.read("rope_theta", rope.rope_theta);
  double partial = 1.0;
  reader.read("partial_rotary_factor", partial);
  if (partial != 1.0)
    throw UnsupportedError(name, ": partial_rotary_factor ", partial, ": only whole heads are rotated");
  reader.read("original_max_position_embeddings", rope.original_max_position_embeddings);
  top.read("original_max_position_embeddings", rope.original_max_position_embeddings);  // Goes before it.
  reader.read("attention_factor", rope.attention_factor);
  reader.read("beta_fast", rope.beta_fast);
  reader.read("beta_slow", rope.beta_slow);
  reader.read("mscale", rope.mscale);
  reader.read("mscale_all_dim", rope.mscale_all_dim);
  reader.read("truncate", rope.truncate);
  const std::string& type = rope.rope_type;
  if (type != "default" && type != "linear" && type != "llama3" && type != "yarn") {
    throw UnsupportedError(name, ": rotary scaling '", type,
                           "' is not supported; there are: default, linear, llama3, yarn");
  }
  require_rope_keys(*found, reader, rope, config.max_position_embeddings,
                    rope.original_max_position_embeddings);
}

/// Of Mistral always a window, of Qwen 2 where use_sliding_window says so; 4096 where the file has no number.
void read_window(const Json& json, const ConfigReader& reader, LlamaConfig& config) {
  bool used = config.model_type == "mistral";
  if (config.model_type == "qwen2") reader.read("use_sliding_window", used);
  if (!used) return;
  if (json.contains("sliding_window"))
    reader.read("sliding_window", config.sliding_window);
  else
    config.sliding_window = 4096;
}

/// Embedding models made of decoders (gte-Qwen2, LLM2Vec) say so; null is false in transformers.
void refuse_both_ways(const Json& json, const std::string& name) {
  const auto causal = json.find("is_causal");
  if (causal == json.end() || *causal == true) return;
  throw UnsupportedError(name, ": is_causal: ", causal->dump(),
                         ": tokens of this model see those after them, which is not supported; if it is a "
                         "decoder, take the key out");
}

/// The keys whose default depends on the family, as in transformers.
void family_defaults(LlamaConfig& config) {
  if (config.model_type != "llama")
    config.max_position_embeddings = config.model_type == "mistral" ? 131072 : 32768;
  if (config.model_type == "mistral") {
    config.intermediate_size = 14336;
    config.num_key_value_heads = 8;
  } else if (config.model_type == "qwen2") {
    config.intermediate_size = 22016;
    config.vocab_size = 151936;
  }
}

Json rope_to_json(const LlamaConfig& config) {
  const RopeParameters& rope = config.rope_parameters;
  Json json = {{"rope_type", rope.rope_type}};
  if (rope.rope_type == "default") return json;
  json["factor"] = rope.factor;
  if (rope.rope_type == "linear") return json;
  json["original_max_position_embeddings"] = rope.original_max_position_embeddings > 0
                                                 ? rope.original_max_position_embeddings
                                                 : config.max_position_embeddings;
  if (rope.rope_type == "llama3") {
    json["low_freq_factor"] = rope.low_freq_factor;
    json["high_freq_factor"] = rope.high_freq_factor;
    return json;
  }
  json["beta_fast"] = rope.beta_fast;
  json["beta_slow"] = rope.beta_slow;
  if (rope.attention_factor) json["attention_factor"] = *rope.attention_factor;
  if (rope.mscale) json["mscale"] = *rope.mscale;
  if (rope.mscale_all_dim) json["mscale_all_dim"] = *rope.mscale_all_dim;
  if (!rope.truncate) json["truncate"] = false;
  return json;
}

template <class T>
Json optional_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

const char* architecture(const std::string& model_type) {
  if (model_type == "mistral") return "MistralForCausalLM";
  if (model_type == "qwen2") return "Qwen2ForCausalLM";
  return "LlamaForCausalLM";
}

/// Every key, as for a model made here.
Json all_keys(const LlamaConfig& config) {
  Json json = {{"architectures", {architecture(config.model_type)}},
               {"model_type", config.model_type},
               {"vocab_size", config.vocab_size},
               {"hidden_size", config.hidden_size},
               {"intermediate_size", config.intermediate_size},
               {"num_hidden_layers", config.num_hidden_layers},
               {"num_attention_heads", config.num_attention_heads},
               {"num_key_value_heads", config.key_value_heads()},
               {"hidden_act", "silu"},
               {"max_position_embeddings", config.max_position_embeddings},
               {"initializer_range", config.initializer_range},
               {"rms_norm_eps", config.rms_norm_eps},
               {"tie_word_embeddings", config.tie_word_embeddings},
               {"attention_dropout", 0.0},
               {"use_cache", true}};
  if (config.model_type != "qwen2" || config.head_dim) json["head_dim"] = config.head_width();
  if (config.model_type == "llama") {
    json["attention_bias"] = config.attention_bias;
    json["mlp_bias"] = config.mlp_bias;
  } else {
    json["sliding_window"] = optional_json(config.sliding_window);
  }
  if (config.model_type == "qwen2") json["use_sliding_window"] = config.sliding_window.has_value();
  json["bos_token_id"] = optional_json(config.bos_token_id);
  if (config.eos_token_id.empty())
    json["eos_token_id"] = nullptr;
  else if (config.eos_token_id.size() == 1)
    json["eos_token_id"] = config.eos_token_id.front();
  else
    json["eos_token_id"] = config.eos_token_id;
  json["pad_token_id"] = optional_json(config.pad_token_id);
  Json rope = rope_to_json(config);
  json["rope_theta"] = config.rope_parameters.rope_theta;
  json["rope_scaling"] = config.rope_parameters.rope_type == "default" ? Json(nullptr) : rope;
  rope["rope_theta"] = config.rope_parameters.rope_theta;
  json["rope_parameters"] = std::move(rope);
  return json;
}

void check_rope(const LlamaConfig& config) {
  const RopeParameters& rope = config.rope_parameters;
  if (!(rope.rope_theta > 1)) throw ConfigError("rope_theta must be above 1, not ", rope.rope_theta);
  if (rope.rope_type == "default") return;
  if (rope.rope_type != "linear" && rope.rope_type != "llama3" && rope.rope_type != "yarn") {
    throw ConfigError("unknown rope_type '", rope.rope_type, "'; there are: default, linear, llama3, yarn");
  }
  if (!(rope.factor >= 1)) throw ConfigError("the rotary factor must be at least 1, not ", rope.factor);
  if (rope.rope_type == "llama3" &&
      !(rope.high_freq_factor > rope.low_freq_factor && rope.low_freq_factor > 0)) {
    throw ConfigError("llama3 rotary scaling needs high_freq_factor above low_freq_factor above 0, not ",
                      rope.high_freq_factor, " and ", rope.low_freq_factor);
  }
  if (rope.rope_type == "yarn" && !(rope.beta_fast > 0 && rope.beta_slow > 0))
    throw ConfigError("yarn needs beta_fast and beta_slow above 0");
}

}  // namespace

void check(const LlamaConfig& config) {
  const std::string& type = config.model_type;
  if (type != "llama" && type != "mistral" && type != "qwen2")
    throw ConfigError("unknown model_type '", type, "'; there are: llama, mistral, qwen2");
  check_size("vocab_size", config.vocab_size, kMostRows);
  check_size("hidden_size", config.hidden_size, kMostWidth);
  check_size("intermediate_size", config.intermediate_size, kMostWidth);
  check_size("num_hidden_layers", config.num_hidden_layers, kMostLayers);
  check_size("num_attention_heads", config.num_attention_heads, kMostLayers);
  check_size("num_key_value_heads", config.key_value_heads(), kMostLayers);
  check_size("max_position_embeddings", config.max_position_embeddings, kMostPositions);
  if (config.sliding_window) check_size("sliding_window", *config.sliding_window, kMostPositions);
  if (config.num_attention_heads % config.key_value_heads() != 0) {
    throw ConfigError("num_attention_heads (", config.num_attention_heads,
                      ") must be a multiple of num_key_value_heads (", config.key_value_heads(), ")");
  }
  if (!config.head_dim && config.hidden_size % config.num_attention_heads != 0) {
    throw ConfigError("hidden_size (", config.hidden_size, ") must be a multiple of num_attention_heads (",
                      config.num_attention_heads, "), unless head_dim is given");
  }
  check_size("head_dim", config.head_width(), kMostHeadWidth);
  if (config.head_width() < 2 || config.head_width() % 2 != 0)
    throw ConfigError("the width of a head must be even for rotary positions, not ", config.head_width());
  if (!(config.rms_norm_eps > 0)) throw ConfigError("rms_norm_eps must be above 0");
  const auto in_vocabulary = [&](const char* key, std::int64_t id) {
    if (id < 0 || id >= config.vocab_size)
      throw ConfigError(key, " (", id, ") lies outside the vocabulary of ", config.vocab_size);
  };
  if (config.bos_token_id) in_vocabulary("bos_token_id", *config.bos_token_id);
  for (const std::int64_t id : config.eos_token_id) in_vocabulary("eos_token_id", id);
  check_rope(config);
}

LlamaConfig config_from_json(const Json& json, const std::string& name) {
  const ConfigReader reader(json, name);
  LlamaConfig config;
  config.read_config = json;
  reader.require("model_type", config.model_type);
  if (config.model_type != "llama" && config.model_type != "mistral" && config.model_type != "qwen2") {
    throw UnsupportedError(name, ": model_type '", config.model_type,
                           "' is not supported; there are: llama, mistral, qwen2");
  }
  family_defaults(config);
  reader.require("vocab_size", config.vocab_size);
  reader.require("hidden_size", config.hidden_size);
  reader.require("num_hidden_layers", config.num_hidden_layers);
  reader.require("num_attention_heads", config.num_attention_heads);
  reader.read("intermediate_size", config.intermediate_size);
  if (reader.find("num_key_value_heads")) reader.read("num_key_value_heads", config.num_key_value_heads);
  reader.read("head_dim", config.head_dim);
  reader.read("max_position_embeddings", config.max_position_embeddings);
  reader.read("rms_norm_eps", config.rms_norm_eps);
  reader.read("initializer_range", config.initializer_range);
  reader.read("tie_word_embeddings", config.tie_word_embeddings);
  reader.read("attention_bias", config.attention_bias);
  reader.read("mlp_bias", config.mlp_bias);
  read_window(json, reader, config);
  reader.read("bos_token_id", config.bos_token_id);
  reader.read("eos_token_id", config.eos_token_id);
  reader.read("pad_token_id", config.pad_token_id);
  std::string activation = "silu";
  reader.read("hidden_act", activation);
  if (activation != "silu" && activation != "swish")
    throw UnsupportedError(name, ": hidden_act '", activation, "': this family is supported with silu only");
  refuse_both_ways(json, name);
  read_rope(json, name, config);
  try {
    check(config);
  } catch (Error& error) {
    error.add_context(name);
    throw;
  }
  return config;
}

std::vector<std::int64_t> LlamaConfig::stop_token_ids() const {
  if (!generation_config.is_object() || !generation_config.contains("eos_token_id")) return eos_token_id;
  std::vector<std::int64_t> ids;
  ConfigReader(generation_config, "generation_config.json").read("eos_token_id", ids);
  return ids;
}

Json config_to_json(const LlamaConfig& config) {
  if (config.read_config.is_null()) return all_keys(config);
  Json json =
      carry_over(config.read_config, all_keys(config_from_json(config.read_config)), all_keys(config));
  const auto scaling = [](const Json& of) { return of.value("rope_scaling", Json()); };
  // It goes before rope_parameters, and has no rope_theta of its own.
  if (scaling(json) != scaling(config.read_config)) json["rope_theta"] = config.rope_parameters.rope_theta;
  return json;
}

}  // namespace bitrain::models
