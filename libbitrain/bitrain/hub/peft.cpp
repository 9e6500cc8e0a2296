#include <bitrain/hub/peft.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/stack.h>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/finite_weights.h>
#include <bitrain/hub/weights.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/safetensors.h>
#include <bitrain/models/language_model.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>

namespace bitrain::hub {
namespace fs = std::filesystem;
namespace {

using adapters::LoraOptions;
using io::Json;

constexpr const char* kPrefix = "base_model.model.";

/// A number that JSON spells as whole or not.
Json number(double value) {
  if (value == static_cast<double>(static_cast<std::int64_t>(value))) return static_cast<std::int64_t>(value);
  return value;
}

Json or_null(const std::vector<std::string>& names) {
  return names.empty() ? Json(nullptr) : Json(names);
}

[[noreturn]] void wrong(const std::string& where, const char* key, const char* wanted, const Json& value) {
  throw FormatError(where, ": '", key, "' should be ", wanted, ", not ", value.dump());
}

/// A list of names, or one string (a pattern, or all-linear).
std::vector<std::string> names_at(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return {};
  if (found->is_string()) return {found->get<std::string>()};
  if (!found->is_array()) wrong(where, key, "a list of names", *found);
  std::vector<std::string> names;
  for (const Json& name : *found) {
    if (!name.is_string()) wrong(where, key, "a list of names", *found);
    names.push_back(name.get<std::string>());
  }
  return names;
}

std::vector<std::int64_t> integers(const Json& list, const char* key, const std::string& where) {
  if (!list.is_array()) wrong(where, key, "a list of whole numbers", list);
  std::vector<std::int64_t> values;
  for (const Json& value : list) {
    if (!value.is_number_integer()) wrong(where, key, "a list of whole numbers", list);
    values.push_back(value.get<std::int64_t>());
  }
  return values;
}

bool flag_at(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return false;
  if (!found->is_boolean()) wrong(where, key, "true or false", *found);
  return found->get<bool>();
}

/// Whether a key asks for something: null, false and what is empty do not.
bool asks(const Json& value) {
  return !(value.is_null() || value == false || value == "" || (value.is_structured() && value.empty()));
}

// Keys of PEFT's LoraConfig (0.21), by what they mean for weights that are trained already.
constexpr std::string_view kRead[] = {"peft_type",
                                      "r",
                                      "lora_alpha",
                                      "lora_dropout",
                                      "target_modules",
                                      "exclude_modules",
                                      "use_rslora",
                                      "bias",
                                      "modules_to_save",
                                      "rank_pattern",
                                      "alpha_pattern",
                                      "layers_to_transform",
                                      "trainable_token_indices",
                                      "ensure_weight_tying",
                                      "init_lora_weights"};
/// They say where the adapter is from, how it began (init_lora_weights says whether that moved the base), or
/// are settings of what another key would have to switch on. Other modules than layers_pattern means would be
/// missing in the file, or left over.
constexpr std::string_view kWithoutEffect[] = {
    "task_type",      "auto_mapping",     "peft_version",  "base_model_name_or_path",
    "revision",       "inference_mode",   "loftq_config",  "eva_config",
    "corda_config",   "lora_ga_config",   "megatron_core", "runtime_config",
    "layers_pattern", "qalora_group_size"};
/// They compute otherwise than LoRA does.
constexpr std::string_view kOtherwise[] = {
    "use_dora",     "lora_bias",         "use_qalora",     "fan_in_fan_out",    "target_parameters",
    "arrow_config", "layer_replication", "velora_config",  "monteclora_config", "alora_invocation_tokens",
    "use_bdlora",   "kasa_config",       "megatron_config"};

template <std::size_t kSize>
bool is_among(const std::string_view (&keys)[kSize], std::string_view key) {
  return std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
}

/// Initialisations that subtract from the base what they put into the adapter: on the base as it is published
/// such an adapter is wrong.
void check_initialisation(const Json& json, const std::string& where) {
  const auto found = json.find("init_lora_weights");
  if (found == json.end() || found->is_boolean() || found->is_null()) return;
  if (!found->is_string()) wrong(where, "init_lora_weights", "true, false or a name", *found);
  const std::string name = lower_ascii(found->get<std::string>());  // PEFT compares some without case.
  for (const char* moved : {"pissa", "olora", "corda", "loftq", "lora_ga"})
    if (starts_with(name, moved))
      throw UnsupportedError(
          where, ": init_lora_weights ", found->dump(),
          " is not supported: it has changed the base's weights too; save the adapter in PEFT "
          "converted to plain LoRA (save_pretrained with "
          "path_initial_model_for_weight_conversion)");
  const std::vector<std::string> kept = {"gaussian", "eva", "orthogonal", "mica", "true", "false"};
  if (std::find(kept.begin(), kept.end(), name) == kept.end())
    throw UnsupportedError(
        where, ": init_lora_weights ", found->dump(),
        " is not supported: whether it has changed the base's weights too is not known; known "
        "are: ",
        join(kept, ", "), ", and pissa, olora, corda, loftq, lora_ga, which have");
}

constexpr std::size_t kMostWarnings = 10;

/// Refuses what would change the result silently if it were ignored.
void refuse_unsupported(const Json& json, const std::string& where) {
  if (json.value("peft_type", Json()) != "LORA")
    throw UnsupportedError(where, ": peft_type ", json.value("peft_type", Json()).dump(),
                           " is not supported (there is LORA)");
  for (const char* key : {"use_dora", "lora_bias", "use_qalora", "fan_in_fan_out", "ensure_weight_tying"})
    (void)flag_at(json, key, where);
  check_initialisation(json, where);
  if (const Json bias = json.value("bias", Json("none")); bias != "none")
    throw UnsupportedError(where, ": bias ", bias.dump(), " is not supported");
  std::size_t ignored = 0;
  for (const auto& [key, value] : json.items()) {
    if (is_among(kRead, key) || is_among(kWithoutEffect, key) || !asks(value)) continue;
    if (is_among(kOtherwise, key)) throw UnsupportedError(where, ": ", key, " is not supported");
    if (value.is_number() || value.is_string()) {  // Settings of what another key would switch on.
      if (++ignored <= kMostWarnings) log_warn(where, ": unknown key '", key, "' is ignored, as PEFT does");
      continue;
    }
    throw UnsupportedError(
        where, ": the key '", key, "' (", value.dump(),
        ") is not known here, so it is not supported: was the adapter made by a newer PEFT?");
  }
  if (ignored > kMostWarnings)
    log_warn(where, ": ", ignored - kMostWarnings, " more unknown keys are ignored");
}

void read_maps(const Json& json, const std::string& where, LoraOptions& options) {
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) continue;
    if (!found->is_object()) wrong(where, key, "an object", *found);
    for (const auto& [pattern, value] : found->items()) {
      if (!value.is_number()) wrong(where, key, "an object of numbers", *found);
      if (key == std::string("rank_pattern")) {
        if (!value.is_number_integer()) wrong(where, key, "an object of whole numbers", *found);
        options.rank_pattern[pattern] = value.get<std::int64_t>();
      } else {
        options.alpha_pattern[pattern] = value.get<double>();
      }
    }
  }
  const auto rows = json.find("trainable_token_indices");
  if (rows == json.end() || rows->is_null()) return;
  if (rows->is_array())  // PEFT's short form means the input embedding.
    options.trainable_token_indices["embed_tokens"] = integers(*rows, "trainable_token_indices", where);
  else if (rows->is_object())
    for (const auto& [module, indices] : rows->items())
      options.trainable_token_indices[module] = integers(indices, "trainable_token_indices", where);
  else
    wrong(where, "trainable_token_indices", "a list or an object of lists", *rows);
}

