#include <algorithm>

#include <bitrain/base/error.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/json_fields.h>
#include <bitrain/text/sentencepiece_tokenizer.h>

namespace bitrain::text {

namespace {

/// Whether tokenizer.json has added tokens behind the pieces of tokenizer.model (chat markers, for example):
/// then it alone is the whole tokenizer.
bool json_has_more(const std::filesystem::path& path, std::int64_t pieces) {
  const io::Json json = io::read_json(path);
  const io::Json& added = member(json, "added_tokens", path.string());
  if (!added.is_array()) return false;
  return std::any_of(added.begin(), added.end(), [&](const io::Json& token) {
    return optional_field<std::int64_t>(token, "id", path.string()).value_or(0) >= pieces;
  });
}

}  // namespace

std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& dir) {
  std::error_code ignored;
  const std::filesystem::path model = dir / "tokenizer.model";
  const std::filesystem::path json = dir / "tokenizer.json";
  const bool has_json = std::filesystem::exists(json, ignored);
  if (std::filesystem::exists(model, ignored)) {
    auto tokenizer = make_sentencepiece_tokenizer(SpmModel::load(model));
    if (!has_json || !json_has_more(json, tokenizer->vocab_size())) return tokenizer;
  }
  if (has_json || std::filesystem::exists(dir / "vocab.txt", ignored)) return open_hf_tokenizer(dir);
  if (!std::filesystem::is_directory(dir, ignored)) throw IoError(dir.string(), ": no such folder");
  throw IoError(dir.string(), ": no tokenizer.model, tokenizer.json or vocab.txt in this folder");
}

}  // namespace bitrain::text
