#include <bitrain/text/wordpiece.h>

#include <cstdint>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {

WordPieceModel::WordPieceModel(const io::Json& json, const std::string& where)
    : prefix_(field<std::string>(json, "continuing_subword_prefix", where)),
      max_characters_(field<std::int64_t>(json, "max_input_chars_per_word", where)) {
  if (max_characters_ < 1)
    throw FormatError(where, ": 'max_input_chars_per_word' is ", max_characters_, ", not at least 1");
  const io::Json& vocabulary = member(json, "vocab", where);
  if (!vocabulary.is_object()) throw FormatError(where, ": 'vocab' is not an object");
  vocabulary_.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= (1U << 30))
      throw FormatError(where, ": the id of '", token, "' is not a whole number below 2^30");
    const auto number = id.get<TokenId>();
    vocabulary_.emplace(token, number);
    if (!token.empty()) starts_.add(token, number);
    if (token.size() > prefix_.size() && starts_with(token, prefix_))
      continuations_.add(std::string_view(token).substr(prefix_.size()), number);
  }
  const auto unknown = field<std::string>(json, "unk_token", where);
  const auto found = vocabulary_.find(unknown);
  if (found == vocabulary_.end())
    throw FormatError(where, ": the unk_token '", unknown, "' is not in the vocabulary");
  unknown_ = found->second;
}

void WordPieceModel::encode(std::string_view word, std::vector<Token>& tokens) const {
  const std::size_t first = tokens.size();
  // No need to count the characters of most words.
  bool known =
      static_cast<std::int64_t>(word.size()) <= max_characters_ || utf8_length(word) <= max_characters_;
  for (std::size_t at = 0; known && at < word.size();) {
    const auto [length, id] = trie(at == 0).longest(word, at);
    known = length > 0;
    tokens.push_back({id, static_cast<std::uint32_t>(length)});
    at += length;
  }
  if (known) return;
  tokens.resize(first);
  tokens.push_back({*unknown_, static_cast<std::uint32_t>(word.size())});
}

std::vector<TokenId> WordPieceModel::encode_piece(std::string_view piece) const {
  const bool continues = piece.size() > prefix_.size() && starts_with(piece, prefix_);
  if (continues) piece.remove_prefix(prefix_.size());
  std::vector<TokenId> ids;
  for (std::size_t at = 0; at < piece.size();) {
    const auto [length, id] = trie(at == 0 && !continues).longest(piece, at);
    ids.push_back(length > 0 ? id : *unknown_);
    at += length > 0 ? length : utf8_at(piece, at).length;
  }
  return ids;
}

}  // namespace bitrain::text
