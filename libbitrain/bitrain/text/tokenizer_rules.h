#pragma once

#include <optional>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/text/spm_model.h>
#include <bitrain/text/tokenizer_arguments.h>
#include <bitrain/text/tokenizer_classes.h>

namespace bitrain::text {

/// The vocabulary of a folder, as tokenizer.json has it.
struct TokenizerVocabulary {
  io::Json vocab;                       ///< {piece: id}, or [[piece, score], ...] for Unigram.
  io::Json merges = io::Json::array();  ///< Of BPE.
  io::Json charsmap;                    ///< SentencePiece's normaliser in base 64; null for none.
};

/// From a SentencePiece model as transformers takes it: for BPE every way to cut a piece in two pieces, in
/// the order of the ids. `as_unigram`: for a class over Unigram.
[[nodiscard]] TokenizerVocabulary vocabulary_of(const SpmModel& model, bool as_unigram);

/// The members of tokenizer.json that a class builds: "model", "normalizer", "pre_tokenizer" and "decoder".
/// Sets in `arguments` the tokens of the roles that the folder does not name.
[[nodiscard]] io::Json build_tokenizer(TokenizerRule rule, TokenizerVocabulary vocabulary,
                                       const TokenizerFolder& folder, TokenizerArguments& arguments);

/// The same for a SentencePiece model of a folder that names no class with rules of its own.
[[nodiscard]] io::Json build_generic(const SpmModel& model, TokenizerArguments& arguments);

/// The "type" of the model that a rule builds: "BPE", "Unigram", "WordPiece".
[[nodiscard]] const char* model_type_of(TokenizerRule rule);

/// "TemplateProcessing": where bos and eos, {text, id}, are put around texts.
using TemplateToken = std::optional<std::pair<std::string, std::int64_t>>;
[[nodiscard]] io::Json frame_with(const TemplateToken& bos, const TemplateToken& eos);
/// "BertTokenizer"'s: cls A sep, cls A sep B sep.
[[nodiscard]] io::Json bert_frame(const TemplateToken& cls, const TemplateToken& sep);
/// RoBERTa's and XLM-R's: cls A sep, cls A sep sep B sep.
[[nodiscard]] io::Json roberta_frame(const TemplateToken& cls, const TemplateToken& sep);

}  // namespace bitrain::text
