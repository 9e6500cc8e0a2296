#include <bitrain/hub/model_dir.h>

#include <string>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/bitsandbytes.h>
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

Json generation_config(const models::LlamaConfig& config) {
  const Json full = models::config_to_json(config);
  Json json = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (full.contains(key) && !full[key].is_null()) json[key] = full[key];
  return json;
}

}  // namespace

void check_vocabulary(const text::Tokenizer& tokenizer, std::int64_t rows) {
  if (tokenizer.vocab_size() <= rows) return;
  throw ConfigError("the tokenizer has ", tokenizer.vocab_size(), " ids, but the model only ", rows,
                    " rows: they do not belong together, or the model's vocabulary was not extended");
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
  return io::read_json(path);
}

OpenedModel open_model(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  const Json json = read_config(directory);
  const fs::path config_path = directory / "config.json";
  const models::LlamaConfig config = models::config_from_json(json, config_path.string());
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
  const at::ScalarType dtype =
      options.dtype ? *options.dtype : dtype_in(json, config_path.string()).value_or(file_dtype(source));
  if (json.contains("quantization_config"))
    (void)parse_quantization_config(json["quantization_config"], config_path.string());

  OpenedModel opened;
  opened.model = models::make_llama(config, at::TensorOptions().dtype(dtype));
  WeightNames names;
  names.harmless = [tied = opened.model->tied()](const std::string& name) {
    // Tensors of old files that hold nothing trained, and a tied head that was saved all the same.
    return ends_with(name, "rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
  };
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
  io::write_json(folder.path() / "generation_config.json", generation_config(model.config()));
  io::write_safetensors_folder(folder.path(), weights.tensors, options.max_shard_bytes, weights.load);
  if (tokenizer != nullptr) tokenizer->save(folder.path());
  folder.commit();
}

}  // namespace bitrain::hub
