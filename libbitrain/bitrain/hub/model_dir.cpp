#include <bitrain/hub/model_dir.h>

#include <algorithm>
#include <string>
#include <vector>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/bitsandbytes.h>
#include <bitrain/hub/config_sizes.h>
#include <bitrain/hub/weights.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/json.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

using io::Json;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

/// generation_config.json of a model that came with none.
Json generation_config(const models::LlamaConfig& config) {
  const Json full = models::config_to_json(config);
  Json json = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (full.contains(key) && !full[key].is_null()) json[key] = full[key];
  return json;
}

Json read_generation_config(const fs::path& directory) {
  const fs::path path = directory / "generation_config.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nullptr;
  Json json = io::read_json(path);
  if (!json.is_object()) throw FormatError(path.string(), ": not an object");
  return json;
}

/// As transformers does: where config.json ties the head to the embedding and the file has both, with other
/// numbers, the file's head is used.
void settle_tie(models::LlamaConfig& config, const io::TensorSource& source) {
  const bool both = source.contains(kEmbedding) && source.contains(kHead);
  if (!config.tie_word_embeddings || !both || same_tensor(source, kEmbedding, kHead)) return;
  log_warn(source.where(), ": config.json has tie_word_embeddings: true, but ", kHead, " differs from ",
           kEmbedding, "; the file's head is used, and the model is written with tie_word_embeddings: false");
  config.tie_word_embeddings = false;
}

/// How the file's names differ, by whether the head is the embedding.
WeightNames names_of(const models::LanguageModel& model, const io::TensorSource& source) {
  WeightNames names;
  names.in_file = [&source, tied = model.tied()](const std::string& name) {
    const bool head_alone = tied && name == kEmbedding && !source.contains(name) && source.contains(kHead);
    return head_alone ? std::string(kHead) : name;
  };
  names.harmless = [tied = model.tied()](const std::string& name) {
    // Tensors of old files that hold nothing trained, and a tied head that was saved all the same.
    return ends_with(name, "rotary_emb.inv_freq") || (tied && name == kHead);
  };
  names.advice = [](const std::string& name) -> std::string {
    if (name != kHead) return "";
    return " (config.json has no tie_word_embeddings: true; set it if the head is the embedding)";
  };
  return names;
}

WantedSizes sizes_of(const models::LlamaConfig& config, const io::TensorSource& source) {
  const std::int64_t width = config.hidden_size;
  const auto heads = [&](std::int64_t count) { return saturating_product(count, config.head_width()); };
  return {"model.layers.",
          config.num_hidden_layers,
          {{source.contains(kEmbedding) ? kEmbedding : kHead, {config.vocab_size, width}},
           {"model.layers.0.self_attn.q_proj.weight", {heads(config.num_attention_heads), width}},
           {"model.layers.0.self_attn.k_proj.weight", {heads(config.key_value_heads()), width}},
           {"model.layers.0.mlp.up_proj.weight", {config.intermediate_size, width}}}};
}

/// A model that is trained to end its turns with one token and stopped at another never stops.
void compare_eos(const text::Tokenizer& tokenizer, const models::LlamaConfig& config,
                 const fs::path& directory) {
  const std::optional<text::TokenId> eos = tokenizer.special_tokens().eos;
  const std::vector<std::int64_t> stops = config.stop_token_ids();
  if (!eos || stops.empty() || std::find(stops.begin(), stops.end(), *eos) != stops.end()) return;
  log_warn(directory.string(), ": the tokenizer ends texts with '", tokenizer.id_to_piece(*eos), "' (id ",
           *eos, "), but eos_token_id of ",
           config.generation_config.is_null() ? "config.json" : "generation_config.json", " is ",
           at::IntArrayRef(stops), ": servers will not stop at what training teaches; add the id there");
}

}  // namespace

void check_sizes(const fs::path& directory, const models::LlamaConfig& config) {
  if (!has_weights(directory)) return;
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
  check_sizes(source, sizes_of(config, source));
}