constexpr const char* kRowsSuffix = ".token_adapter.trainable_tokens_delta";

/// Trained rows stand in the file in the order of its config, in the model by id.
at::Tensor by_id(const at::Tensor& rows, const std::string& path, const LoraOptions& options) {
  for (const auto& [entry, ids] : options.trainable_token_indices) {
    if (!adapters::matches(entry, path) || rows.dim() == 0 ||
        static_cast<std::int64_t>(ids.size()) != rows.size(0))
      continue;
    std::vector<std::int64_t> order(ids.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&ids = ids](std::int64_t a, std::int64_t b) {
      return ids[static_cast<std::size_t>(a)] < ids[static_cast<std::size_t>(b)];
    });
    std::vector<at::Tensor> sorted;
    sorted.reserve(order.size());
    for (const std::int64_t row : order) sorted.push_back(rows[row]);
    return at::stack(sorted);
  }
  return rows;
}

/// A head whose weight is the embedding's.
struct TiedHead {
  std::string path;
  nn::Linear* head = nullptr;  ///< Null: there is none.
  std::string embedding_path;
  nn::Embedding* embedding = nullptr;

  /// Whether the two are trained in full, as one.
  [[nodiscard]] bool trained() const {
    return head != nullptr && embedding != nullptr && embedding->weight.defined() &&
           embedding->weight.requires_grad();
  }
};

