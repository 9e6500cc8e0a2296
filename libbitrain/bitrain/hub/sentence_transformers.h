#pragma once

#include <filesystem>
#include <memory>

#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/sentence_settings.h>
#include <bitrain/models/sentence_encoder.h>

namespace bitrain::hub {

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
/// are, for do_lower_case with a SentencePiece model, for a Transformer that is an adapter, and as
/// read_transformer; FormatError for damaged files; else as open_encoder.
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
