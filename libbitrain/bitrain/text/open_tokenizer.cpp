#include <bitrain/base/error.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/sentencepiece_tokenizer.h>

namespace bitrain::text {

std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& dir) {
  std::error_code ignored;
  const std::filesystem::path model = dir / "tokenizer.model";
  if (std::filesystem::exists(model, ignored)) return make_sentencepiece_tokenizer(SpmModel::load(model));
  if (std::filesystem::exists(dir / "tokenizer.json", ignored)) return open_hf_tokenizer(dir);
  if (!std::filesystem::is_directory(dir, ignored)) throw IoError(dir.string(), ": no such folder");
  throw IoError(dir.string(), ": no tokenizer.model and no tokenizer.json in this folder");
}

}  // namespace bitrain::text
