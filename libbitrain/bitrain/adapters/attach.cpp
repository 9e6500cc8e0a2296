#include <bitrain/adapters/attach.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/base/strings.h>
#include <bitrain/fields/check.h>
#include <bitrain/models/language_model.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>

namespace bitrain::adapters {

double lora_scale(double lora_alpha, std::int64_t r, bool use_rslora) {
  const auto rank = static_cast<double>(r);
  return lora_alpha / (use_rslora ? std::sqrt(rank) : rank);
}

namespace {

constexpr char kAllLinear[] = "all-linear";

/// A module that can be adapted: one of the two is set.
struct Candidate {
  std::string path;
  nn::Linear* linear = nullptr;
  nn::Embedding* embedding = nullptr;
  bool is_head = false;
};

std::vector<Candidate> candidates(nn::Module& model) {
  std::vector<Candidate> found;
  auto* language_model = dynamic_cast<models::LanguageModel*>(&model);
  const nn::Linear* head = language_model != nullptr ? &language_model->output_head() : nullptr;
  model.visit_modules([&](const std::string& path, nn::Module& module) {
    if (auto* linear = dynamic_cast<nn::Linear*>(&module)) {
      found.push_back({path, linear, nullptr, linear == head});
    } else if (auto* embedding = dynamic_cast<nn::Embedding*>(&module)) {
      found.push_back({path, nullptr, embedding, false});
    }
  });
  return found;
}

/// "q_proj, k_proj, ...": the last parts of the paths, each once.
std::string available(const std::vector<Candidate>& modules) {
  std::vector<std::string> names;
  for (const Candidate& module : modules) {
    std::string name = split(module.path, '.').back();
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  }
  return join(names, ", ");
}

[[noreturn]] void nothing_matches(const char* option, const std::string& entry,
                                  const std::vector<Candidate>& modules) {
  std::vector<std::string> names = split(available(modules), ',');
  for (std::string& name : names) name = std::string(trim(name));
  throw ConfigError(option, ": '", entry, "' matches no module of this model", did_you_mean(entry, names),
                    "; there are: ", join(names, ", "));
}

/// The number of the layer a module belongs to: the first part of its path that is a number.
std::optional<std::int64_t> layer_of(const std::string& path) {
  for (const std::string& part : split(path, '.')) {
    if (!part.empty() &&
        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c); }))
      return std::stoll(part);
  }
  return std::nullopt;
}

bool matches_any(const std::vector<std::string>& entries, const std::string& path) {
  return std::any_of(entries.begin(), entries.end(),
                     [&](const std::string& entry) { return matches(entry, path); });
}

/// The value that the first matching entry of a pattern map gives to `path`, or `otherwise`.
template <class T>
T from_pattern(const std::map<std::string, T>& patterns, const std::string& path, T otherwise) {
  for (const auto& [entry, value] : patterns)
    if (matches_end(entry, path)) return value;
  return otherwise;
}

template <class T>
std::vector<std::string> keys_of(const std::map<std::string, T>& patterns) {
  std::vector<std::string> keys;
  for (const auto& [entry, value] : patterns) keys.push_back(entry);
  return keys;
}

/// Whether the name in modules_to_save is `path` or a part of it (PEFT's rule).
bool saved_in_full(const std::vector<std::string>& names, const std::string& path) {
  const std::string padded = "." + path + ".";
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return padded.find("." + name + ".") != std::string::npos;
  });
}

class Attacher {
 public:
  Attacher(nn::Module& model, const LoraOptions& options, std::uint64_t seed)
      : model_(model),
        language_model_(dynamic_cast<models::LanguageModel*>(&model)),
        options_(options),
        seed_(seed),
        modules_(candidates(model)) {}

  AttachReport run() {
    begin_matching();
    check_options();
    const std::vector<Candidate> targets = choose_targets();
    const std::vector<Candidate> saved = choose_saved();
    check_rows(targets);
    // Nothing has changed up to here.
    freeze(model_);
    for (const Candidate& target : targets) adapt(target);
    for (const Candidate& module : saved) train_in_full(module);
    train_rows();
    if (report_.trainable_parameters == 0) {
      throw ConfigError(
          "nothing would be trained: target_modules, modules_to_save and trainable_token_indices are empty "
          "or excluded; modules that can be adapted: ",
          available(modules_));
    }
    return std::move(report_);
  }

