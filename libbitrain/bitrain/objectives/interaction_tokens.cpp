#include <bitrain/objectives/interaction_tokens.h>

#include <algorithm>
#include <string>
#include <utility>

#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>

namespace bitrain::objectives {

InteractionTokens::InteractionTokens(std::shared_ptr<const text::Tokenizer> tokenizer,
                                     const models::LateInteractionOptions& options)
    : tokenizer_(std::move(tokenizer)), options_(options) {
  const std::optional<text::TokenId> mask = tokenizer_->special_tokens().mask;
  if (options_.query_expansion && !mask)
    throw ConfigError(
        "query_expansion fills queries up with mask tokens, but the tokenizer has none: set it to "
        "false");
  mask_ = mask.value_or(0);
  for (const std::string& word : options_.skiplist_words)
    if (const std::optional<text::TokenId> id = tokenizer_->piece_to_id(word)) skipped_.insert(*id);
}

std::vector<text::TokenId> InteractionTokens::query(std::string_view text) const {
  std::vector<text::TokenId> ids =
      text::encode_framed(*tokenizer_, options_.query_prompt + std::string(text), options_.query_length);
  if (options_.query_expansion) ids.resize(static_cast<std::size_t>(options_.query_length), mask_);
  return ids;
}

std::vector<text::TokenId> InteractionTokens::document(std::string_view text) const {
  return text::encode_framed(*tokenizer_, options_.document_prompt + std::string(text),
                             options_.document_length);
}

std::int64_t InteractionTokens::count(const std::vector<text::TokenId>& document) const {
  return std::count_if(document.begin(), document.end(), [&](text::TokenId id) { return counts(id); });
}

at::Tensor InteractionTokens::left_out(const at::Tensor& input_ids) const {
  const at::Tensor ids = input_ids.cpu().contiguous();
  at::Tensor skip = at::empty({ids.size(0)}, at::TensorOptions().dtype(at::kBool));
  const auto* id = ids.const_data_ptr<std::int64_t>();
  auto* out = skip.mutable_data_ptr<bool>();
  for (std::int64_t i = 0; i < ids.size(0); ++i) out[i] = !counts(static_cast<text::TokenId>(id[i]));
  return skip;
}

}  // namespace bitrain::objectives
