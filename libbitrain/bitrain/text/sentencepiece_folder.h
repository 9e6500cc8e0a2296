#pragma once

#include <filesystem>
#include <memory>

#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/sentencepiece_tokenizer.h>

namespace bitrain::text {

/// The SentencePieceTokenizer of a folder's tokenizer.model, where it is shown to be the tokenizer `json`
/// that AutoTokenizer makes of the folder: every id has the same piece, added tokens continue the pieces, and
/// texts made of all pieces get the same ids. Null, with `difference` saying what differs, otherwise.
[[nodiscard]] std::shared_ptr<const SentencePieceTokenizer> sentencepiece_alike(
    const SpmModel& model, const std::shared_ptr<const HfTokenizer>& json,
    const std::shared_ptr<const TokenizerFolder>& folder, const TokenizerClass& made_by,
    std::string& difference);

/// The tokenizer of a tokenizer.model whose folder names no class: SentencePiece's own ids, with the folder's
/// added tokens behind the pieces. Throws ConfigError when those leave a gap or take the id of a piece.
[[nodiscard]] std::shared_ptr<const SentencePieceTokenizer> sentencepiece_alone(
    SpmModel model, const std::shared_ptr<const TokenizerFolder>& folder);

/// The tokenizer.json of an extended model in the folder of its base.
[[nodiscard]] std::shared_ptr<const HfTokenizer> extended_json(const SpmModel& extended,
                                                               const SentencePieceOrigin& origin);

/// Writes tokenizer.model, and tokenizer.json where the folder had one or names no class, and the folder's
/// other files.
void write_sentencepiece_folder(const SpmModel& model, const SentencePieceOrigin& origin,
                                const HfTokenizer& json, const std::filesystem::path& dir);

}  // namespace bitrain::text
