#pragma once

#include <filesystem>
#include <memory>

#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/models/document_encoder.h>

namespace bitrain::hub {

struct OpenedDocumentEncoder {
  std::unique_ptr<models::DocumentEncoder> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< Null when not asked for.
  SentenceSettings settings;                         ///< Of the lower encoder.
};

/// Whether a folder holds a document encoder: its subfolder "documents" is one.
[[nodiscard]] bool is_document_encoder(const std::filesystem::path& directory);

/// Opens a document encoder: a sentence-transformers folder, the lower encoder, with the upper in
/// "documents", a Hugging Face BERT of one word, and documents/document_encoder.json ({"pooling": "mean" or
/// "dcls"}). Throws as open_sentence_encoder, FormatError for parts that do not fit each other.
[[nodiscard]] OpenedDocumentEncoder open_document_encoder(const std::filesystem::path& directory,
                                                          const OpenOptions& options = {});

/// Writes such a folder. SentenceTransformer(directory) is the lower encoder,
/// BertModel.from_pretrained(directory / "documents") the upper, to be given inputs_embeds. The folder
/// appears whole or not at all. Throws as save_sentence_encoder.
void save_document_encoder(const std::filesystem::path& directory, models::DocumentEncoder& model,
                           const text::Tokenizer* tokenizer, const SentenceSettings& settings,
                           const SaveOptions& options = {});

}  // namespace bitrain::hub
