#include <bitrain/recipe/memory_plan.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>

#include <bitrain/adapters/attach.h>
#include <bitrain/adapters/parameters.h>
#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>
#include <bitrain/models/bert/add_language_adapters.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/models/llama/model.h>
#include <bitrain/models/quantize.h>
#include <bitrain/recipe/stage_context.h>

namespace bitrain::recipe {
namespace {

std::uint64_t activation_bytes(const models::LlamaConfig& c, const data::LoaderOptions& loader,
                               bool recompute, std::uint64_t element) {
  const std::int64_t rows = loader.micro_batch_rows > 0 ? loader.micro_batch_rows : loader.rows_per_step;
  const auto tokens = static_cast<std::uint64_t>(rows * loader.sequence_length);
  const std::int64_t q = c.num_attention_heads * c.head_width();
  const std::int64_t kv = c.key_value_heads() * c.head_width();
  // Kept for backward: two streams and two normed inputs, q, k, v and attention's output, gate, up and their
  // product. With recomputation only the layer's two inputs, and one layer in full.
  const auto kept =
      static_cast<std::uint64_t>(4 * c.hidden_size + 2 * q + 2 * kv + 3 * c.intermediate_size) * element;
  const auto inputs = static_cast<std::uint64_t>(2 * c.hidden_size) * element;
  const auto layers = static_cast<std::uint64_t>(c.num_hidden_layers);
  const std::uint64_t body = recompute ? layers * inputs + kept : layers * kept;
  constexpr std::uint64_t kLogitRows = 1024;
  return tokens * body + kLogitRows * static_cast<std::uint64_t>(c.vocab_size) * element;
}

/// The same for an encoder and pairs: queries, keys, values, attention's output, two maps back, two sums and
/// two norms, and the wide layer before and after its activation.
std::uint64_t activation_bytes(const models::BertConfig& c, const data::LoaderOptions& loader, bool recompute,
                               std::uint64_t element) {
  const std::int64_t pairs = loader.micro_batch_rows > 0 ? loader.micro_batch_rows : loader.rows_per_step;
  const auto tokens = static_cast<std::uint64_t>(2 * pairs * loader.sequence_length);
  const auto kept = static_cast<std::uint64_t>(10 * c.hidden_size + 2 * c.intermediate_size) * element;
  const auto layers = static_cast<std::uint64_t>(c.num_hidden_layers);
  if (!recompute) return tokens * layers * kept;
  return tokens * (layers * static_cast<std::uint64_t>(c.hidden_size) * element + kept);
}

/// A gradient of the weight's type, two float32 moments, and beside a 16-bit weight its float32 master.
std::uint64_t optimizer_bytes(const at::Tensor& weight) {
  return weight.nbytes() + static_cast<std::uint64_t>(weight.numel()) * (weight.itemsize() == 2 ? 12 : 8);
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
    if (works_on_encoders(recipe))
      encoders_["base"] = models::bert_config_from_json(io::read_json(config), config.string());
    else
      shapes_["base"] = models::config_from_json(io::read_json(config), config.string());
  }

  std::vector<MemoryPlan> plans() {
    for (const Stage& stage : recipe_.stages) {
      try {
        std::visit([&](const auto& options) { visit(stage, options); }, stage.options);
      } catch (Error& error) {
        error.add_context("stages." + stage.name);
        throw;
      }
    }
    return std::move(plans_);
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
    plan(stage, *model, &options.data.loader, options.train.recompute);
  }

  void visit(const Stage& stage, const ExtendStage& options) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    models::LlamaConfig shape = found->second;
    shape.vocab_size += options.vocab.pieces;
    shapes_[stage.name] = shape;
    plan(stage, *make(shape));
  }

