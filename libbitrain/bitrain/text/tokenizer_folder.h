#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <bitrain/io/json.h>

namespace bitrain::text {

/// What a tokenizer's folder holds beside its vocabulary. A tokenizer keeps it and writes it again, so that
/// what nobody here understands is carried over.
struct TokenizerFolder {
  std::filesystem::path path;
  io::Json config = io::Json::object();  ///< tokenizer_config.json; empty where there is none.
  io::Json special_tokens_map;           ///< special_tokens_map.json; null where there is none.
  io::Json added_tokens;                 ///< added_tokens.json; null where there is none.
  std::string model_type;                ///< "model_type" and "tokenizer_class" of config.json.
  std::string model_class;
  bool has_json = false;         ///< There is a tokenizer.json.
  std::string model_difference;  ///< How its tokenizer.model differs from the tokenizer that counts.
  /// Files to write again byte for byte, by their names: the configurations as they were read, and
  /// chat_template.jinja and additional_chat_templates/*.jinja.
  std::map<std::string, std::string> files;
  /// The same for the files of the vocabulary, as long as the tokenizer is the one that was read.
  std::map<std::string, std::string> vocabulary;

  [[nodiscard]] bool has(const std::string& file) const;
  /// The path of a file of the folder, for messages.
  [[nodiscard]] std::string where(const std::string& file) const { return (path / file).string(); }
};

/// Throws IoError when there is no such folder, FormatError for a file that is not JSON or no object.
[[nodiscard]] TokenizerFolder read_tokenizer_folder(const std::filesystem::path& dir);

}  // namespace bitrain::text
