#include <bitrain/models/bert/add_language_adapters.h>

#include <map>
#include <utility>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/models/bert/model.h>

namespace bitrain::models {

BertConfig with_language_adapters(BertConfig config, const std::vector<std::string>& languages,
                                  std::int64_t reduction_factor) {
  if (config.has_language_adapters())
    throw ConfigError("the model is an X-MOD: it has adapters for ", join(config.languages, ", "),
                      " already");
  const std::int64_t first_before = config.first_position();
  config.model_type = "xmod";
  config.max_position_embeddings += config.first_position() - first_before;
  config.pre_norm = false;
  config.adapter_reduction_factor = reduction_factor;
  config.adapter_layer_norm = false;
  config.adapter_reuse_layer_norm = true;
  config.ln_before_adapter = false;
  config.languages = languages;
  config.default_language.reset();
  if (!languages.empty()) config.default_language = languages.front();
  check(config);
  return config;
}

std::unique_ptr<EncoderModel> add_language_adapters(EncoderModel& model,
                                                    const std::vector<std::string>& languages,
                                                    std::int64_t reduction_factor, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  const BertConfig config = with_language_adapters(model.config(), languages, reduction_factor);
  std::map<std::string, at::Tensor> weights;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) { weights[name] = tensor; });
  std::unique_ptr<EncoderModel> xmod = make_bert(config, model.input_embeddings().weight.options());
  initialise(*xmod, seed);  // The first maps of the adapters; all else is overwritten.
  xmod->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (ends_with(name, "dense2.weight") && name.find("adapter_modules.") != std::string::npos) {
      tensor.zero_();
      return;
    }
    const auto found = weights.find(name);
    if (found == weights.end()) return;
    const std::int64_t added = tensor.size(0) - found->second.size(0);  // Only of the position table.
    tensor.narrow(0, 0, added).zero_();
    tensor.narrow(0, added, found->second.size(0)).copy_(found->second);
  });
  return xmod;
}

}  // namespace bitrain::models