  void visit(const Stage& stage, const CptStage& options) {
    adapt(stage, options.quantize, options.lora, options.data.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const SftStage& options) {
    adapt(stage, options.quantize, options.lora, options.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const EvaluateEncoderStage&) { encode(stage, 0); }
  void visit(const Stage& stage, const EvaluateRetrievalStage&) { encode(stage, 0); }
  void visit(const Stage& stage, const EvaluateLexiconStage&) { encode(stage, 0); }
  void visit(const Stage& stage, const MineNegativesStage&) { encode(stage, 0); }
  void visit(const Stage& stage, const CrossEncoderStage& options) {
    encode(stage, 0, &options.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const EvaluateSimilarityStage&) { encode(stage, 0); }
  void visit(const Stage& stage, const SimilarityStage& options) {
    encode(stage, 0, &options.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const ExtendEncoderStage& options) { encode(stage, options.vocab.pieces); }
  void visit(const Stage& stage, const MaskedLmStage& options) {
    encode(stage, 0, &options.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const ContrastiveStage& options) {
    encode(stage, 0, &options.loader, options.train.recompute,
           trains_adapters(options) ? &options.lora : nullptr);
  }

  void visit(const Stage& stage, const LateInteractionStage& options) {
    const bool trains = options.train.max_steps > 0 || options.train.max_tokens > 0;
    encode(stage, 0, trains ? &options.loader : nullptr, options.train.recompute);
  }
  void visit(const Stage& stage, const LanguageAdaptersStage& options) {
    const auto found = encoders_.find(stage.from);
    if (found == encoders_.end()) return;
    const std::vector<std::string> both = {recipe_.source.language, recipe_.target.language};
    encoders_[stage.name] = models::with_language_adapters(
        found->second, options.languages.empty() ? both : options.languages, options.reduction_factor);
    plan(stage,
         *models::make_bert(encoders_[stage.name], at::TensorOptions().dtype(dtype_).device(at::kMeta)),
         /*trains=*/false, 0);
  }
  void visit(const Stage& stage, const ContextPredictionStage& options) {
    encode(stage, 0, &options.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const DocumentEncoderStage& options) {
    const auto found = encoders_.find(stage.from);
    if (found == encoders_.end()) return;
    models::DocumentEncoder model(
        std::make_unique<models::SentenceEncoder>(
            models::make_bert(found->second, at::TensorOptions().dtype(dtype_).device(at::kMeta)),
            models::EmbeddingOptions{}),
        options.model);
    adapters::train_all(model);
    if (options.freeze_sentences) adapters::freeze(model.sentences());
    // The sentences' activations; frozen, they leave none. Those of the layers above are few beside them.
    plan(stage, model, /*trains=*/true,
         options.freeze_sentences ? 0
                                  : activation_bytes(found->second, options.loader, options.train.recompute,
                                                     at::elementSize(dtype_)));
  }

  /// An encoder with `pieces` more; with a loader, one that is trained, or its adapters.
  void encode(const Stage& stage, std::int64_t pieces, const data::LoaderOptions* loader = nullptr,
              bool recompute = false, const adapters::LoraOptions* lora = nullptr) {
    const auto found = encoders_.find(stage.from);
    if (found == encoders_.end()) return;
    models::BertConfig shape = found->second;
    shape.vocab_size += pieces;
    encoders_[stage.name] = shape;
    const auto model = models::make_bert(shape, at::TensorOptions().dtype(dtype_).device(at::kMeta));
    if (lora != nullptr)
      adapters::attach(*model, *lora, 0);
    else if (loader != nullptr)
      adapters::train_all(*model);
    plan(stage, *model, loader != nullptr,
         loader != nullptr ? activation_bytes(shape, *loader, recompute, at::elementSize(dtype_)) : 0);
  }

  void visit(const Stage& stage, const EvaluateStage&) { hold(stage); }
  void visit(const Stage& stage, const EvaluateMexaStage&) { hold(stage); }
  void visit(const Stage& stage, const MergeStage&) { hold(stage); }
  void visit(const Stage&, const AlignWordsStage&) {}

  void hold(const Stage& stage) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    shapes_[stage.name] = found->second;
    plan(stage, *make(found->second));
  }

  void adapt(const Stage& stage, const QuantizationOptions& quantization, const adapters::LoraOptions& lora,
             const data::LoaderOptions& loader, bool recompute) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    shapes_[stage.name] = found->second;
    const auto model = make(found->second);
    if (const auto options = quantize_options(quantization)) models::quantize(*model, *options);
    adapters::attach(*model, lora, 0);
    plan(stage, *model, &loader, recompute);
  }

  [[nodiscard]] std::unique_ptr<models::LanguageModel> make(const models::LlamaConfig& shape) const {
    return models::make_llama(shape, at::TensorOptions().dtype(dtype_).device(at::kMeta));
  }

  /// Of a model as the stage holds it; with a loader, the stage trains what requires grad.
  void plan(const Stage& stage, models::LanguageModel& model, const data::LoaderOptions* loader = nullptr,
            bool recompute = false) {
    plan(stage, model, loader != nullptr,
         loader != nullptr ? activation_bytes(model.config(), *loader, recompute, at::elementSize(dtype_))
                           : 0);
  }

  void plan(const Stage& stage, nn::Module& model, bool trains, std::uint64_t activations) {
    MemoryPlan plan;
    plan.stage = stage.name;
    plan.type = stage.type;
    plan.parameters = adapters::count_parameters(model);
    plan.weights = adapters::weight_bytes(model);
    plan.activations = activations;
    if (trains) {
      for (const optim::Parameter& parameter : adapters::trainable_parameters(model)) {
        plan.trained += parameter.tensor.numel();
        plan.optimizer += optimizer_bytes(parameter.tensor);
        if (parameter.adapter) plan.adapters += parameter.tensor.nbytes();
      }
    }
    plans_.push_back(plan);
  }

  const Recipe& recipe_;
  at::ScalarType dtype_;
  std::map<std::string, models::LlamaConfig> shapes_;
  std::map<std::string, models::BertConfig> encoders_;
  std::map<std::string, std::int64_t> vocabularies_;
  std::vector<MemoryPlan> plans_;
};

}  // namespace

std::vector<MemoryPlan> memory_plan(const Recipe& recipe) {
  return Planner(recipe).plans();
}

std::string describe(const std::vector<MemoryPlan>& plans) {
  if (plans.empty()) return "";
  char line[200];
  std::snprintf(line, sizeof line, "  %-16s %-13s %12s %12s %10s %10s %10s %12s %10s\n", "stage", "type",
                "parameters", "trained", "weights", "adapters", "optimizer", "activations", "in all");
  std::string text = line;
  for (const MemoryPlan& plan : plans) {
    std::snprintf(line, sizeof line, "  %-16s %-13s %12s %12s %10s %10s %10s %12s %10s\n", plan.stage.c_str(),
                  plan.type.c_str(), with_thousands(plan.parameters).c_str(),
                  with_thousands(plan.trained).c_str(), human_bytes(plan.weights).c_str(),
                  human_bytes(plan.adapters).c_str(), human_bytes(plan.optimizer).c_str(),
                  human_bytes(plan.activations).c_str(), human_bytes(plan.total()).c_str());
    text += line;
  }
  return text;
}

}  // namespace bitrain::recipe
