#pragma once

#include <memory>
#include <optional>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/text/spm_model.h>
#include <bitrain/text/tokenizer_classes.h>
#include <bitrain/text/tokenizer_folder.h>

namespace bitrain::text {

/// The tokenizer that AutoTokenizer of transformers 5.23 makes of a folder, as a tokenizer.json.
struct AutoTokenizer {
  TokenizerClass made_by;
  std::string file;                     ///< The file that its vocabulary comes from.
  io::Json json;                        ///< Its tokenizer.json, with all added tokens.
  std::string bytes;                    ///< The same as text: as it was read where nothing had to be changed.
  std::string replaced;                 ///< tokenizer.json as it was read, where `bytes` is another.
  io::Json roles = io::Json::object();  ///< {"bos_token": "<s>", ...}: of the roles that have a token.
};

/// The vocabulary file that would be read beside tokenizer.json, or without one.
[[nodiscard]] const char* vocabulary_file(TokenizerRule rule);

/// Reads tokenizer.json, or without one the vocabulary of the folder's class: vocab.txt, vocab.json with
/// merges.txt, sentencepiece.bpe.model. `model`: the folder's tokenizer.model, where the class reads that
/// one. Throws IoError when a file is missing, FormatError for a damaged one, ConfigError where two files
/// disagree (an id, a kind of model), UnsupportedError for a class whose rules are not known.
[[nodiscard]] AutoTokenizer make_auto_tokenizer(const TokenizerFolder& folder, const SpmModel* model);

}  // namespace bitrain::text