TiedHead tied_head(nn::Module& model) {
  TiedHead found;
  model.visit_modules([&](const std::string& path, nn::Module& module) {
    if (auto* linear = dynamic_cast<nn::Linear*>(&module); linear != nullptr && linear->shares_weight) {
      found.path = path;
      found.head = linear;
    }
    if (auto* embedding = dynamic_cast<nn::Embedding*>(&module); embedding != nullptr && !found.embedding) {
      found.embedding_path = path;
      found.embedding = embedding;
    }
  });
  return found;
}

/// What PEFT's ensure_weight_tying means on a base whose head is the embedding: with it modules_to_save
/// trains the two as one, as is done here, without it the head stays that of the base. Leaves the head out of
/// `options`, where it is named beside the embedding.
void settle_tying(const Json& json, const std::string& where, nn::Module& model, LoraOptions& options) {
  const TiedHead tied = tied_head(model);
  const bool as_one = flag_at(json, "ensure_weight_tying", where);
  if (tied.head == nullptr) return;  // PEFT only warns.
  const auto names = [](const std::vector<std::string>& entries, const std::string& path) {
    return std::any_of(entries.begin(), entries.end(), [&](const std::string& entry) {
      return path == entry || ends_with(path, "." + entry);
    });
  };
  const bool saved =
      names(options.modules_to_save, tied.embedding_path) || names(options.modules_to_save, tied.path);
  if (saved && !as_one)
    throw UnsupportedError(
        where, ": modules_to_save trains ", tied.embedding_path, " or ", tied.path,
        ", which are one on this base, and ensure_weight_tying is not true: PEFT then trains them apart, "
        "which is not "
        "supported. If they were trained as one (bitrain does so), add \"ensure_weight_tying\": true");
  if (!saved && as_one &&
      (names(options.target_modules, tied.embedding_path) || names(options.target_modules, tied.path)))
    throw UnsupportedError(where, ": ensure_weight_tying with an adapter on ", tied.embedding_path,
                           " is not supported; with modules_to_save or trainable_token_indices it is");
  auto& entries = options.modules_to_save;
  if (names(entries, tied.embedding_path))
    entries.erase(std::remove_if(entries.begin(), entries.end(),
                                 [&](const std::string& entry) { return names({entry}, tied.path); }),
                  entries.end());
}

/// Brings the stored tensors into the fresh adapter of `model`; checks all before it copies the first, since
/// some of them replace weights of the base.
class Filler {
 public:
  Filler(nn::Module& model, const io::SafetensorsFile& file, const LoraOptions& options)
      : model_(model), file_(file), options_(options) {}

  void fill() {
    plan_trained();
    plan_tables();
    if (!missing_.empty())
      throw FormatError(file_.where(), ": ", missing_.size(), " tensors are missing, the first is ",
                        missing_.front(), did_you_mean(missing_.front(), unexpected_));
    if (!unexpected_.empty())
      throw FormatError(file_.where(), ": ", unexpected_.size(), " tensors fit no module, the first is ",
                        unexpected_.front());
    const at::NoGradGuard no_grad;
    for (auto& [target, stored] : copies_) target.copy_(stored);
    file_.check_not_written();
  }