 private:
  void check_options() const {
    for (const Candidate& module : modules_) {
      const bool adapted = module.linear
                               ? !module.linear->adapters.empty() || module.linear->trainable_rows
                               : !module.embedding->adapters.empty() || module.embedding->trainable_rows;
      if (adapted)
        throw StateError(module.path, " has an adapter already: merge or detach it before attaching another");
    }
    check_fields(options_);
    check_sizes();
    for (const std::string& entry : options_.exclude_modules)
      check_pattern("exclude_modules", entry, matches);
    for (const auto& [entry, rank] : options_.rank_pattern) check_pattern("rank_pattern", entry, matches_end);
    for (const auto& [entry, alpha] : options_.alpha_pattern)
      check_pattern("alpha_pattern", entry, matches_end);
    std::int64_t layers = 0;
    for (const Candidate& module : modules_)
      layers = std::max(layers, layer_of(module.path).value_or(-1) + 1);
    for (const std::int64_t layer : options_.layers_to_transform)
      if (layer < 0 || layer >= layers)
        throw ConfigError("layers_to_transform: there is no layer ", layer, "; the model has ", layers);
  }

  void check_sizes() const {
    check_patterns("target_modules", options_.target_modules);
    check_patterns("exclude_modules", options_.exclude_modules);
    check_patterns("modules_to_save", options_.modules_to_save);
    check_patterns("rank_pattern", keys_of(options_.rank_pattern));
    check_patterns("alpha_pattern", keys_of(options_.alpha_pattern));
    check_patterns("trainable_token_indices", keys_of(options_.trainable_token_indices));
  }

  using Rule = bool (*)(const std::string& entry, const std::string& path);
  void check_pattern(const char* option, const std::string& entry, Rule rule) const {
    if (std::none_of(modules_.begin(), modules_.end(),
                     [&](const Candidate& module) { return rule(entry, module.path); }))
      nothing_matches(option, entry, modules_);
  }

  /// Whether `entry` of target_modules takes `module`, layer choice aside.
  static bool takes(const std::string& entry, const Candidate& module) {
    if (entry == kAllLinear) return module.linear && !module.is_head;
    return matches(entry, module.path);
  }

  [[nodiscard]] bool in_chosen_layer(const Candidate& module) const {
    const std::vector<std::int64_t>& layers = options_.layers_to_transform;
    if (layers.empty() || matches_exactly(module.path)) return true;
    const std::optional<std::int64_t> layer = layer_of(module.path);
    return layer && std::find(layers.begin(), layers.end(), *layer) != layers.end();
  }
  [[nodiscard]] bool matches_exactly(const std::string& path) const {
    return std::find(options_.target_modules.begin(), options_.target_modules.end(), path) !=
           options_.target_modules.end();
  }

  [[nodiscard]] std::vector<Candidate> choose_targets() const {
    std::vector<Candidate> targets;
    std::set<std::string> matched;
    for (const Candidate& module : modules_) {
      bool taken = false;
      for (const std::string& entry : options_.target_modules) {
        if (!takes(entry, module)) continue;
        matched.insert(entry);
        taken = true;
      }
      if (taken && in_chosen_layer(module) && !matches_any(options_.exclude_modules, module.path) &&
          !saved_in_full(options_.modules_to_save, module.path))
        targets.push_back(module);
    }
    for (const std::string& entry : options_.target_modules)
      if (matched.count(entry) == 0) nothing_matches("target_modules", entry, modules_);
    return targets;
  }

  /// Random weights of an adapter, filled row by row, so that their number of rows may change.
  void fill(const at::Tensor& tensor, const std::string& name, bool uniform, double size) const {
    if (tensor.is_meta()) return;  // Shapes alone, for plans.
    const at::Tensor draws = at::empty(tensor.sizes(), at::TensorOptions().dtype(at::kDouble));
    const std::uint64_t key = stream_key(seed_, "adapter " + name);
    auto* values = draws.mutable_data_ptr<double>();
    for (std::int64_t row = 0; row < draws.size(0); ++row) {
      RandomStream stream(key, static_cast<std::uint64_t>(row));
      for (std::int64_t i = 0; i < draws.size(1); ++i)
        *values++ = size * (uniform ? 2 * stream.uniform() - 1 : stream.normal());
    }
    tensor.copy_(draws);
  }

