#pragma once

#include <filesystem>
#include <string>

#include <bitrain/adapters/lora.h>
#include <bitrain/io/json.h>
#include <bitrain/nn/module.h>

namespace bitrain::hub {

/// adapter_config.json for `options`, as PEFT 0.21 writes it in inference mode for a causal language model,
/// or for an encoder (task_type FEATURE_EXTRACTION).
[[nodiscard]] io::Json adapter_config(const adapters::LoraOptions& options, const std::string& base_name,
                                      const std::string& task_type = "CAUSAL_LM");

/// Reads such a block; `where` names the file. Throws UnsupportedError for another peft_type and for options
/// that change the mathematics in ways bitrain does not have (DoRA, biases, ...), FormatError for damage.
/// Other keys are ignored.
[[nodiscard]] adapters::LoraOptions parse_adapter_config(const io::Json& json, const std::string& where);

/// Writes the trained tensors of `model`, a language model or the encoder of a sentence encoder, as PEFT
/// reads them: adapter_config.json and adapter_model.safetensors. `base_name` is the path or hub name of the
/// base. The folder appears whole or not at all. Throws StateError when nothing is trained.
void save_adapter(const std::filesystem::path& directory, nn::Module& model,
                  const adapters::LoraOptions& options, const std::string& base_name);

/// Attaches the adapter of a PEFT folder to `model` and returns its options. Throws IoError for missing
/// files, ConfigError when the adapter was made for a base of another shape or vocabulary (both shapes
/// named), FormatError listing tensors that are missing or unexpected; UnsupportedError as
/// parse_adapter_config. After an error the model is without adapters.
adapters::LoraOptions load_adapter(const std::filesystem::path& directory, nn::Module& model);

}  // namespace bitrain::hub
