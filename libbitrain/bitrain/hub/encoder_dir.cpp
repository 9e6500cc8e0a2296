#include <bitrain/hub/encoder_dir.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/bitsandbytes.h>
#include <bitrain/hub/config_sizes.h>
#include <bitrain/hub/sentence_modules.h>
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
  const std::string prefix = std::string(config.base_name()) + ".";
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

WantedSizes sizes_of(const models::BertConfig& config, const io::TensorSource& source) {
  const std::string prefix = prefix_in(source, config);
  const std::string layers = prefix + (config.is_distilbert() ? "transformer.layer." : "encoder.layer.");
  const std::string embeddings = prefix + "embeddings.";
  const std::int64_t width = config.hidden_size;
  WantedSizes sizes{layers,
                    config.num_hidden_layers,
                    {{embeddings + "word_embeddings.weight", {config.vocab_size, width}},
                     {embeddings + "position_embeddings.weight", {config.max_position_embeddings, width}},
                     {layers + (config.is_distilbert() ? "0.ffn.lin1.weight" : "0.intermediate.dense.weight"),
                      {config.intermediate_size, width}}}};
  if (!config.is_distilbert())
    sizes.tensors.push_back({embeddings + "token_type_embeddings.weight", {config.type_vocab_size, width}});
  if (config.has_language_adapters())  // All of them together: there is no tensor of that name.
    sizes.tensors.push_back({layers + "*.output.adapter_modules.*",
                             {static_cast<std::int64_t>(config.languages.size()), config.num_hidden_layers,
                              2 * (width / config.adapter_reduction_factor), width}});
  return sizes;
}

/// What is read of a folder before its model is made.
struct Folder {
  Folder(const fs::path& directory, const OpenOptions& options)
      : json(read_config(directory)),
        where((directory / "config.json").string()),
        config(models::bert_config_from_json(json, where)),
        source(io::SafetensorsFolder::open(directory)),
        dtype(options.dtype ? *options.dtype : dtype_in(json, where).value_or(file_dtype(source))) {
    check_sizes(source, sizes_of(config, source));
    if (json.contains("quantization_config") && !json["quantization_config"].is_null())
      (void)parse_quantization_config(json["quantization_config"], where);
  }

  io::Json json;
  std::string where;
  models::BertConfig config;
  io::SafetensorsFolder source;
  at::ScalarType dtype;
};

std::shared_ptr<const text::Tokenizer> tokenizer_of(const fs::path& directory,
                                                    const models::BertConfig& config) {
  std::shared_ptr<const text::Tokenizer> tokenizer = text::open_tokenizer(directory);
  try {
    check_vocabulary(*tokenizer, config.vocab_size);
  } catch (Error& error) {
    error.add_context(directory.string());
    throw;
  }
  return tokenizer;
}

void write_files(const fs::path& directory, io::Json config, nn::Module& model,
                 const text::Tokenizer* tokenizer, const SaveOptions& options) {
  const CollectedWeights weights = collect_weights(model, options.dtype);
  add_dtype(config, weights);
  io::write_json(directory / "config.json", config);
  io::write_safetensors_folder(directory, weights.tensors, options.max_shard_bytes, weights.load);
  if (tokenizer != nullptr) tokenizer->save(directory);
}

/// Config of a model with a head: the bare model's architecture with another ending.
io::Json config_with_head(const models::BertConfig& shape, const std::string& ending) {
  io::Json config = models::config_to_json(shape);
  std::string architecture = config["architectures"][0];  // Of the bare model.
  architecture.resize(architecture.size() - std::string("Model").size());
  config["architectures"][0] = architecture + ending;
  return config;
}

/// Names of a model with heads. Files repeat the tied tensors under the names of the decoder; some hold the
/// bias there alone.
WeightNames names_with_heads(const io::TensorSource& source, bool next_sentence) {
  WeightNames names = names_in(source, "");
  names.in_file = [&source, inner = names.in_file](const std::string& name) {
    const bool output_bias = name == "cls.predictions.bias" || name == "lm_head.bias";
    const std::string decoder = name.substr(0, name.size() - std::string("bias").size()) + "decoder.bias";
    return output_bias && !source.contains(name) && source.contains(decoder) ? decoder : inner(name);
  };
  names.harmless = [inner = names.harmless, next_sentence](const std::string& name) {
    const bool repeated = starts_with(name, "cls.predictions.decoder.") ||
                          starts_with(name, "lm_head.decoder.") || name == "vocab_projector.weight";
    const bool pooler = starts_with(name, "bert.pooler.") || starts_with(name, "roberta.pooler.");
    return inner(name) || repeated || (pooler && !next_sentence);
  };
  return names;
}

