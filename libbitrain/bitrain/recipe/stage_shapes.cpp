#include <bitrain/recipe/stage_shapes.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/checked.h>
#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/hub/config_sizes.h>
#include <bitrain/io/json.h>
#include <bitrain/models/bert/add_language_adapters.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/models/llama/config.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/recipe/stage_context.h>

namespace bitrain::recipe {
namespace {

/// "model.layers.3" of "model.layers.3.mlp.up_proj"; else the path itself.
std::string piece_of(const std::string& path) {
  for (std::size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    const std::size_t end = std::min(path.find('.', dot + 1), path.size());
    const std::string part = path.substr(dot + 1, end - dot - 1);
    if (!part.empty() &&
        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c); }))
      return path.substr(0, end);
  }
  return path;
}

std::uint64_t bytes_of(const std::vector<nn::LowRank>& adapters,
                       const std::optional<nn::TrainableRows>& rows) {
  std::uint64_t bytes = rows ? rows->rows.nbytes() : 0;
  for (const nn::LowRank& adapter : adapters) bytes += adapter.a.nbytes() + adapter.b.nbytes();
  return bytes;
}

/// Counts what a model's modules hold. `head` is a language model's, or null.
class Counter {
 public:
  Counter(nn::Module& model, const nn::Linear* head, std::int64_t languages)
      : head_(head), languages_(languages) {
    shape_.parameters = adapters::count_parameters(model);
    shape_.weight_bytes = adapters::weight_bytes(model);
    model.visit_modules([this](const std::string& path, nn::Module& module) { count(path, module); });
    for (const optim::Parameter& parameter : adapters::trainable_parameters(model)) {
      (parameter.tensor.itemsize() == 2 ? shape_.trained_16 : shape_.trained_32) += parameter.tensor.numel();
      if (parameter.adapter) shape_.adapter_bytes += parameter.tensor.nbytes();
      shape_.largest_trained = std::max<std::uint64_t>(shape_.largest_trained, parameter.tensor.nbytes());
    }
    shape_.pieces = static_cast<std::int64_t>(pieces_.size());
    for (const auto& [name, bytes] : pieces_) {
      shape_.largest_piece = std::max(shape_.largest_piece, bytes);
      if (name != piece_of(name + ".x")) continue;  // A table, a head, a norm.
      shape_.layer_bytes = std::max(shape_.layer_bytes, bytes);
    }
  }
  [[nodiscard]] const ModelShape& shape() const { return shape_; }

 private:
  void count(const std::string& path, nn::Module& module) {
    const std::string piece = piece_of(path);
    std::uint64_t bytes = 0;
    module.visit_own_tensors([&](const std::string&, at::Tensor& tensor) { bytes += tensor.nbytes(); });
    if (const auto* linear = dynamic_cast<nn::Linear*>(&module)) {
      count(path, *linear, piece != path);
      if (linear->quantized) bytes += linear->quantized->nbytes();
      bytes += bytes_of(linear->adapters, linear->trainable_rows);
    }
    if (const auto* embedding = dynamic_cast<nn::Embedding*>(&module))
      bytes += bytes_of(embedding->adapters, embedding->trainable_rows);
    if (bytes > 0) pieces_[piece] += bytes;
  }

  void count(const std::string& path, const nn::Linear& linear, bool in_layer) {
    const std::int64_t weights = linear.in_features * linear.out_features;
    const bool trained = linear.weight.defined() && linear.weight.requires_grad();
    if (linear.quantized) {
      shape_.quantized += weights;
      shape_.quantized_bytes += linear.quantized->nbytes();
      shape_.decoded_bytes = std::max(shape_.decoded_bytes, static_cast<std::uint64_t>(weights) * 2);
    }
    if (&linear != head_ && !in_layer) return;  // A pooler: once a text.
    // Of X-MOD's adapters a token goes through those of one language.
    const std::int64_t shared = path.find("adapter_modules.") != std::string::npos ? languages_ : 1;
    (&linear == head_ ? shape_.head : shape_.linear) += weights / shared;
    if (&linear == head_) shape_.head_trained = trained;
    if (&linear != head_ && trained) shape_.linear_trained += weights / shared;
    if (&linear != head_) {
      shape_.map_features = std::max(shape_.map_features, linear.in_features + linear.out_features);
      shape_.map_weights = std::max(shape_.map_weights, weights);
      for (const nn::LowRank& adapter : linear.adapters) shape_.adapter_ranks += adapter.a.size(0);
    }
    for (const nn::LowRank& adapter : linear.adapters)
      shape_.adapter += adapter.a.numel() + adapter.b.numel();
  }

