#include <bitrain/hub/model_dir.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <c10/core/ScalarType.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/bitsandbytes.h>
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

std::optional<at::ScalarType> dtype_in(const Json& config, const std::string& where) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_string()) continue;
    const std::string name = found->get<std::string>();
    if (name == "float32") return at::kFloat;
    if (name == "bfloat16") return at::kBFloat16;
    if (name == "float16") return at::kHalf;
    throw UnsupportedError(where, ": ", key, " '", name,
                           "' is not supported (there are float32, bfloat16, float16)");
  }
  return std::nullopt;
}

const char* dtype_name(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16" : "float32";
}

std::string list_some(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 8;
  std::vector<std::string> shown(names.begin(),
                                 names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), kShown)));
  std::string text = join(shown, ", ");
  if (names.size() > kShown) text += " and " + std::to_string(names.size() - kShown) + " more";
  return text;
}

/// Fills a model from a source of tensors, and keeps account of what does not fit.
class Loader {
 public:
  Loader(models::LanguageModel& model, const io::TensorSource& source, at::ScalarType dtype,
         at::Device device)
      : model_(model), source_(source), dtype_(dtype), device_(device) {}

  void load() {
    const TensorLookup lookup = [this](const std::string& name) {
      if (!source_.contains(name)) return at::Tensor();
      used_.insert(name);
      return source_.tensor(name);
    };
    model_.visit_modules([&](const std::string& path, nn::Module& module) {
      auto* linear = dynamic_cast<nn::Linear*>(&module);
      if (linear != nullptr && !linear->shares_weight && is_bitsandbytes(path + ".weight", lookup))
        load_packed(path, *linear, lookup);
      module.visit_own_tensors([&](const std::string& own, at::Tensor& tensor) {
        load_dense(path.empty() ? own : path + "." + own, tensor);
      });
    });
    report();
  }

 private:
  void load_packed(const std::string& path, nn::Linear& linear, const TensorLookup& lookup) {
    quant::QuantizedTensor packed = from_bitsandbytes(path + ".weight", lookup);
    linear.weight = at::Tensor();  // Dealt with here, whether it fits or not.
    for (const std::string& name : source_.names())
      if (starts_with(name, path + ".weight")) used_.insert(name);
    if (packed.shape != std::vector<std::int64_t>{linear.out_features, linear.in_features}) {
      faults_.push_back(c10::str(path, ".weight is ", at::IntArrayRef(packed.shape), ", the model wants [",
                                 linear.out_features, ", ", linear.in_features, "]"));
      return;
    }
    linear.quantized = packed.to(device_);
  }

  void load_dense(const std::string& name, at::Tensor& tensor) {
    if (!source_.contains(name)) {
      missing_.push_back(name);
      return;
    }
    used_.insert(name);
    const at::Tensor stored = source_.tensor(name);
    if (stored.sizes() != tensor.sizes())
      faults_.push_back(c10::str(name, " is ", stored.sizes(), ", the model wants ", tensor.sizes()));
    else if (!stored.is_floating_point())
      faults_.push_back(
          c10::str(name, " holds ", c10::toString(stored.scalar_type()), ", no floating-point numbers"));
    else
      tensor = stored.to(device_, dtype_, /*non_blocking=*/false, /*copy=*/true);
  }

  void report() {
    std::vector<std::string> unexpected;
    for (const std::string& name : source_.names())
      if (used_.count(name) == 0 && !harmless(name)) unexpected.push_back(name);
    if (!missing_.empty())
      faults_.push_back("missing: " + list_some(missing_) + did_you_mean(missing_.front(), unexpected));
    if (!unexpected.empty()) faults_.push_back("unexpected: " + list_some(unexpected));
    if (!faults_.empty())
      throw FormatError(source_.where(), ": the weights do not fit config.json: ", join(faults_, "; "));
  }

  /// Tensors of old files that hold nothing trained, and a tied head that was saved all the same.
  [[nodiscard]] bool harmless(const std::string& name) const {
    return ends_with(name, "rotary_emb.inv_freq") || (model_.tied() && name == "lm_head.weight");
  }

  models::LanguageModel& model_;
  const io::TensorSource& source_;
  at::ScalarType dtype_;
  at::Device device_;
  std::set<std::string> used_;
  std::vector<std::string> missing_;
  std::vector<std::string> faults_;
};

