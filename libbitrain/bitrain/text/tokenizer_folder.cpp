#include <bitrain/text/tokenizer_folder.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/text/json_fields.h>

namespace bitrain::text {
namespace {

using io::Json;

/// The object in a file of the folder, null where there is none; its bytes are kept.
Json read_object(TokenizerFolder& folder, const char* file) {
  if (!folder.has(file)) return nullptr;
  const std::string& bytes = folder.files[file] = io::read_file(folder.path / file);
  Json json = io::parse_json(bytes, folder.where(file));
  if (!json.is_object()) throw FormatError(folder.where(file), ": not an object");
  return json;
}

/// transformers reads a tokenizer.VERSION.json that the configuration lists in place of tokenizer.json,
/// unless the version is newer than its own.
void refuse_other_json(const TokenizerFolder& folder) {
  const std::string where = folder.where("tokenizer_config.json");
  const Json& files = member(folder.config, "fast_tokenizer_files", where);
  if (!files.is_array()) return;
  for (const Json& file : files) {
    if (!file.is_string() || file == "tokenizer.json") continue;
    const std::string name = file.get<std::string>();
    if (starts_with(name, "tokenizer.") && ends_with(name, ".json"))
      throw UnsupportedError(
          where, ": fast_tokenizer_files lists ", name,
          ", which transformers reads in place of tokenizer.json; rename it to tokenizer.json "
          "and take the key out");
  }
}

}  // namespace

bool TokenizerFolder::has(const std::string& file) const {
  std::error_code ignored;
  return std::filesystem::exists(path / file, ignored);
}

TokenizerFolder read_tokenizer_folder(const std::filesystem::path& dir) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(dir, ignored)) throw IoError(dir.string(), ": no such folder");
  TokenizerFolder folder;
  folder.path = dir;
  folder.has_json = folder.has("tokenizer.json");
  if (Json config = read_object(folder, "tokenizer_config.json"); !config.is_null())
    folder.config = std::move(config);
  refuse_other_json(folder);
  folder.special_tokens_map = read_object(folder, "special_tokens_map.json");
  folder.added_tokens = read_object(folder, "added_tokens.json");
  if (folder.has("config.json")) {
    const std::string where = folder.where("config.json");
    const Json config = io::read_json(dir / "config.json");
    folder.model_type = optional_field<std::string>(config, "model_type", where).value_or("");
    folder.model_class = optional_field<std::string>(config, "tokenizer_class", where).value_or("");
  }
  if (folder.has("chat_template.jinja"))
    folder.files["chat_template.jinja"] = io::read_file(dir / "chat_template.jinja");
  const std::filesystem::path templates = dir / "additional_chat_templates";
  if (std::filesystem::is_directory(templates, ignored)) {
    for (const auto& entry : std::filesystem::directory_iterator(templates)) {
      if (entry.path().extension() == ".jinja")
        folder.files["additional_chat_templates/" + entry.path().filename().string()] =
            io::read_file(entry.path());
    }
  }
  return folder;
}

}  // namespace bitrain::text