  void adapt(const Candidate& target) {
    const at::NoGradGuard no_grad;
    const std::int64_t r = from_pattern(options_.rank_pattern, target.path, options_.r);
    const double alpha = from_pattern(options_.alpha_pattern, target.path, options_.lora_alpha);
    const std::int64_t in = target.linear ? target.linear->in_features : target.embedding->num_embeddings();
    const std::int64_t out = target.linear ? target.linear->out_features : target.embedding->embedding_dim();
    nn::LowRank adapter;
    adapter.scale = lora_scale(alpha, r, options_.use_rslora);
    adapter.dropout = target.linear ? options_.lora_dropout : 0.0;  // As in PEFT.
    adapter.dropout_stream = stream_key(0, target.path);
    adapter.a = at::zeros({r, in}, adapter_options(target));
    adapter.b = at::zeros({out, r}, adapter_options(target));
    initialise(target, adapter);
    adapter.a.set_requires_grad(true);
    adapter.b.set_requires_grad(true);
    report_.adapted.push_back({target.path, r, adapter.scale, adapter.a.numel() + adapter.b.numel()});
    report_.trainable_parameters += report_.adapted.back().parameters;
    (target.linear ? target.linear->adapters : target.embedding->adapters).push_back(std::move(adapter));
  }

  /// PEFT's initial weights: the product is zero unless init_lora_weights is false.
  void initialise(const Candidate& target, const nn::LowRank& adapter) const {
    const std::string& how = options_.init_lora_weights;
    const auto bound = [](std::int64_t fan_in) { return 1 / std::sqrt(static_cast<double>(fan_in)); };
    if (target.embedding) {
      if (how == "false") fill(adapter.a, target.path + ".lora_embedding_A", false, 1.0);
      fill(adapter.b, target.path + ".lora_embedding_B", false, 1.0);
      return;
    }
    if (how == "gaussian") {
      fill(adapter.a, target.path + ".lora_A", false, 1 / static_cast<double>(adapter.a.size(0)));
    } else {
      fill(adapter.a, target.path + ".lora_A", true, bound(adapter.a.size(1)));
    }
    if (how == "false") fill(adapter.b, target.path + ".lora_B", true, bound(adapter.b.size(1)));
  }

