#pragma once

#include <string>
#include <vector>

#include <bitrain/models/encoder.h>
#include <bitrain/models/language_model.h>
#include <bitrain/nn/unit.h>
#include <bitrain/quant/quantized_tensor.h>

namespace bitrain::models {

/// Replaces the weights of the linear maps by their 4-bit form (QLoRA's base), in place and frozen. The head
/// and the embedding stay as they are, as does what is quantised already. Returns the paths that changed.
std::vector<std::string> quantize(LanguageModel& model, const quant::QuantizeOptions& options = {});
std::vector<std::string> quantize(EncoderModel& model, const quant::QuantizeOptions& options = {});
/// Of one layer; paths begin there.
std::vector<std::string> quantize(nn::Unit& layer, const quant::QuantizeOptions& options = {});

}  // namespace bitrain::models