 private:
  void plan_trained() {
    for (const optim::Parameter& parameter : adapters::trainable_parameters(model_)) {
      const std::string key = kPrefix + parameter.name;
      if (!file_.contains(key)) {
        missing_.push_back(key);
        continue;
      }
      used_.insert(key);
      at::Tensor stored = file_.tensor(key);
      if (ends_with(parameter.name, kRowsSuffix))
        stored =
            by_id(stored, parameter.name.substr(0, parameter.name.size() - std::string(kRowsSuffix).size()),
                  options_);
      plan(key, stored, parameter.tensor);
    }
  }

  /// PEFT saves whole tables beside an adapter of embedding or head: they replace the base's.
  void plan_tables() {
    const std::string prefix = kPrefix;
    const std::string suffix = ".base_layer.weight";
    for (const std::string& name : file_.names()) {
      if (used_.count(name) != 0) continue;
      at::Tensor weight;
      if (starts_with(name, prefix) && ends_with(name, suffix)) {
        nn::Module* module =
            model_.find(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
        if (auto* embedding = dynamic_cast<nn::Embedding*>(module)) weight = embedding->weight;
        if (auto* linear = dynamic_cast<nn::Linear*>(module)) weight = linear->weight;
      }
      if (weight.defined())
        plan(name, file_.tensor(name), weight);
      else if (!is_tied_copy(name))
        unexpected_.push_back(name);
    }
  }

  /// PEFT saves a head that was trained as one with the embedding a second time.
  [[nodiscard]] bool is_tied_copy(const std::string& name) const {
    const TiedHead tied = tied_head(model_);
    const std::string embedding = kPrefix + tied.embedding_path + ".weight";
    if (!tied.trained() || name != kPrefix + tied.path + ".weight" || !file_.contains(embedding))
      return false;
    if (!at::equal(file_.tensor(name), file_.tensor(embedding)))
      throw FormatError(file_.where(), ": ", name, " and ", embedding,
                        " are one on this base, but have other numbers in the file");
    return true;
  }

  void plan(const std::string& key, const at::Tensor& stored, const at::Tensor& target) {
    if (stored.sizes() != target.sizes())
      throw ConfigError(file_.where(), ": ", key, " is ", stored.sizes(), ", but on this base it would be ",
                        target.sizes(),
                        ": the adapter belongs to a base of another shape or vocabulary (this one has ",
                        vocabulary_rows(), " rows)");
    check_finite(stored, file_.where(), key);
    copies_.emplace_back(target, stored);
  }

  /// Of the first embedding, which is that of words.
  [[nodiscard]] std::int64_t vocabulary_rows() const {
    std::int64_t rows = 0;
    model_.visit_modules([&](const std::string&, nn::Module& module) {
      const auto* embedding = dynamic_cast<nn::Embedding*>(&module);
      if (rows == 0 && embedding != nullptr) rows = embedding->num_embeddings();
    });
    return rows;
  }

  nn::Module& model_;
  const io::SafetensorsFile& file_;
  const LoraOptions& options_;
  std::set<std::string> used_;
  std::vector<std::string> missing_;
  std::vector<std::string> unexpected_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_;  ///< To, from.
};

/// Whether PEFT takes `entry` for the name of a module.
bool is_name(const std::string& entry) {
  return std::all_of(entry.begin(), entry.end(), [](unsigned char c) {
    return (c < 0x80 && std::isalnum(c) != 0) || c == '_' || c == '.';
  });
}

/// In a list PEFT reads names only; an expression, or all-linear, has to stand alone.
bool peft_reads(const std::vector<std::string>& entries) {
  return entries.size() < 2 || std::all_of(entries.begin(), entries.end(), is_name);
}

std::vector<std::string> adapted_modules(nn::Module& model) {
  return model.module_paths([](const nn::Module& module) {
    const auto* linear = dynamic_cast<const nn::Linear*>(&module);
    const auto* embedding = dynamic_cast<const nn::Embedding*>(&module);
    return (linear && !linear->adapters.empty()) || (embedding && !embedding->adapters.empty());
  });
}

/// Options that mean the same to PEFT: where a list is more than it reads, the adapted modules by their
/// paths.
LoraOptions for_peft(LoraOptions options, nn::Module& model) {
  if (peft_reads(options.target_modules) && peft_reads(options.exclude_modules)) return options;
  options.target_modules = adapted_modules(model);
  options.exclude_modules.clear();
  options.layers_to_transform.clear();
  return options;
}

}  // namespace