  const nn::Linear* head_;
  std::int64_t languages_;
  ModelShape shape_;
  std::map<std::string, std::uint64_t> pieces_;
};

/// The same for an encoder (or what has one inside): queries, keys, values, attention's output, two maps
/// back, two sums and two norms, and the wide layer before and after its activation wait for backward.
ModelShape encoder_shape(nn::Module& model, const models::BertConfig& c, at::ScalarType dtype) {
  ModelShape shape =
      Counter(model, nullptr, static_cast<std::int64_t>(std::max<std::size_t>(1, c.languages.size())))
          .shape();
  shape.layers = c.num_hidden_layers;
  shape.hidden = c.hidden_size;
  shape.heads = shape.kv_heads = c.num_attention_heads;
  shape.head_width = c.hidden_size / c.num_attention_heads;
  shape.causal = false;
  shape.element = static_cast<std::int64_t>(at::elementSize(dtype));
  shape.kept = static_cast<std::uint64_t>((10 * c.hidden_size + 2 * c.intermediate_size) * shape.element);
  shape.inputs = static_cast<std::uint64_t>(c.hidden_size * shape.element);
  shape.vocab = c.vocab_size;
  // The stream and its norm, then q, k, v and what they give, or the wide layer before and after its
  // activation.
  shape.widest = static_cast<std::uint64_t>(
      (2 * c.hidden_size + std::max(4 * c.hidden_size, 2 * c.intermediate_size)) * shape.element);
  return shape;
}

/// Walks the recipe with the shape of each stage's model. The models are real ones without memory (LibTorch's
/// meta device), so that what is counted is what will be made.
class Planner {
 public:
  explicit Planner(const Recipe& recipe)
      : recipe_(recipe), dtype_(recipe.dtype == "float32" ? at::kFloat : at::kBFloat16) {
    std::error_code ignored;
    const std::filesystem::path config = std::filesystem::path(recipe.base) / "config.json";
    if (recipe.base.empty() || !std::filesystem::exists(config, ignored)) return;
    if (works_on_encoders(recipe)) {
      encoders_["base"] = models::bert_config_from_json(io::read_json(config), config.string());
      hub::check_sizes(recipe.base, encoders_["base"]);
    } else {
      shapes_["base"] = models::config_from_json(io::read_json(config), config.string());
      if (shapes_["base"].read_config.contains("quantization_config")) packed_.insert("base");
      hub::check_sizes(recipe.base, shapes_["base"]);
    }
  }

  std::vector<StageShape> shapes(const ShapeFault& on_fault) {
    for (const Stage& stage : recipe_.stages) {
      try {
        std::visit([&](const auto& options) { visit(stage, options); }, stage.options);
      } catch (Error& error) {
        if (on_fault) {
          on_fault(stage, error.what());
          continue;
        }
        error.add_context("stages." + stage.name);
        throw;
      }
    }
    return std::move(found_);
  }

 private:
  void visit(const Stage& stage, const TokenizerStage& options) {
    vocabularies_[stage.name] = options.tokenizer.vocab_size;
  }

  void visit(const Stage& stage, const PretrainStage& options) {
    models::LlamaConfig shape = options.model;
    if (vocabularies_.count(stage.from) != 0) shape.vocab_size = vocabularies_[stage.from];
    shapes_[stage.name] = shape;
    const auto model = make(shape);
    adapters::train_all(*model);
    hold(stage, *model, Training{options.data.loader, options.train, "data.loader"});
  }

