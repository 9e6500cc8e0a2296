#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <bitrain/hub/model_dir.h>
#include <bitrain/models/config_reader.h>
#include <bitrain/models/sentence_encoder.h>

namespace bitrain::hub {

/// What a sentence-transformers folder says about its use, besides the model.
struct SentenceSettings {
  std::int64_t max_seq_length = 512;  ///< Tokens a text is truncated to, special tokens included.
  bool do_lower_case = false;         ///< Whether the tokenizer lower-cases first; an opened one does.
  bool include_prompt = true;         ///< Whether the tokens of a prompt take part in pooling.
  std::map<std::string, std::string> prompts;  ///< Texts put before others, by task.
  std::optional<std::string> default_prompt_name;
  std::string similarity_fn_name = "cosine";

  /// config_sentence_transformers.json, sentence_bert_config.json and the pooling's config.json as they were
  /// read; they are written again, but for what has changed since.
  models::ReadJson settings_file, transformer_file, pooling_file;
};

/// What stands before texts: the prompt called `name`, else that of default_prompt_name, else nothing. Throws
/// ConfigError for a name that is not among the prompts, with those that are.
[[nodiscard]] std::string prompt_of(const SentenceSettings& settings,
                                    const std::optional<std::string>& name = {});

struct OpenedSentenceEncoder {
  std::unique_ptr<models::SentenceEncoder> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< Null when not asked for.
  SentenceSettings settings;
};

/// Opens a sentence-transformers folder (docs/formats.md): modules.json with a Transformer, its Pooling, any
/// number of Dense and at most one Normalize, in this order, as versions 1 to 6 write them. A folder without
/// modules.json is an encoder with mean pooling, as sentence-transformers takes it.
///
/// Throws UnsupportedError naming a module type, pooling mode or activation that is not known, and those that
/// are, or for do_lower_case with a SentencePiece model; FormatError for damaged files; else as open_encoder.
[[nodiscard]] OpenedSentenceEncoder open_sentence_encoder(const std::filesystem::path& directory,
                                                          const OpenOptions& options = {});

/// Writes such a folder, in the form that all versions of sentence-transformers since 2.0 read. It appears
/// whole or not at all. Throws StateError for a model with adapters: merge them first.
void save_sentence_encoder(const std::filesystem::path& directory, models::SentenceEncoder& model,
                           const text::Tokenizer* tokenizer, const SentenceSettings& settings,
                           const SaveOptions& options = {});

/// The same files into a folder that exists.
void write_sentence_encoder(const std::filesystem::path& directory, models::SentenceEncoder& model,
                            const text::Tokenizer* tokenizer, const SentenceSettings& settings,
                            const SaveOptions& options = {});

}  // namespace bitrain::hub
