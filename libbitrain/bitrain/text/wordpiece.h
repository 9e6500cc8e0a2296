#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/text/byte_trie.h>
#include <bitrain/text/hf_model.h>

namespace bitrain::text {

/// WordPiece as BERT has it (Wu et al. 2016, Devlin et al. 2019): from the left, always the longest token;
/// those behind the first of a word are spelled with a prefix, "##". A word that cannot be cut so, or has
/// more than `max_input_chars_per_word` characters, is the unknown token as a whole.
class WordPieceModel final : public WordModel {
 public:
  /// From a tokenizer.json's "model". Throws FormatError, also where the vocabulary lacks unk_token.
  WordPieceModel(const io::Json& json, const std::string& where);

  void encode(std::string_view word, std::vector<Token>& tokens) const override;
  /// Tokens of a piece's text, as at the start of a word or, with the prefix, within one: "##ción" may be cut
  /// into "##ci" "##ón". Characters without a token are unknown one by one.
  [[nodiscard]] std::vector<TokenId> encode_piece(std::string_view piece) const;

  [[nodiscard]] const std::string& prefix() const { return prefix_; }
  [[nodiscard]] std::int64_t max_input_characters() const { return max_characters_; }

 private:
  [[nodiscard]] const ByteTrie& trie(bool first) const { return first ? starts_ : continuations_; }

  std::string prefix_;
  std::int64_t max_characters_ = 0;
  ByteTrie starts_;         ///< Tokens as they are spelled.
  ByteTrie continuations_;  ///< Those with the prefix, without it.
};

}  // namespace bitrain::text
