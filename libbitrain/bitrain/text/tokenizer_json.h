#pragma once

#include <filesystem>

#include <bitrain/io/json.h>
#include <bitrain/text/spm_model.h>

namespace bitrain::text {

/// The tokenizer.json that makes Hugging Face's `tokenizers` give the ids of `model`. A BPE model's merges
/// are every pair of pieces whose concatenation is a piece, best score first. Texts that spell special
/// tokens differ by design: Hugging Face parses them, Tokenizer::encode does not.
[[nodiscard]] io::Json tokenizer_json(const SpmModel& model);

/// tokenizer_config.json and special_tokens_map.json for it.
[[nodiscard]] io::Json tokenizer_config_json(const SpmModel& model);
[[nodiscard]] io::Json special_tokens_map_json(const SpmModel& model);

/// Writes tokenizer.model, tokenizer.json, tokenizer_config.json and special_tokens_map.json into `dir`.
void write_tokenizer_files(const SpmModel& model, const std::filesystem::path& dir);

}  // namespace bitrain::text
