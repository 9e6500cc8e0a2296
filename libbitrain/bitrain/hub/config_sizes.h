#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <bitrain/io/safetensors.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/llama/config.h>

namespace bitrain::hub {

/// A tensor of a model as its config.json has it.
struct WantedTensor {
  std::string name;  ///< In the file.
  std::vector<std::int64_t> shape;
};

/// What config.json says a model consists of, as far as its memory goes.
struct WantedSizes {
  std::string layers;  ///< What the names of a layer begin with, before its number ("model.layers.").
  std::int64_t layer_count = 0;
  std::vector<WantedTensor> tensors;  ///< One for each size that is free; one that the files lack is held
                                      ///< against all that they have.
};

/// Holds them against the headers of the weight files, before a model of these sizes is made: a config.json
/// that asks for a billion layers is refused and not tried. Throws FormatError for what is out of all
/// proportion; load_weights lists smaller differences.
void check_sizes(const io::TensorSource& source, const WantedSizes& wanted);

/// The same for the config.json of a folder, where there are weights beside it.
void check_sizes(const std::filesystem::path& directory, const models::LlamaConfig& config);
void check_sizes(const std::filesystem::path& directory, const models::BertConfig& config);

/// Whether a folder has safetensors of a model.
[[nodiscard]] bool has_weights(const std::filesystem::path& directory);

/// a * b, or the largest number where that is larger.
[[nodiscard]] std::int64_t saturating_product(std::int64_t a, std::int64_t b);

}  // namespace bitrain::hub
