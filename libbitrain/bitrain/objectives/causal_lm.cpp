#include <bitrain/objectives/causal_lm.h>

#include <utility>

#include <bitrain/base/error.h>

namespace bitrain::objectives {

CausalLm::CausalLm(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
                   CausalLmOptions options)
    : tokenizer_(std::move(tokenizer)), languages_(std::move(languages)), options_(options) {}

data::TokenSequence CausalLm::encode(const data::Example& example) const {
  if (example.text.empty() && !example.messages.empty()) {
    throw DataError(data::row_name(example),
                    " is a conversation; causal_lm reads plain text, use the objective sft");
  }
  const text::SpecialTokens& special = tokenizer_->special_tokens();
  std::vector<text::TokenId> tokens = tokenizer_->encode(example.text);
  if (tokens.empty()) return {};
  if (options_.bos && special.bos) tokens.insert(tokens.begin(), *special.bos);
  if (options_.eos && special.eos) tokens.push_back(*special.eos);
  if (example.clone != 0) {
    const auto shift = static_cast<text::TokenId>(example.clone * tokenizer_->vocab_size());
    for (text::TokenId& id : tokens) {
      if (id != special.pad) id += shift;
    }
  }
  return shift_labels(tokens, std::vector<bool>(tokens.size(), true));
}

LossSum CausalLm::loss(models::LanguageModel& model, const Batch& batch,
                       const nn::ForwardContext& context) const {
  return next_token_loss(model, batch, context, languages_);
}

}  // namespace bitrain::objectives