Json adapter_config(const LoraOptions& o, const std::string& base_name, const std::string& task_type) {
  Json rows = nullptr;
  for (const auto& [module, ids] : o.trainable_token_indices) {  // In the order of the saved rows.
    const std::set<std::int64_t> sorted(ids.begin(), ids.end());
    rows[module] = std::vector<std::int64_t>(sorted.begin(), sorted.end());
  }
  Json alphas = Json::object();
  for (const auto& [pattern, alpha] : o.alpha_pattern) alphas[pattern] = number(alpha);
  Json init = true;
  if (o.init_lora_weights == "false") init = false;
  if (o.init_lora_weights == "gaussian") init = "gaussian";
  // One entry that is no plain name is a pattern for whole paths, which PEFT wants as a string.
  const auto targets = [](const std::vector<std::string>& names) -> Json {
    if (names.size() == 1 && !is_name(names[0])) return names[0];
    return names;
  };
  return {
      {"alpha_pattern", alphas},
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", base_name},
      {"bias", "none"},
      {"exclude_modules", o.exclude_modules.empty() ? Json(nullptr) : targets(o.exclude_modules)},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", init},
      {"layers_pattern", nullptr},
      {"layers_to_transform", o.layers_to_transform.empty() ? Json(nullptr) : Json(o.layers_to_transform)},
      {"lora_alpha", number(o.lora_alpha)},
      {"lora_bias", false},
      {"lora_dropout", o.lora_dropout},
      {"modules_to_save", or_null(o.modules_to_save)},
      {"peft_type", "LORA"},
      {"r", o.r},
      {"rank_pattern", o.rank_pattern.empty() ? Json::object() : Json(o.rank_pattern)},
      {"revision", nullptr},
      {"target_modules", targets(o.target_modules)},
      {"task_type", task_type},
      {"trainable_token_indices", rows},
      {"use_dora", false},
      {"use_rslora", o.use_rslora}};
}

LoraOptions parse_adapter_config(const Json& json, const std::string& where) {
  if (!json.is_object()) throw FormatError(where, " is no JSON object");
  refuse_unsupported(json, where);
  LoraOptions options;
  for (const char* key : {"r", "lora_alpha"})
    if (!json.contains(key) || !json[key].is_number())
      throw FormatError(where, ": '", key, "' is missing or no number");
  if (json["r"].is_number_integer()) options.r = json["r"].get<std::int64_t>();
  options.lora_alpha = json["lora_alpha"].get<double>();
  if (!json["r"].is_number_integer() || options.r < 1 || options.r > adapters::kHighestRank)
    wrong(where, "r", to_text("a whole number from 1 to ", adapters::kHighestRank).c_str(), json["r"]);
  if (const auto dropout = json.find("lora_dropout"); dropout != json.end() && !dropout->is_null()) {
    if (!dropout->is_number()) wrong(where, "lora_dropout", "a number", *dropout);
    options.lora_dropout = dropout->get<double>();
  }
  options.target_modules = names_at(json, "target_modules", where);
  options.exclude_modules = names_at(json, "exclude_modules", where);
  options.modules_to_save = names_at(json, "modules_to_save", where);
  options.use_rslora = flag_at(json, "use_rslora", where);
  if (const auto layers = json.find("layers_to_transform"); layers != json.end() && !layers->is_null())
    options.layers_to_transform = layers->is_number_integer()
                                      ? std::vector<std::int64_t>{layers->get<std::int64_t>()}
                                      : integers(*layers, "layers_to_transform", where);
  read_maps(json, where, options);
  return options;
}

