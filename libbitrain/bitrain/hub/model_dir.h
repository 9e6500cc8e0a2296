#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include <bitrain/io/json.h>
#include <bitrain/models/language_model.h>
#include <bitrain/nn/unit.h>
#include <bitrain/quant/quantized_tensor.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::hub {

struct OpenOptions {
  std::optional<at::ScalarType> dtype;  ///< Of dense weights; empty: what config.json says, else the files'.
  at::Device device = at::kCPU;
  std::optional<quant::QuantizeOptions> quantize;  ///< Pack the linear maps in 4 bits while loading.
  bool tokenizer = true;                           ///< Open the tokenizer as well.
  /// Told of each layer when it is loaded, and packed, before the next one is read: to share it out over
  /// ranks, so that none holds the whole model. May be empty.
  std::function<void(models::LanguageModel& model, nn::Unit& layer)> layer_loaded;
};

struct OpenedModel {
  std::unique_ptr<models::LanguageModel> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< Null when not asked for.
};

/// Opens a Hugging Face folder: config.json (llama, mistral, qwen2), generation_config.json where there is
/// one, model.safetensors or its shards, and the tokenizer. Weights that bitsandbytes packed in 4 bits stay
/// packed. Weights are copied: the files may change afterwards. As in transformers, a file with a head that
/// differs from the embedding is untied whatever tie_word_embeddings says, and a tied file may have the head
/// alone. Warns where the tokenizer's EOS is not among the ids at which generation stops.
///
/// Throws IoError for missing files; UnsupportedError for other families and pickled weights; FormatError
/// listing every tensor that is missing, unexpected or of another shape; ConfigError when the tokenizer has
/// more ids than the model has rows.
[[nodiscard]] OpenedModel open_model(const std::filesystem::path& directory, const OpenOptions& options = {});

struct SaveOptions {
  std::optional<at::ScalarType> dtype;  ///< Of dense weights; empty: as they are.
  std::uint64_t max_shard_bytes = 5'000'000'000;
};

/// Writes what open_model and transformers read: config.json, generation_config.json, safetensors and, unless
/// null, the tokenizer. Both configurations are those that the model was opened with, with what has changed
/// since: keys that bitrain does not know stay. The folder appears whole or not at all. Throws StateError for
/// a model with adapters: merge them first, or save them by save_adapter.
void save_model(const std::filesystem::path& directory, models::LanguageModel& model,
                const text::Tokenizer* tokenizer, const SaveOptions& options = {});

/// Throws ConfigError, naming the tokens, when `tokenizer` has ids that `model` has no rows for; more rows
/// are padding.
void check_vocabulary(const text::Tokenizer& tokenizer, const models::LanguageModel& model);
void check_vocabulary(const text::Tokenizer& tokenizer, std::int64_t rows);

/// config.json of a model folder. Throws IoError saying what is missing, and as refuse_adapter_beside does.
[[nodiscard]] io::Json read_config(const std::filesystem::path& directory);

/// Throws UnsupportedError for a model folder with an adapter in it, which other programs would load.
void refuse_adapter_beside(const std::filesystem::path& directory);

}  // namespace bitrain::hub