/// Where the Transformer of a cross-encoder is: in the folder itself, unless modules.json says otherwise.
fs::path cross_encoder_root(const fs::path& directory) {
  if (!fs::exists(directory / "modules.json")) return directory;
  const io::Json modules = io::read_json(directory / "modules.json");
  if (!modules.is_array() || modules.empty() || !modules[0].is_object()) return directory;
  const auto path = modules[0].find("path");
  if (path == modules[0].end() || !path->is_string() || path->get<std::string>().empty()) return directory;
  return read_modules(directory, {"Transformer"}).front().directory;
}

/// What sentence-transformers' CrossEncoder is to know besides the model. Without modules.json it looks at
/// the tokenizer alone for the length.
void read_use(const fs::path& directory, const fs::path& root, OpenedCrossEncoder& opened) {
  SentenceSettings& settings = opened.settings;
  const std::int64_t longest = opened.model->encoder().max_tokens();
  settings.max_seq_length = model_max_length(root, longest).value_or(longest);
  if (fs::exists(directory / "modules.json")) {
    const std::vector<ModuleEntry> modules = read_modules(directory, {"Transformer"});
    if (modules.size() != 1)
      throw UnsupportedError((directory / "modules.json").string(), ": the modules ", names_of(modules),
                             " are not supported; a cross-encoder is one Transformer");
    read_transformer(root, longest, kSequenceClassification, settings);
    if (settings.do_lower_case && opened.tokenizer) opened.tokenizer = lower_cased(*opened.tokenizer, root);
  }
  read_settings(directory, settings);
  settings.settings_file.known = settings_json(settings);
  settings.transformer_file.known = transformer_json(settings);
}

/// The files of sentence-transformers that the folder had.
void write_use(const fs::path& directory, const SentenceSettings& settings) {
  if (!settings.settings_file.content.is_null())
    io::write_json(directory / "config_sentence_transformers.json",
                   settings.settings_file.with(settings_json(settings)));
  if (settings.transformer_file.content.is_null()) return;
  io::write_json(directory / "sentence_bert_config.json", transformer_file_json(settings));
  ModuleWriter modules(directory);
  modules.add("base.modules.transformer.Transformer");
  modules.finish();
}

/// As transformers does, a decoder in the file that differs from the word embedding is one of its own,
/// whatever tie_word_embeddings says; there is no place for it here.
void refuse_own_decoder(const Folder& folder) {
  const std::string embedding = folder.config.base_name() + std::string(".embeddings.word_embeddings.weight");
  const auto differ = [&](const std::string& name, const std::string& twin) {
    const bool both = folder.source.contains(name) && folder.source.contains(twin);
    if (!both || same_tensor(folder.source, name, twin)) return;
    throw UnsupportedError(folder.source.where(), ": ", name, " differs from ", twin,
                           ": a head apart from the word embedding is not supported");
  };
  for (const char* decoder :
       {"cls.predictions.decoder.weight", "lm_head.decoder.weight", "vocab_projector.weight"})
    differ(decoder, embedding);
  differ("cls.predictions.decoder.bias", "cls.predictions.bias");
  differ("lm_head.decoder.bias", "lm_head.bias");
}

}  // namespace

void check_sizes(const fs::path& directory, const models::BertConfig& config) {
  if (!has_weights(directory)) return;
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
  check_sizes(source, sizes_of(config, source));
}

OpenedEncoder open_encoder(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  const Folder folder(directory, options);
  const std::string prefix = prefix_in(folder.source, folder.config);
  OpenedEncoder opened;
  opened.model = models::make_bert(folder.config, at::TensorOptions().dtype(folder.dtype),
                                   /*pooler=*/folder.source.contains(prefix + "pooler.dense.weight"));
  load_weights(*opened.model, folder.source, folder.dtype, options.device, names_in(folder.source, prefix));
  if (options.quantize) models::quantize(*opened.model, *options.quantize);
  if (options.tokenizer) opened.tokenizer = tokenizer_of(directory, folder.config);
  return opened;
}