void save_adapter(const fs::path& directory, nn::Module& model, const LoraOptions& options,
                  const std::string& base_name) {
  io::NamedTensors tensors;
  LazyTensors lazy(model);
  for (const optim::Parameter& parameter : adapters::trainable_parameters(model))
    lazy.add(tensors, kPrefix + parameter.name, parameter.tensor);
  if (tensors.empty()) throw StateError("there is no adapter to save: nothing in the model is trained");
  const TiedHead tied = tied_head(model);
  if (tied.trained()) lazy.add(tensors, kPrefix + tied.path + ".weight", tied.embedding->weight);
  io::AtomicDirectory folder(directory);
  const bool generates = dynamic_cast<models::LanguageModel*>(&model) != nullptr;
  Json config =
      adapter_config(for_peft(options, model), base_name, generates ? "CAUSAL_LM" : "FEATURE_EXTRACTION");
  config["ensure_weight_tying"] = tied.trained();
  io::write_json(folder.path() / "adapter_config.json", config);
  io::write_safetensors(folder.path() / "adapter_model.safetensors", tensors, {{"format", "pt"}},
                        lazy.loader());
  folder.commit();
}

namespace {

/// PEFT takes the first pattern in the order of the file, the options the first in alphabetical order, in
/// which PEFT writes them. Refuses a file where that matters.
void check_pattern_order(const Json& json, nn::Module& model, const std::string& where) {
  for (const char* key : {"rank_pattern", "alpha_pattern"}) {
    const auto patterns = json.find(key);
    if (patterns == json.end() || !patterns->is_object()) continue;
    for (const std::string& path : adapted_modules(model)) {
      const Json::object_t::value_type* first = nullptr;   // In the file.
      const Json::object_t::value_type* chosen = nullptr;  // By name.
      for (const auto& entry : patterns->get_ref<const Json::object_t&>()) {
        if (!adapters::matches_end(entry.first, path)) continue;
        if (first == nullptr) first = &entry;
        if (chosen == nullptr || entry.first < chosen->first) chosen = &entry;
      }
      if (first != nullptr && first->second != chosen->second)
        throw UnsupportedError(
            where, ": ", key, ": '", first->first, "' and '", chosen->first, "' both name ", path,
            "; of several patterns the first in alphabetical order is supported, PEFT takes the "
            "first in the file: leave one of them");
    }
  }
}

/// Before adapters of such ranks are made.
void check_ranks(const io::SafetensorsFile& file, const LoraOptions& options, const std::string& where) {
  std::int64_t largest = 0;
  for (const std::string& name : file.names())
    for (const std::int64_t extent : file.shape(name)) largest = std::max(largest, extent);
  std::int64_t rank = options.r;
  for (const auto& [pattern, own] : options.rank_pattern) rank = std::max(rank, own);
  if (rank > largest && largest > 0)
    throw FormatError(where, ": there is a rank of ", rank, ", but ", file.where(),
                      " has no tensor of more than ", largest, " rows or columns");
}

}  // namespace

LoraOptions load_adapter(const fs::path& directory, nn::Module& model) {
  const fs::path config_path = directory / "adapter_config.json";
  std::error_code ignored;
  if (!fs::exists(config_path, ignored))
    throw IoError(directory.string(), " has no adapter_config.json: it is no PEFT adapter");
  const fs::path weights = directory / "adapter_model.safetensors";
  if (!fs::exists(weights, ignored) && fs::exists(directory / "adapter_model.bin", ignored))
    throw UnsupportedError(directory.string(),
                           " holds only adapter_model.bin, a pickled file, which can run code when read; "
                           "load it in PEFT and save it with save_pretrained, which writes safetensors");
  const Json json = io::read_json(config_path);
  LoraOptions options = parse_adapter_config(json, config_path.string());
  const io::SafetensorsFile file = io::SafetensorsFile::open(weights);
  settle_tying(json, config_path.string(), model, options);
  check_ranks(file, options, config_path.string());
  try {
    adapters::attach(model, options, 0);
  } catch (ConfigError& error) {
    error.add_context(config_path.string());
    throw;
  }
  try {
    check_pattern_order(json, model, config_path.string());
    Filler(model, file, options).fill();
  } catch (...) {
    adapters::detach(model);
    adapters::freeze(model);
    throw;
  }
  return options;
}

}  // namespace bitrain::hub