at::ScalarType file_dtype(const io::TensorSource& source) {
  for (const std::string& name : source.names()) {
    const at::Tensor tensor = source.tensor(name);
    if (tensor.is_floating_point() && ends_with(name, "norm.weight")) return tensor.scalar_type();
  }
  return at::kFloat;
}

Json generation_config(const models::LlamaConfig& config) {
  const Json full = models::config_to_json(config);
  Json json = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (full.contains(key) && !full[key].is_null()) json[key] = full[key];
  return json;
}

}  // namespace

void check_vocabulary(const text::Tokenizer& tokenizer, const models::LanguageModel& model) {
  if (tokenizer.vocab_size() <= model.config().vocab_size) return;
  throw ConfigError("the tokenizer has ", tokenizer.vocab_size(), " ids, but the model only ",
                    model.config().vocab_size,
                    " rows: they do not belong together, or the model's vocabulary was not extended");
}

OpenedModel open_model(const fs::path& directory, const OpenOptions& options) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) throw IoError(directory.string(), " is no folder");
  const fs::path config_path = directory / "config.json";
  if (!fs::exists(config_path, ignored))
    throw IoError(directory.string(), " has no config.json: it is no model folder",
                  fs::exists(directory / "adapter_config.json", ignored)
                      ? " but an adapter; open its base model, then load it"
                      : "");
  const at::NoGradGuard no_grad;
  const Json json = io::read_json(config_path);
  const models::LlamaConfig config = models::config_from_json(json, config_path.string());
  const io::SafetensorsFolder source = io::SafetensorsFolder::open(directory);
  const at::ScalarType dtype =
      options.dtype ? *options.dtype : dtype_in(json, config_path.string()).value_or(file_dtype(source));
  if (json.contains("quantization_config"))
    (void)parse_quantization_config(json["quantization_config"], config_path.string());

  OpenedModel opened;
  opened.model = models::make_llama(config, at::TensorOptions().dtype(dtype));
  Loader(*opened.model, source, dtype, options.device).load();
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
  io::NamedTensors tensors;
  std::optional<quant::QuantizeOptions> packed;
  std::vector<std::string> dense_linears;
  std::optional<at::ScalarType> dtype = options.dtype;
  model.visit_modules([&](const std::string& path, nn::Module& module) {
    const auto* linear = dynamic_cast<const nn::Linear*>(&module);
    const auto* embedding = dynamic_cast<const nn::Embedding*>(&module);
    if ((linear != nullptr && (!linear->adapters.empty() || linear->trainable_rows)) ||
        (embedding != nullptr && (!embedding->adapters.empty() || embedding->trainable_rows)))
      throw StateError("cannot save the model as a whole: ", path,
                       " has an adapter; merge it first, or save the adapter alone");
    if (linear != nullptr && linear->is_quantized()) {
      const quant::QuantizedTensor& weight = *linear->quantized;
      packed = quant::QuantizeOptions{weight.type, weight.block_size, weight.double_quant()};
      for (auto& part : to_bitsandbytes(path + ".weight", weight)) tensors.push_back(std::move(part));
    } else if (linear != nullptr) {
      dense_linears.push_back(path);
    }
    module.visit_own_tensors([&](const std::string& own, at::Tensor& tensor) {
      if (!dtype) dtype = tensor.scalar_type();
      tensors.emplace_back(path.empty() ? own : path + "." + own,
                           options.dtype ? tensor.detach().to(*options.dtype) : tensor.detach());
    });
  });

  Json config = models::config_to_json(model.config());
  config["dtype"] = dtype_name(dtype.value_or(at::kFloat));
  config["torch_dtype"] = config["dtype"];  // For transformers 4.
  if (packed)
    config["quantization_config"] = quantization_config(*packed, dtype.value_or(at::kFloat), dense_linears);
  io::AtomicDirectory folder(directory);
  io::write_json(folder.path() / "config.json", config);
  io::write_json(folder.path() / "generation_config.json", generation_config(model.config()));
  io::write_safetensors_folder(folder.path(), tensors, options.max_shard_bytes);
  if (tokenizer != nullptr) tokenizer->save(folder.path());
  folder.commit();
}

}  // namespace bitrain::hub
