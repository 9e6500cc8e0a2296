#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/text/added_tokens.h>
#include <bitrain/text/tokenizer_folder.h>

namespace bitrain::text {

/// A token that a folder's files name, before it has an id of its own.
struct NamedToken {
  AddedToken token;
  std::string file;      ///< That named it, for messages.
  bool as_text = false;  ///< Named by its spelling alone: special, without other properties.
};

/// What the class of a tokenizer is called with: the files of a folder as transformers 5.23 merges them.
struct TokenizerArguments {
  /// bos_token and so on, then the folder's own ("image_token"), in the order in which they are added. A role
  /// that is named as null has no token.
  std::vector<std::pair<std::string, std::optional<NamedToken>>> named;
  std::optional<std::vector<NamedToken>> extra;  ///< extra_special_tokens, additional_special_tokens.
  std::map<std::int64_t, NamedToken> decoder;    ///< By id: added_tokens_decoder, added_tokens.json, ...

  [[nodiscard]] const std::optional<NamedToken>* find(const std::string& role) const;
  /// The token of a role; where nothing is said of it, `usual`, which becomes its token.
  std::optional<std::string> token_or(const std::string& role, const std::optional<std::string>& usual);
};

/// `json_tokens`: the "added_tokens" of tokenizer.json, null without one. Throws FormatError, naming file and
/// key, for what is no token, and ConfigError where two files name one id or one role differently.
[[nodiscard]] TokenizerArguments read_tokenizer_arguments(const TokenizerFolder& folder,
                                                          const io::Json& json_tokens);

}  // namespace bitrain::text
