#include <bitrain/text/hf_tokenizer.h>

#include <bitrain/base/error.h>

namespace bitrain::text {
std::shared_ptr<const Tokenizer> open_hf_tokenizer(const std::filesystem::path& dir) {
  throw UnsupportedError(dir.string(), ": only tokenizer.model is read");
}
}  // namespace bitrain::text