  /// float32 beside weights of any narrower type, on their device.
  static at::TensorOptions adapter_options(const Candidate& target) {
    const at::Tensor& like = target.embedding                ? target.embedding->weight
                             : target.linear->is_quantized() ? target.linear->quantized->codes
                                                             : target.linear->weight;
    return at::TensorOptions()
        .device(like.device())
        .dtype(like.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  }

  /// The modules of modules_to_save, in the order of the model.
  [[nodiscard]] std::vector<Candidate> choose_saved() const {
    for (const std::string& name : options_.modules_to_save) {
      if (std::none_of(modules_.begin(), modules_.end(),
                       [&](const Candidate& module) { return saved_in_full({name}, module.path); }))
        nothing_matches("modules_to_save", name, modules_);
    }
    std::vector<Candidate> saved;
    for (const Candidate& module : modules_) {
      if (!saved_in_full(options_.modules_to_save, module.path)) continue;
      if (module.linear && module.linear->is_quantized()) {
        throw ConfigError("modules_to_save: ", module.path,
                          " is in 4 bits and cannot be trained in full; take it out of modules_to_save");
      }
      if (module.is_head && tied()) {
        throw ConfigError("modules_to_save: ", module.path, " is tied to the embedding; name ",
                          embedding_path(), " to train both");
      }
      saved.push_back(module);
    }
    return saved;
  }

  [[nodiscard]] std::string embedding_path() const {
    for (const Candidate& module : modules_)
      if (module.embedding) return module.path;
    return "the embedding";
  }

  void train_in_full(const Candidate& module) {
    report_.trained_in_full.push_back(module.path);
    nn::Module& owner = module.linear ? static_cast<nn::Module&>(*module.linear) : *module.embedding;
    owner.visit_own_tensors([&](const std::string&, at::Tensor& tensor) {
      tensor.set_requires_grad(true);
      report_.trainable_parameters += tensor.numel();
    });
  }

  /// The modules that an entry of trainable_token_indices names.
  [[nodiscard]] std::vector<Candidate> row_modules(const std::string& entry) const {
    std::vector<Candidate> found;
    for (const Candidate& module : modules_)
      if (matches(entry, module.path) && (module.embedding || module.is_head)) found.push_back(module);
    if (found.empty()) {
      throw ConfigError(
          "trainable_token_indices: '", entry,
          "' is neither the embedding nor the head of this model; there are: ", row_module_names());
    }
    return found;
  }
  [[nodiscard]] std::string row_module_names() const {
    std::vector<std::string> names;
    for (const Candidate& module : modules_)
      if (module.embedding || module.is_head) names.push_back(module.path);
    return join(names, ", ");
  }

  void check_rows(const std::vector<Candidate>& targets) const {
    for (const auto& [entry, ids] : options_.trainable_token_indices) {
      if (ids.empty()) throw ConfigError("trainable_token_indices: ", entry, ": the list of ids is empty");
      for (const Candidate& module : row_modules(entry)) {
        const std::int64_t rows =
            module.linear ? module.linear->out_features : module.embedding->num_embeddings();
        for (const std::int64_t id : ids) {
          if (id < 0 || id >= rows) {
            throw ConfigError("trainable_token_indices: ", entry, ": id ", id, " lies outside the ", rows,
                              " rows of ", module.path);
          }
        }
        const bool adapted = std::any_of(targets.begin(), targets.end(),
                                         [&](const Candidate& target) { return target.path == module.path; });
        if (adapted || saved_in_full(options_.modules_to_save, module.path)) {
          throw ConfigError("trainable_token_indices: ", module.path,
                            " is also in target_modules or modules_to_save; choose one");
        }
      }
    }
  }

  void train_rows() {
    const at::NoGradGuard no_grad;
    for (const auto& [entry, ids] : options_.trainable_token_indices)
      for (const Candidate& module : row_modules(entry)) train_rows_of(module, ids);
  }

  void train_rows_of(const Candidate& module, std::vector<std::int64_t> ids) {
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    at::Tensor indices =
        at::empty({static_cast<std::int64_t>(ids.size())}, at::TensorOptions().dtype(at::kLong));
    std::copy(ids.begin(), ids.end(), indices.mutable_data_ptr<std::int64_t>());
    const at::TensorOptions options = adapter_options(module);
    indices = indices.to(options.device());
    const at::Tensor& weight = module.linear ? module.linear->weight : module.embedding->weight;
    at::Tensor rows = weight.is_meta() ? at::empty({indices.size(0), weight.size(1)}, options)
                                       : weight.index_select(0, indices).to(options.dtype().toScalarType());
    rows = rows.is_alias_of(weight) ? rows.clone() : rows;
    rows.set_requires_grad(true);
    const nn::TrainableRows trained{indices, rows};
    auto& place = module.linear ? module.linear->trainable_rows : module.embedding->trainable_rows;
    if (place) throw ConfigError("trainable_token_indices: ", module.path, " is named twice");
    place = trained;
    report_.trained_rows.push_back(module.path);
    report_.trainable_parameters += rows.numel();
    // One table, one set of rows: what the embedding trains the tied head reads, and the reverse.
    if (!tied()) return;
    auto& other = module.linear ? language_model_->input_embeddings().trainable_rows
                                : language_model_->output_head().trainable_rows;
    if (other) throw ConfigError("trainable_token_indices: embedding and head are tied; name one of them");
    other = trained;
  }

  [[nodiscard]] bool tied() const { return language_model_ != nullptr && language_model_->tied(); }

  nn::Module& model_;
  models::LanguageModel* language_model_;  ///< The same model, where it is one.
  const LoraOptions& options_;
  std::uint64_t seed_;
  std::vector<Candidate> modules_;
  AttachReport report_;
};

}  // namespace

AttachReport attach(nn::Module& model, const LoraOptions& options, std::uint64_t seed) {
  return Attacher(model, options, seed).run();
}

void detach(nn::Module& model) {
  for (const Candidate& module : candidates(model)) {
    (module.linear ? module.linear->adapters : module.embedding->adapters).clear();
    (module.linear ? module.linear->trainable_rows : module.embedding->trainable_rows).reset();
  }
}

void enable_adapters(nn::Module& model, bool enabled) {
  for (const Candidate& module : candidates(model))
    for (nn::LowRank& adapter : module.linear ? module.linear->adapters : module.embedding->adapters)
      adapter.enabled = enabled;
}

}  // namespace bitrain::adapters
