#include <bitrain/hub/encoder_dir.h>

#include <algorithm>
#include <string>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/bitsandbytes.h>
#include <bitrain/hub/weights.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/models/quantize.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

/// What stands before the names of the bare model in this file: nothing, or the name that models with a head
/// give it.
std::string prefix_in(const io::TensorSource& source, const models::BertConfig& config) {
  const std::string prefix = config.model_type == "bert" ? "bert." : "roberta.";
  const auto& names = source.names();
  const bool used = std::any_of(names.begin(), names.end(),
                                [&](const std::string& name) { return starts_with(name, prefix); });
  return used ? prefix : "";
}

/// TensorFlow's name of a tensor of a norm; the same name for all others.
std::string tensorflow_name(const std::string& name) {
  const auto renamed = [&](const char* ours, const char* theirs) {
    return name.substr(0, name.size() - std::string(ours).size()) + theirs;
  };
  if (ends_with(name, "LayerNorm.weight")) return renamed("weight", "gamma");
  if (ends_with(name, "LayerNorm.bias")) return renamed("bias", "beta");
  return name;
}

WeightNames names_in(const io::TensorSource& source, const std::string& prefix) {
  WeightNames names;
  names.in_file = [&source, prefix](const std::string& name) {
    const std::string full = prefix + name;
    const std::string old = tensorflow_name(full);
    return !source.contains(full) && source.contains(old) ? old : full;
  };
  names.harmless = [prefix](const std::string& name) {
    const bool buffer = ends_with(name, "embeddings.position_ids") || ends_with(name, "token_type_ids");
    return buffer || (!prefix.empty() && !starts_with(name, prefix));
  };
  return names;
}

}  // namespace

OpenedEncoder open_encoder(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  const io::Json json = read_config(directory);
  const std::string where = (directory / "config.json").string();
  const models::BertConfig config = models::bert_config_from_json(json, where);
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
  const at::ScalarType dtype =
      options.dtype ? *options.dtype : dtype_in(json, where).value_or(file_dtype(source));
  if (json.contains("quantization_config"))
    (void)parse_quantization_config(json["quantization_config"], where);

  const std::string prefix = prefix_in(source, config);
  OpenedEncoder opened;
  opened.model = models::make_bert(config, at::TensorOptions().dtype(dtype),
                                   /*pooler=*/source.contains(prefix + "pooler.dense.weight"));
  load_weights(*opened.model, source, dtype, options.device, names_in(source, prefix));
  if (options.quantize) models::quantize(*opened.model, *options.quantize);
  if (options.tokenizer) {
    opened.tokenizer = text::open_tokenizer(directory);
    try {
      check_vocabulary(*opened.tokenizer, config.vocab_size);
    } catch (Error& error) {
      error.add_context(directory.string());
      throw;
    }
  }
  return opened;
}

void write_encoder(const fs::path& directory, models::EncoderModel& model, const text::Tokenizer* tokenizer,
                   const SaveOptions& options) {
  const at::NoGradGuard no_grad;
  if (tokenizer != nullptr) check_vocabulary(*tokenizer, model.config().vocab_size);
  const CollectedWeights weights = collect_weights(model, options.dtype);
  io::Json config = models::config_to_json(model.config());
  add_dtype(config, weights);
  io::write_json(directory / "config.json", config);
  io::write_safetensors_folder(directory, weights.tensors, options.max_shard_bytes);
  if (tokenizer != nullptr) tokenizer->save(directory);
}

void save_encoder(const fs::path& directory, models::EncoderModel& model, const text::Tokenizer* tokenizer,
                  const SaveOptions& options) {
  io::AtomicDirectory folder(directory);
  write_encoder(folder.path(), model, tokenizer, options);
  folder.commit();
}

}  // namespace bitrain::hub
