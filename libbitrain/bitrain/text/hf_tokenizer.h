#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include <bitrain/io/json.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::text {

/// A tokenizer from a tokenizer.json of Hugging Face's `tokenizers`: BPE (with byte fallback, or byte-level
/// as in GPT-2, Llama 3 and Qwen2) and Unigram, with the same ids. Post-processors are read past, since
/// encode() adds no BOS or EOS; `truncation` and `padding` are settings of the caller and ignored.
/// `config` is the content of tokenizer_config.json (or special_tokens_map.json), from which the special
/// tokens come; null when there is none. `name` is for messages. Throws FormatError for damage,
/// UnsupportedError naming a component that is not known.
[[nodiscard]] std::shared_ptr<const Tokenizer> make_hf_tokenizer(std::string_view tokenizer_json,
                                                                 const io::Json& config,
                                                                 const std::string& name);

/// The same from a folder: tokenizer.json, and tokenizer_config.json and special_tokens_map.json where there.
[[nodiscard]] std::shared_ptr<const Tokenizer> open_hf_tokenizer(const std::filesystem::path& dir);

}  // namespace bitrain::text
