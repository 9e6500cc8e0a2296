#pragma once

#include <string>

#include <bitrain/text/tokenizer_folder.h>

namespace bitrain::text {

/// How a class of transformers makes its tokenizer. Since version 5 many take only the vocabulary, the merges
/// and the added tokens from tokenizer.json and build the rest anew, from flags of tokenizer_config.json.
enum class TokenizerRule {
  kJson,  ///< Takes tokenizer.json as it stands (TokenizersBackend, PreTrainedTokenizerFast).
  kLlama,
  kGpt2,
  kQwen2,
  kGemma,
  kGptNeoX,
  kBert,
  kRoberta,
  kXlmRoberta,
  kCamembert,
  kOther,  ///< Builds it in a way that is not known here.
};

struct TokenizerClass {
  std::string name;  ///< As the folder spells it; empty where no file names one.
  TokenizerRule rule = TokenizerRule::kJson;
  std::string named_by;  ///< The file that named it.
};

/// The class that AutoTokenizer 5.23 makes of a folder: by "tokenizer_class" of tokenizer_config.json, then
/// of config.json, and by the latter's "model_type". `byte_level`: tokenizer.json has a ByteLevel step, with
/// which a LlamaTokenizer takes the file as it stands.
[[nodiscard]] TokenizerClass tokenizer_class_of(const TokenizerFolder& folder, bool byte_level);

}  // namespace bitrain::text