  void visit(const Stage& stage, const ExtendStage& options) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    models::LlamaConfig shape = found->second;
    shape.vocab_size += options.vocab.pieces;
    shapes_[stage.name] = shape;
    if (packed_.count(stage.from) != 0) packed_.insert(stage.name);
    hold(stage, *make(shape));
  }

  void visit(const Stage& stage, const CptStage& options) {
    adapt(stage, options, {options.data.loader, options.train, "data.loader"});
  }
  void visit(const Stage& stage, const SftStage& options) {
    adapt(stage, options, {options.loader, options.train});
  }
  void visit(const Stage& stage, const EvaluateEncoderStage&) { encode(stage); }
  void visit(const Stage& stage, const EvaluateRetrievalStage&) { encode(stage); }
  void visit(const Stage& stage, const EvaluateLexiconStage&) { encode(stage); }
  void visit(const Stage& stage, const MineNegativesStage&) { encode(stage); }
  void visit(const Stage& stage, const EvaluateSimilarityStage&) { encode(stage); }
  void visit(const Stage& stage, const ExtendEncoderStage& options) {
    encode(stage, std::nullopt, options.vocab.pieces);
  }
  void visit(const Stage& stage, const CrossEncoderStage& options) {
    encode(stage, Training{options.loader, options.train, "loader", 2});
  }
  void visit(const Stage& stage, const SimilarityStage& options) {
    encode(stage, Training{options.loader, options.train, "loader", 2, true});
  }
  void visit(const Stage& stage, const MaskedLmStage& options) {
    encode(stage, Training{options.loader, options.train, "loader", 2});
    if (found_.empty() || found_.back().stage != stage.name) return;
    StageShape& shape = found_.back();  // Its head is the table of words, for the words that were hidden.
    shape.model.head = encoders_[stage.name].vocab_size * shape.model.hidden;
    shape.model.head_trained = true;
    shape.head_share = options.objective.masking.share;
  }
  void visit(const Stage& stage, const ContrastiveStage& options) {
    encode(stage, Training{options.loader, options.train, "loader", 2, true}, 0,
           trains_adapters(options.lora) ? &options.lora : nullptr);
  }
  void visit(const Stage& stage, const LateInteractionStage& options) {
    if (options.train.max_steps > 0 || options.train.max_tokens > 0)
      encode(stage, Training{options.loader, options.train, "loader", 2, true});
    else
      encode(stage);
  }
  void visit(const Stage& stage, const ContextPredictionStage& options) {
    encode(stage, Training{options.loader, options.train, "loader", 2, true});
  }
  void visit(const Stage& stage, const LanguageAdaptersStage& options) {
    const auto found = encoders_.find(stage.from);
    if (found == encoders_.end()) return;
    const std::vector<std::string> both = {recipe_.source.language, recipe_.target.language};
    const models::BertConfig shape = models::with_language_adapters(
        found->second, options.languages.empty() ? both : options.languages, options.reduction_factor);
    encoders_[stage.name] = shape;
    add(stage, encoder_shape(*make(shape), shape, dtype_));
  }
  void visit(const Stage& stage, const DocumentEncoderStage& options) {
    const auto found = encoders_.find(stage.from);
    if (found == encoders_.end()) return;
    models::DocumentEncoder model(
        std::make_unique<models::SentenceEncoder>(make(found->second), models::EmbeddingOptions{}),
        options.model);
    adapters::train_all(model);
    if (options.freeze_sentences) adapters::freeze(model.sentences());
    ModelShape shape = encoder_shape(model, found->second, dtype_);
    // The sentences' activations; frozen, they leave none. Those of the layers above are few beside them.
    if (options.freeze_sentences) shape.kept = shape.inputs = 0;
    add(stage, shape, Training{options.loader, options.train, "loader", 2, true});
    found_.back().tokens_are_unknown =
        "its rows are documents of several sentences, and the recipe does not say how many tokens they have";
  }

  void visit(const Stage& stage, const EvaluateStage&) { pass_on(stage); }
  void visit(const Stage& stage, const EvaluateMexaStage&) { pass_on(stage); }
  void visit(const Stage& stage, const MergeStage& options) {
    pass_on(stage);
    if (options.merge.requantize) packed_.insert(stage.name);
  }
  void visit(const Stage&, const AlignWordsStage&) {}

  /// What a stage that trains says of its steps.
  struct Training {
    const data::LoaderOptions& loader;
    const train::TrainOptions& train;
    const char* loader_key = "loader";
    std::int64_t texts = 1;
    bool embeds_first = false;
  };

  /// An encoder with `pieces` more, that is trained, or its adapters.
  void encode(const Stage& stage, const std::optional<Training>& training = {}, std::int64_t pieces = 0,
              const adapters::LoraOptions* lora = nullptr) {
    const auto found = encoders_.find(stage.from);
    if (found == encoders_.end()) return;
    models::BertConfig shape = found->second;
    shape.vocab_size += pieces;
    encoders_[stage.name] = shape;
    const auto model = make(shape);
    if (lora != nullptr)
      adapters::attach(*model, *lora, 0);
    else if (training)
      adapters::train_all(*model);
    add(stage, encoder_shape(*model, shape, dtype_), training);
  }

  /// The model as the stage reads it, and the next one too.
  void pass_on(const Stage& stage) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    shapes_[stage.name] = found->second;
    hold(stage, *make(found->second));
  }

  /// Adapters on a model that is packed as asked, or all weights.
  template <class Options>
  void adapt(const Stage& stage, const Options& options, const Training& training) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    shapes_[stage.name] = found->second;
    const auto model = make(found->second);
    if (trains_adapters(options.lora)) {
      if (const auto packing = quantize_options(options.quantize)) models::quantize(*model, *packing);
      adapters::attach(*model, options.lora, 0);
    } else {
      if (packed_.count(stage.from) != 0)
        throw ConfigError("'", stage.from,
                          "' has weights in 4 bits, which cannot be trained: name modules for adapters in "
                          "lora.target_modules");
      adapters::train_all(*model);
      adapters::freeze(*model, options.freeze);
      if (adapters::trainable_parameters(*model).empty())
        throw ConfigError("freeze names all weights: nothing would be trained");
    }
    hold(stage, *model, training);
  }

  [[nodiscard]] std::unique_ptr<models::LanguageModel> make(const models::LlamaConfig& shape) const {
    return models::make_llama(shape, at::TensorOptions().dtype(dtype_).device(at::kMeta));
  }
  [[nodiscard]] std::unique_ptr<models::EncoderModel> make(const models::BertConfig& shape) const {
    return models::make_bert(shape, at::TensorOptions().dtype(dtype_).device(at::kMeta));
  }

  void hold(const Stage& stage, models::LanguageModel& model, const std::optional<Training>& training = {}) {
    add(stage, shape_of(model), training);
  }

  void add(const Stage& stage, const ModelShape& model, const std::optional<Training>& training = {}) {
    StageShape shape;
    shape.stage = stage.name;
    shape.type = stage.type;
    shape.model = model;
    if (training) {
      shape.trains = true;
      shape.loader_key = training->loader_key;
      shape.loader = training->loader;
      shape.train = training->train;
      shape.texts = training->texts;
      shape.embeds_first = training->embeds_first;
    }
    found_.push_back(std::move(shape));
  }

  const Recipe& recipe_;
  at::ScalarType dtype_;
  std::map<std::string, models::LlamaConfig> shapes_;
  std::set<std::string> packed_;  ///< Of these, those with weights in 4 bits.
  std::map<std::string, models::BertConfig> encoders_;
  std::map<std::string, std::int64_t> vocabularies_;
  std::vector<StageShape> found_;
};

}  // namespace

