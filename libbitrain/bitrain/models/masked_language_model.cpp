#include <bitrain/models/masked_language_model.h>

#include <map>
#include <string>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/models/bert/model.h>
#include <bitrain/models/initialise.h>

namespace bitrain::models {
namespace {

constexpr std::int64_t kNextSentenceClasses = 2;

/// Hugging Face's names of the parts of the head.
struct HeadNames {
  const char* dense;
  const char* norm;
  const char* output;
};

HeadNames head_names(const BertConfig& config) {
  if (config.model_type == "bert")
    return {"cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"};
  if (config.is_distilbert()) return {"vocab_transform", "vocab_layer_norm", "vocab_projector"};
  return {"lm_head.dense", "lm_head.layer_norm", "lm_head"};
}

/// The heads of a model under their own names.
class Heads : public nn::Module {
 public:
  explicit Heads(MaskedLanguageModel& model) {
    for (const auto& [name, child] : model.children())
      if (child != &model.encoder()) register_child(name, *child);
  }
};

}  // namespace

MaskedLanguageModel::MaskedLanguageModel(std::unique_ptr<EncoderModel> encoder, bool next_sentence)
    : encoder_(std::move(encoder)),
      dense_(encoder_->config().hidden_size, encoder_->config().hidden_size, true,
             encoder_->input_embeddings().weight.options()),
      norm_(encoder_->config().hidden_size, encoder_->config().layer_norm_eps,
            encoder_->input_embeddings().weight.options()),
      output_head_(encoder_->config().hidden_size, encoder_->config().vocab_size, true,
                   encoder_->input_embeddings().weight.options()) {
  const BertConfig& config = encoder_->config();
  if (next_sentence && (config.model_type != "bert" || !encoder_->has_pooler())) {
    throw ConfigError("next-sentence prediction needs a BERT with a pooler; this encoder is ",
                      config.model_type, encoder_->has_pooler() ? "" : " without one");
  }
  const bool own = config.model_type == "bert" || config.is_distilbert();
  activation_ = own ? activation_of(config) : nn::Activation::kGelu;  // As transformers has it.
  const HeadNames names = head_names(config);
  register_child(config.base_name(), *encoder_);
  register_child(names.dense, dense_);
  register_child(names.norm, norm_);
  register_child(names.output, output_head_);
  if (next_sentence) {
    next_sentence_ = std::make_unique<nn::Linear>(encoder_->config().hidden_size, kNextSentenceClasses, true,
                                                  encoder_->input_embeddings().weight.options());
    register_child("cls.seq_relationship", *next_sentence_);
  }
  tie();
}

at::Tensor MaskedLanguageModel::transform(const at::Tensor& hidden, const nn::ForwardContext& context) const {
  return norm_.forward(nn::activate(dense_.forward(hidden, context), activation_));
}

nn::Linear& MaskedLanguageModel::output_head() {
  tie();
  return output_head_;
}

at::Tensor MaskedLanguageModel::next_sentence_logits(const at::Tensor& hidden, const Batch& batch,
                                                     const nn::ForwardContext& context) const {
  if (!next_sentence_) throw StateError("this model has no head for next sentences");
  return next_sentence_->forward(encoder_->pooled(hidden, batch, context), context);
}

void MaskedLanguageModel::tie() {
  output_head_.shares_weight = true;
  output_head_.weight = encoder_->input_embeddings().weight;
  output_head_.out_features = output_head_.weight.size(0);
  at::Tensor& bias = output_head_.bias;
  if (const std::int64_t missing = output_head_.out_features - bias.size(0); missing > 0) {
    const at::NoGradGuard no_grad;  // New rows begin without a bias, as in transformers.
    const bool trained = bias.requires_grad();
    bias = at::cat({bias, at::zeros({missing}, bias.options())}).set_requires_grad(trained);
  }
}

std::unique_ptr<MaskedLanguageModel> with_next_sentence(MaskedLanguageModel& model, std::uint64_t seed) {
  auto encoder = make_bert(model.encoder().config(), model.encoder().input_embeddings().weight.options(),
                           /*pooler=*/true);
  initialise(*encoder, seed);
  auto wider = std::make_unique<MaskedLanguageModel>(std::move(encoder), /*next_sentence=*/true);
  initialise_heads(*wider, seed);
  std::map<std::string, at::Tensor> known;
  model.visit_tensors([&](const std::string& name, at::Tensor& tensor) { known[name] = tensor; });
  wider->visit_tensors([&](const std::string& name, at::Tensor& tensor) {
    if (const auto found = known.find(name); found != known.end()) tensor = found->second;
  });
  static_cast<void>(wider->output_head());  // Takes the embedding that came with the others.
  return wider;
}

void initialise_heads(MaskedLanguageModel& model, std::uint64_t seed) {
  Heads heads(model);
  initialise(heads, model.encoder().config().initializer_range, seed);
}

}  // namespace bitrain::models
