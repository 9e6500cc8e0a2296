#include <bitrain/recipe/memory_plan.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>

#include <bitrain/adapters/attach.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/json.h>
#include <bitrain/models/llama/config.h>

namespace bitrain::recipe {
namespace {

/// Bits a weight in 4-bit form with scales for blocks of 64, single or doubly quantised.
constexpr double kPackedBits = 4.5;
constexpr double kDoublyPackedBits = 4.127;
/// Gradient, two moments, and for 16-bit weights a float32 master.
constexpr std::uint64_t kStateBytes = 4 + 8;

/// Inputs and outputs of the linear maps of a layer, by their names.
std::map<std::string, std::pair<std::int64_t, std::int64_t>> layer_maps(const models::LlamaConfig& c) {
  const std::int64_t q = c.num_attention_heads * c.head_width();
  const std::int64_t kv = c.key_value_heads() * c.head_width();
  return {{"self_attn.q_proj", {c.hidden_size, q}},
          {"self_attn.k_proj", {c.hidden_size, kv}},
          {"self_attn.v_proj", {c.hidden_size, kv}},
          {"self_attn.o_proj", {q, c.hidden_size}},
          {"mlp.gate_proj", {c.hidden_size, c.intermediate_size}},
          {"mlp.up_proj", {c.hidden_size, c.intermediate_size}},
          {"mlp.down_proj", {c.intermediate_size, c.hidden_size}}};
}

std::int64_t linear_weights(const models::LlamaConfig& c) {
  std::int64_t sum = 0;
  for (const auto& [name, shape] : layer_maps(c)) sum += shape.first * shape.second;
  return sum * c.num_hidden_layers;
}

std::int64_t other_weights(const models::LlamaConfig& c) {
  return (c.tie_word_embeddings ? 1 : 2) * c.vocab_size * c.hidden_size +
         (2 * c.num_hidden_layers + 1) * c.hidden_size;
}

std::int64_t adapter_weights(const models::LlamaConfig& c, const adapters::LoraOptions& lora) {
  const auto targeted = [&lora](const std::string& path, bool linear) {
    for (const std::string& entry : lora.target_modules)
      if ((entry == "all-linear" && linear) || adapters::matches(entry, path)) return true;
    return false;
  };
  std::int64_t sum = 0;
  for (std::int64_t layer = 0; layer < c.num_hidden_layers; ++layer)
    for (const auto& [name, shape] : layer_maps(c))
      if (targeted("model.layers." + std::to_string(layer) + "." + name, true))
        sum += lora.r * (shape.first + shape.second);
  for (const char* table : {"model.embed_tokens", "lm_head"})
    if (targeted(table, false)) sum += lora.r * (c.vocab_size + c.hidden_size);
  return sum;
}

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

/// Walks the recipe with the shape of each stage's model.
class Planner {
 public:
  explicit Planner(const Recipe& recipe) : recipe_(recipe), element_(recipe.dtype == "float32" ? 4 : 2) {
    std::error_code ignored;
    const std::filesystem::path config = std::filesystem::path(recipe.base) / "config.json";
    if (!recipe.base.empty() && std::filesystem::exists(config, ignored))
      shapes_["base"] = models::config_from_json(io::read_json(config), config.string());
  }

  std::vector<MemoryPlan> plans() {
    for (const Stage& stage : recipe_.stages)
      std::visit([&](const auto& options) { visit(stage, options); }, stage.options);
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
    MemoryPlan plan = start(stage, shape);
    plan.trained = plan.parameters;
    plan.weights = static_cast<std::uint64_t>(plan.parameters) * element_;
    plan.optimizer = static_cast<std::uint64_t>(plan.trained) * (element_ + 8 + (element_ == 2 ? 4 : 0));
    plan.activations = activation_bytes(shape, options.data.loader, options.train.recompute, element_);
    plans_.push_back(plan);
  }

  void visit(const Stage& stage, const ExtendStage& options) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    models::LlamaConfig shape = found->second;
    shape.vocab_size += options.vocab.pieces;
    shapes_[stage.name] = shape;
    MemoryPlan plan = start(stage, shape);
    plan.weights = static_cast<std::uint64_t>(plan.parameters) * element_;
    plans_.push_back(plan);
  }

  void visit(const Stage& stage, const CptStage& options) {
    adapt(stage, options.quantize, options.lora, options.data.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const SftStage& options) {
    adapt(stage, options.quantize, options.lora, options.loader, options.train.recompute);
  }
  void visit(const Stage& stage, const EvaluateStage&) { hold(stage); }
  void visit(const Stage& stage, const MergeStage&) { hold(stage); }

  void hold(const Stage& stage) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    shapes_[stage.name] = found->second;
    MemoryPlan plan = start(stage, found->second);
    plan.weights = static_cast<std::uint64_t>(plan.parameters) * element_;
    plans_.push_back(plan);
  }

  void adapt(const Stage& stage, const QuantizationOptions& quantize, const adapters::LoraOptions& lora,
             const data::LoaderOptions& loader, bool recompute) {
    const auto found = shapes_.find(stage.from);
    if (found == shapes_.end()) return;
    const models::LlamaConfig& shape = found->second;
    MemoryPlan plan = start(stage, shape);
    const double bits = !quantize.enabled       ? 8.0 * static_cast<double>(element_)
                        : quantize.double_quant ? kDoublyPackedBits
                                                : kPackedBits;
    plan.weights = static_cast<std::uint64_t>(static_cast<double>(linear_weights(shape)) * bits / 8) +
                   static_cast<std::uint64_t>(other_weights(shape)) * element_;
    plan.trained = adapter_weights(shape, lora);
    plan.adapters = static_cast<std::uint64_t>(plan.trained) * 4;
    plan.optimizer = static_cast<std::uint64_t>(plan.trained) * kStateBytes;
    plan.activations = activation_bytes(shape, loader, recompute, element_);
    shapes_[stage.name] = shape;
    plans_.push_back(plan);
  }

  [[nodiscard]] static MemoryPlan start(const Stage& stage, const models::LlamaConfig& shape) {
    MemoryPlan plan;
    plan.stage = stage.name;
    plan.type = stage.type;
    plan.parameters = linear_weights(shape) + other_weights(shape);
    return plan;
  }

  const Recipe& recipe_;
  std::uint64_t element_;
  std::map<std::string, models::LlamaConfig> shapes_;
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