OpenedMaskedLm open_masked_lm(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  const Folder folder(directory, options);
  if (const auto tied = folder.json.find("tie_word_embeddings");
      tied != folder.json.end() && *tied == false) {
    throw UnsupportedError(folder.where,
                           ": tie_word_embeddings: false: a head apart from the word embedding is not "
                           "supported");
  }
  refuse_own_decoder(folder);
  const bool next_sentence = folder.source.contains("cls.seq_relationship.weight");
  OpenedMaskedLm opened;
  opened.model = std::make_unique<models::MaskedLanguageModel>(
      models::make_bert(folder.config, at::TensorOptions().dtype(folder.dtype), /*pooler=*/next_sentence),
      next_sentence);
  load_weights(*opened.model, folder.source, folder.dtype, options.device,
               names_with_heads(folder.source, next_sentence));
  if (options.quantize) models::quantize(opened.model->encoder(), *options.quantize);
  if (options.tokenizer) opened.tokenizer = tokenizer_of(directory, folder.config);
  return opened;
}

OpenedCrossEncoder open_cross_encoder(const fs::path& directory, const OpenOptions& options) {
  const at::NoGradGuard no_grad;
  if (options.quantize) throw UnsupportedError(directory.string(), ": cross-encoders are not quantised");
  const fs::path root = cross_encoder_root(directory);
  const Folder folder(root, options);
  const bool bert = folder.config.model_type == "bert";
  const std::string head =
      bert || folder.config.is_distilbert() ? "classifier.weight" : "classifier.out_proj.weight";
  if (!folder.source.contains(head))
    throw FormatError(directory.string(), ": there is no head that scores pairs of texts (", head,
                      "); training a cross_encoder stage gives it one");
  if (const at::Tensor weight = folder.source.tensor(head); weight.dim() != 2 || weight.size(0) != 1)
    throw UnsupportedError(directory.string(), ": ", head, " is ", weight.sizes(),
                           "; a cross-encoder has one label");
  OpenedCrossEncoder opened;
  opened.model = std::make_unique<models::CrossEncoder>(
      models::make_bert(folder.config, at::TensorOptions().dtype(folder.dtype), /*pooler=*/bert));
  load_weights(*opened.model, folder.source, folder.dtype, options.device, names_in(folder.source, ""));
  if (options.tokenizer) opened.tokenizer = tokenizer_of(root, folder.config);
  read_use(directory, root, opened);
  return opened;
}

void write_encoder(const fs::path& directory, models::EncoderModel& model, const text::Tokenizer* tokenizer,
                   const SaveOptions& options) {
  const at::NoGradGuard no_grad;
  if (tokenizer != nullptr) check_vocabulary(*tokenizer, model.config().vocab_size);
  write_files(directory, models::config_to_json(model.config()), model, tokenizer, options);
}

void save_encoder(const fs::path& directory, models::EncoderModel& model, const text::Tokenizer* tokenizer,
                  const SaveOptions& options) {
  io::AtomicDirectory folder(directory);
  write_encoder(folder.path(), model, tokenizer, options);
  folder.commit();
}

void save_masked_lm(const fs::path& directory, models::MaskedLanguageModel& model,
                    const text::Tokenizer* tokenizer, const SaveOptions& options) {
  const at::NoGradGuard no_grad;
  const models::BertConfig& shape = model.encoder().config();
  if (tokenizer != nullptr) check_vocabulary(*tokenizer, shape.vocab_size);
  io::Json config = config_with_head(shape, model.has_next_sentence() ? "ForPreTraining" : "ForMaskedLM");
  config["tie_word_embeddings"] = true;
  io::AtomicDirectory folder(directory);
  write_files(folder.path(), std::move(config), model, tokenizer, options);
  folder.commit();
}

void save_cross_encoder(const fs::path& directory, models::CrossEncoder& model,
                        const text::Tokenizer* tokenizer, const SaveOptions& options,
                        const SentenceSettings& settings) {
  const at::NoGradGuard no_grad;
  const models::BertConfig& shape = model.encoder().config();
  if (tokenizer != nullptr) check_vocabulary(*tokenizer, shape.vocab_size);
  io::Json config = config_with_head(shape, "ForSequenceClassification");
  const bool named = config.contains("id2label") && config["id2label"].size() == 1;  // As it was read.
  if (!named) {
    // The head is fresh: what it learnt are logits, of which CrossEncoder would take the sigmoid.
    config["id2label"] = {{"0", "LABEL_0"}};
    config["label2id"] = {{"LABEL_0", 0}};
    io::Json& use = config["sentence_transformers"];
    if (!use.is_object()) use = io::Json::object();
    use["activation_fn"] = "torch.nn.modules.linear.Identity";
  }
  io::AtomicDirectory folder(directory);
  write_files(folder.path(), std::move(config), model, tokenizer, options);
  write_use(folder.path(), settings);
  folder.commit();
}

}  // namespace bitrain::hub
