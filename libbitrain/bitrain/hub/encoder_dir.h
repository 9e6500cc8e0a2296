#pragma once

#include <filesystem>
#include <memory>

#include <bitrain/hub/model_dir.h>
#include <bitrain/hub/sentence_settings.h>
#include <bitrain/models/cross_encoder.h>
#include <bitrain/models/encoder.h>
#include <bitrain/models/masked_language_model.h>

namespace bitrain::hub {

struct OpenedEncoder {
  std::unique_ptr<models::EncoderModel> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< Null when not asked for.
};

/// Opens a Hugging Face folder of an encoder: config.json (bert, distilbert, roberta, xlm-roberta, camembert,
/// xmod), safetensors and the tokenizer. The weights may be those of the bare model or lie below "bert.",
/// "distilbert." or "roberta." beside the head of a task, which is left aside; norms may have TensorFlow's
/// names (gamma, beta). A pooler is opened where the file has one. Weights are copied. Throws as open_model.
[[nodiscard]] OpenedEncoder open_encoder(const std::filesystem::path& directory,
                                         const OpenOptions& options = {});

/// Writes what open_encoder and transformers' AutoModel read, the bare model. The folder appears whole or not
/// at all. Throws StateError for a model with adapters: merge them first.
void save_encoder(const std::filesystem::path& directory, models::EncoderModel& model,
                  const text::Tokenizer* tokenizer, const SaveOptions& options = {});

/// The same files into a folder that exists.
void write_encoder(const std::filesystem::path& directory, models::EncoderModel& model,
                   const text::Tokenizer* tokenizer, const SaveOptions& options = {});

struct OpenedMaskedLm {
  std::unique_ptr<models::MaskedLanguageModel> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< Null when not asked for.
};

/// Opens such a folder with the heads of pre-training (BertForMaskedLM, BertForPreTraining,
/// DistilBertForMaskedLM, RobertaForMaskedLM and its kin). The head for next sentences is opened where the
/// file has one; else a pooler is left aside. options.quantize packs the encoder. Throws as open_encoder,
/// FormatError for a folder without the heads: open_encoder, models::MaskedLanguageModel and initialise_heads
/// give it fresh ones; UnsupportedError for heads that are not tied to the word embedding.
[[nodiscard]] OpenedMaskedLm open_masked_lm(const std::filesystem::path& directory,
                                            const OpenOptions& options = {});

/// Writes what open_masked_lm, open_encoder and transformers' AutoModelForMaskedLM or AutoModelForPreTraining
/// read. The folder appears whole or not at all. Throws as save_encoder.
void save_masked_lm(const std::filesystem::path& directory, models::MaskedLanguageModel& model,
                    const text::Tokenizer* tokenizer, const SaveOptions& options = {});

struct OpenedCrossEncoder {
  std::unique_ptr<models::CrossEncoder> model;
  std::shared_ptr<const text::Tokenizer> tokenizer;  ///< Null when not asked for.
  SentenceSettings settings;  ///< Prompts stand before the first text of a pair; max_seq_length cuts both.
};

/// Opens such a folder with a head of one label (BertForSequenceClassification and its kin, as
/// sentence-transformers' CrossEncoder writes them). Throws as open_encoder; FormatError for a folder without
/// the head: open_encoder and models::with_fresh_head give it one; UnsupportedError for a head of several
/// labels, for modules beside the Transformer, for options.quantize, and as read_transformer.
[[nodiscard]] OpenedCrossEncoder open_cross_encoder(const std::filesystem::path& directory,
                                                    const OpenOptions& options = {});

/// Writes what open_cross_encoder, open_encoder, transformers' AutoModelForSequenceClassification and
/// sentence-transformers' CrossEncoder read. The latter applies to the scores what the folder that was read
/// says, a sigmoid where it says nothing; a fresh head gets none. Of `settings` the files are written that
/// the folder had. The folder appears whole or not at all. Throws as save_encoder.
void save_cross_encoder(const std::filesystem::path& directory, models::CrossEncoder& model,
                        const text::Tokenizer* tokenizer, const SaveOptions& options = {},
                        const SentenceSettings& settings = {});

}  // namespace bitrain::hub