ModelShape shape_of(models::LanguageModel& model) {
  const models::LlamaConfig& c = model.config();
  ModelShape shape = Counter(model, &model.output_head(), 1).shape();
  shape.layers = c.num_hidden_layers;
  shape.hidden = c.hidden_size;
  shape.heads = c.num_attention_heads;
  shape.kv_heads = c.key_value_heads();
  shape.head_width = c.head_width();
  shape.element = static_cast<std::int64_t>(model.input_embeddings().weight.element_size());
  const std::int64_t q = shape.heads * shape.head_width;
  const std::int64_t kv = shape.kv_heads * shape.head_width;
  // Two streams and two normed inputs, q, k, v and attention's output, gate, up and their product.
  shape.kept = static_cast<std::uint64_t>((4 * c.hidden_size + 2 * q + 2 * kv + 3 * c.intermediate_size) *
                                          shape.element);
  shape.inputs = static_cast<std::uint64_t>(2 * c.hidden_size * shape.element);
  shape.logits = static_cast<std::uint64_t>(kLogitRows * c.vocab_size * shape.element);
  shape.vocab = c.vocab_size;
  // The stream and its norm, then q, k, v and what they give, or gate, up and their product.
  shape.widest = static_cast<std::uint64_t>(
      (2 * c.hidden_size + std::max(2 * q + 2 * kv, 3 * c.intermediate_size)) * shape.element);
  return shape;
}

std::uint64_t activation_bytes(const ModelShape& shape, std::int64_t tokens, bool recompute) {
  const auto layers = static_cast<std::uint64_t>(shape.layers);
  const std::uint64_t body = recompute ? layers * shape.inputs + shape.kept : layers * shape.kept;
  constexpr const char* kFactors = "rows in memory * sequence_length * layers";
  return checked_sum({checked_product({static_cast<std::uint64_t>(tokens), body}, kFactors), shape.logits},
                     kFactors);
}

std::vector<StageShape> stage_shapes(const Recipe& recipe, const ShapeFault& on_fault) {
  return Planner(recipe).shapes(on_fault);
}

}  // namespace bitrain::recipe
