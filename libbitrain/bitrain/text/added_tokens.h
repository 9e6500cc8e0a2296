#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/text/byte_trie.h>
#include <bitrain/text/tokenizer.h>
#include <bitrain/text/utf8.h>

namespace bitrain::text {

/// A token of its own beside the model's.
struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool special = false;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
};

/// An entry of tokenizer.json's "added_tokens". Throws FormatError.
[[nodiscard]] AddedToken read_added_token(const io::Json& json, const std::string& where);

/// Whether no is_word_character stands before or behind the bytes [begin, end) (single_word).
[[nodiscard]] bool stands_alone(std::string_view text, std::size_t begin, std::size_t end);

/// The bytes [begin, end) with the white space that `token` takes (lstrip, rstrip), none before `from`.
[[nodiscard]] std::pair<std::size_t, std::size_t> with_spaces(const AddedToken& token, std::string_view text,
                                                              std::size_t from, std::size_t begin,
                                                              std::size_t end);

/// Whether a range lies inside one of `markup`, ranges that ascend.
[[nodiscard]] bool inside(const std::vector<Offset>& markup, Offset range);

/// Cuts texts at added tokens, the longest at each place from left to right.
class AddedTokenSplitter {
 public:
  void add(const AddedToken& token, std::string_view spelling) {
    if (spelling.empty()) return;
    trie_.add(spelling, static_cast<std::int32_t>(tokens_.size()));
    tokens_.push_back(token);
    only_special_ = only_special_ && token.special;
  }

  /// Calls part(begin, end, token) from left to right; null for the text between. With `specials` a special
  /// token counts where may_be_special(begin, end) of its spelling; else its spelling is passed over as a
  /// whole, as `tokenizers` does with encode_special_tokens.
  template <class MayBeSpecial, class Part>
  void split(std::string_view text, bool specials, MayBeSpecial&& may_be_special, Part&& part) const {
    std::size_t done = 0;
    const bool scans = specials ? !tokens_.empty() : !only_special_;
    for (std::size_t at = 0; scans && at < text.size();) {
      auto [length, index] = trie_.longest(text, at);
      if (length == 0) {
        at += utf8_at(text, at).length;
        continue;
      }
      const AddedToken* token = &tokens_[static_cast<std::size_t>(index)];
      if (token->special && !(specials && may_be_special(at, at + length))) {
        std::size_t shorter = 0;  // Of the special tokens that begin here too.
        trie_.prefixes(text, at, [&](std::size_t n, std::int32_t value) {
          const AddedToken& other = tokens_[static_cast<std::size_t>(value)];
          if (specials && other.special && may_be_special(at, at + n))
            std::tie(shorter, token) = std::tuple(n, &other);
        });
        if (shorter == 0) {
          at += length;
          continue;
        }
        length = shorter;
      }
      const std::size_t end = at + length;
      if (token->single_word && !stands_alone(text, at, end)) {
        at = end;
        continue;
      }
      const auto [from, to] = with_spaces(*token, text, done, at, end);
      if (from > done) part(done, from, static_cast<const AddedToken*>(nullptr));
      part(from, to, token);
      done = at = to;
    }
    if (done < text.size()) part(done, text.size(), static_cast<const AddedToken*>(nullptr));
  }

 private:
  ByteTrie trie_;
  std::vector<AddedToken> tokens_;
  bool only_special_ = true;
};

}  // namespace bitrain::text
