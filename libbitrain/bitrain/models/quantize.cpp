#include <bitrain/models/quantize.h>

#include <bitrain/base/error.h>

namespace bitrain::models {

std::vector<std::string> quantize(LanguageModel& model, const quant::QuantizeOptions& options) {
  std::vector<std::string> changed;
  const nn::Linear* head = &model.output_head();
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

}  // namespace bitrain::models
