#pragma once

#include <filesystem>
#include <memory>

#include <bitrain/hub/model_dir.h>
#include <bitrain/models/late_interaction_encoder.h>

namespace bitrain::hub {

struct OpenedLateInteraction {
  std::unique_ptr<models::LateInteractionEncoder> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;
};

/// Whether the folder is one that open_late_interaction is for.
[[nodiscard]] bool is_late_interaction(const std::filesystem::path& directory);

/// Opens a folder of sentence-transformers' MultiVectorEncoder (version 6): modules.json with a Transformer,
/// a Dense over token_embeddings, a MultiVectorMask and a Normalize of them. Lengths and query expansion are
/// in sentence_bert_config.json, prompts in config_sentence_transformers.json.
///
/// Throws FormatError for a folder without projection or mask, UnsupportedError for what would be computed in
/// another way: mask tokens that are not attended to, another expansion token, prompts that are a token of
/// their own (ColBERT's and PyLate's markers), scores that are means; else as open_encoder.
[[nodiscard]] OpenedLateInteraction open_late_interaction(const std::filesystem::path& directory,
                                                          const OpenOptions& options = {});

/// Writes such a folder. It appears whole or not at all. Throws StateError for a model with adapters: merge
/// them first.
void save_late_interaction(const std::filesystem::path& directory, models::LateInteractionEncoder& model,
                           const text::Tokenizer* tokenizer, const SaveOptions& options = {});

}  // namespace bitrain::hub
