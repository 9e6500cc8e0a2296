#include <bitrain/models/quantize.h>

#include <bitrain/base/error.h>

namespace bitrain::models {
namespace {

/// All linear maps but `head`.
std::vector<std::string> quantize_maps(nn::Module& model, const nn::Linear* head,
                                       const quant::QuantizeOptions& options) {
  std::vector<std::string> changed;
  model.visit_modules([&](const std::string& path, nn::Module& module) {
    auto* linear = dynamic_cast<nn::Linear*>(&module);
    if (!linear || linear == head || linear->is_quantized()) return;
    try {
      linear->quantize(options);
    } catch (Error& error) {
      error.add_context(path);
      throw;
    }
    changed.push_back(path);
  });
  return changed;
}

}  // namespace

std::vector<std::string> quantize(LanguageModel& model, const quant::QuantizeOptions& options) {
  return quantize_maps(model, &model.output_head(), options);
}

std::vector<std::string> quantize(EncoderModel& model, const quant::QuantizeOptions& options) {
  return quantize_maps(model, nullptr, options);
}

std::vector<std::string> quantize(nn::Unit& layer, const quant::QuantizeOptions& options) {
  return quantize_maps(layer, nullptr, options);
}

}  // namespace bitrain::models
