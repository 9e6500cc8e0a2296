#include <bitrain/text/saved_folder.h>

#include <utility>

#include <bitrain/io/file.h>

namespace bitrain::text {
namespace {

using io::Json;

void write(const std::filesystem::path& path, const std::string& bytes) {
  io::make_directories(path.parent_path());
  io::write_file_atomic(path, bytes);
}

}  // namespace

void write_saved_folder(const std::filesystem::path& dir, const SavedFolder& saved) {
  static const std::map<std::string, std::string> kNoFiles;
  const auto& files = saved.folder != nullptr ? saved.folder->files : kNoFiles;
  for (const auto& [name, bytes] : files) write(dir / name, bytes);
  for (const auto& [name, bytes] : saved.vocabulary) write(dir / name, bytes);

  Json config = saved.folder != nullptr ? saved.folder->config : Json::object();
  const bool is_new = files.count("tokenizer_config.json") == 0;
  const bool has_class = config.contains("tokenizer_class") && !config["tokenizer_class"].is_null();
  const std::string wanted = saved.tokenizer_class.empty() ? kGenericClass : saved.tokenizer_class;
  const bool other_class = has_class && saved.must_have_class && config["tokenizer_class"] != Json(wanted);
  if (!is_new && has_class && !other_class) return;
  for (const Json* keys : {&saved.config, &saved.roles})
    for (const auto& [key, value] : keys->items())
      if (!config.contains(key)) config[key] = value;
  if (other_class || !config.contains("tokenizer_class") || config["tokenizer_class"].is_null())
    config["tokenizer_class"] = wanted;
  io::write_json(dir / "tokenizer_config.json", config);
  if (is_new && files.count("special_tokens_map.json") == 0)
    io::write_json(dir / "special_tokens_map.json", saved.roles);
}

}  // namespace bitrain::text
