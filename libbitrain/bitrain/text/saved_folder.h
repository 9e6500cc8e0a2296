#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include <bitrain/io/json.h>
#include <bitrain/text/tokenizer_folder.h>

namespace bitrain::text {

/// The class that takes tokenizer.json as it stands.
inline constexpr const char* kGenericClass = "PreTrainedTokenizerFast";

/// What a tokenizer writes.
struct SavedFolder {
  std::shared_ptr<const TokenizerFolder> folder;  ///< That it was read from; null for none.
  std::map<std::string, std::string> vocabulary;  ///< tokenizer.json, tokenizer.model, ...: name and bytes.
  std::string tokenizer_class;                    ///< Empty for kGenericClass.
  bool must_have_class = false;          ///< The class that the folder names would make another tokenizer.
  io::Json roles = io::Json::object();   ///< {"bos_token": "<s>", ...}
  io::Json config = io::Json::object();  ///< Keys of tokenizer_config.json where the folder says nothing.
};

/// Writes the files of a tokenizer into the existing folder `dir`. All that its folder held is written again
/// as it was: tokenizer_config.json and special_tokens_map.json with every key, added_tokens.json and the
/// chat templates byte for byte. On purpose only this is changed:
/// - "tokenizer_class" is written where the folder names none, and is kGenericClass where the named class
///   would make another tokenizer of the written files; then the roles that the class knew by itself are
///   written too;
/// - where the folder had no tokenizer_config.json, one is written, with `config` and `roles`, and so is
///   special_tokens_map.json.
void write_saved_folder(const std::filesystem::path& dir, const SavedFolder& saved);

}  // namespace bitrain::text
