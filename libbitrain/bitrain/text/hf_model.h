#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::text {

/// The "model" of a tokenizer.json: cuts a word into tokens.
class WordModel {
 public:
  /// A token and how many bytes of the word it stands for.
  struct Token {
    TokenId id = 0;
    std::uint32_t length = 0;
  };
  virtual ~WordModel() = default;
  /// Appends the tokens of a word; lengths sum to the word's, but for characters that a model without unknown
  /// token drops.
  virtual void encode(std::string_view word, std::vector<Token>& tokens) const = 0;
  [[nodiscard]] const std::unordered_map<std::string, TokenId>& vocabulary() const { return vocabulary_; }
  [[nodiscard]] std::optional<TokenId> unknown() const { return unknown_; }

 protected:
  std::unordered_map<std::string, TokenId> vocabulary_;
  std::optional<TokenId> unknown_;
};

/// Spellings of special tokens.
using SpecialSpellings = std::unordered_set<std::string>;

/// BPE, Unigram, WordPiece and WordLevel. A Unigram model lists its special tokens among its pieces: one with
/// byte fallback never gives those of `special`, but the unknown token, for a text that spells them; one
/// without gives them, as `tokenizers` does. `byte_level`: words are bytes, spelled in the vocabulary by
/// GPT-2's characters. Throws FormatError, UnsupportedError for another type or option.
[[nodiscard]] std::unique_ptr<const WordModel> make_word_model(const io::Json& json, bool byte_level,
                                                               const SpecialSpellings& special,
                                                               const std::string& where);

}  // namespace bitrain::text