void check_vocabulary(const text::Tokenizer& tokenizer, std::int64_t rows) {
  const std::int64_t ids = tokenizer.vocab_size();
  if (ids <= rows) return;
  constexpr std::int64_t kShown = 4;
  std::vector<std::string> without;
  for (std::int64_t id = rows; id < std::min(ids, rows + kShown); ++id) {
    try {
      without.push_back(to_text("'", tokenizer.id_to_piece(static_cast<text::TokenId>(id)), "' (", id, ")"));
    } catch (const DataError&) {  // A number between those of pieces and of added tokens.
    }
  }
  throw ConfigError("the tokenizer has ", ids, " ids, but the model only ", rows,
                    " rows: ", join(without, ", "), ids > rows + kShown ? " and more" : "",
                    ids == rows + 1 ? " has" : " have",
                    " none. If the tokenizer is the model's, take these tokens out of its files (those that "
                    "no file has are "
                    "made by the tokenizer_class; PreTrainedTokenizerFast makes none), or give the model "
                    "rows for them: resize_token_embeddings(",
                    ids, ") and save_pretrained in transformers");
}

void check_vocabulary(const text::Tokenizer& tokenizer, const models::LanguageModel& model) {
  check_vocabulary(tokenizer, model.config().vocab_size);
}

io::Json read_config(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) throw IoError(directory.string(), " is no folder");
  const fs::path path = directory / "config.json";
  if (!fs::exists(path, ignored))
    throw IoError(directory.string(), " has no config.json: it is no model folder",
                  fs::exists(directory / "adapter_config.json", ignored)
                      ? " but an adapter; open its base model, then load it"
                      : "");
  refuse_adapter_beside(directory);
  return io::read_json(path);
}

void refuse_adapter_beside(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::exists(directory / "adapter_config.json", ignored)) return;
  throw UnsupportedError(
      directory.string(),
      ": adapter_config.json beside config.json: transformers loads the adapter from such a folder, "
      "on the base that adapter_config.json names; here a folder is either a model or an adapter: "
      "move the files of one of the two to a folder of their own");
}

OpenedModel open_model(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  const Json json = read_config(directory);
  const fs::path config_path = directory / "config.json";
  models::LlamaConfig config = models::config_from_json(json, config_path.string());
  config.generation_config = read_generation_config(directory);
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
  check_sizes(source, sizes_of(config, source));
  settle_tie(config, source);
  const at::ScalarType dtype =
      options.dtype ? *options.dtype : dtype_in(json, config_path.string()).value_or(file_dtype(source));
  if (json.contains("quantization_config") && !json["quantization_config"].is_null())
    (void)parse_quantization_config(json["quantization_config"], config_path.string());

  OpenedModel opened;
  opened.model = models::make_llama(config, at::TensorOptions().dtype(dtype));
  const WeightNames names = names_of(*opened.model, source);
  load_weights(*opened.model, source, dtype, options.device, names, [&](nn::Unit& layer) {
    if (options.quantize) models::quantize(layer, *options.quantize);
    if (options.layer_loaded) options.layer_loaded(*opened.model, layer);
  });
  if (options.quantize) models::quantize(*opened.model, *options.quantize);
  if (options.tokenizer) {
    opened.tokenizer = text::open_tokenizer(directory);
    try {
      check_vocabulary(*opened.tokenizer, *opened.model);
    } catch (Error& error) {
      error.add_context(directory.string());
      throw;
    }
    compare_eos(*opened.tokenizer, opened.model->config(), directory);
  }
  return opened;
}

void save_model(const fs::path& directory, models::LanguageModel& model, const text::Tokenizer* tokenizer,
                const SaveOptions& options) {
  const at::NoGradGuard no_grad;
  if (tokenizer != nullptr) check_vocabulary(*tokenizer, model);
  const CollectedWeights weights = collect_weights(model, options.dtype);
  Json config = models::config_to_json(model.config());
  add_dtype(config, weights);
  io::AtomicDirectory folder(directory);
  io::write_json(folder.path() / "config.json", config);
  const Json& generation = model.config().generation_config;
  io::write_json(folder.path() / "generation_config.json",
                 generation.is_null() ? generation_config(model.config()) : generation);
  io::write_safetensors_folder(folder.path(), weights.tensors, options.max_shard_bytes, weights.load);
  if (tokenizer != nullptr) tokenizer->save(folder.path());
  folder.commit();
}

}  // namespace bitrain::hub
