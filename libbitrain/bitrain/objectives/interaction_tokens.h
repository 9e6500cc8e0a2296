#pragma once

#include <memory>
#include <set>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/models/late_interaction_encoder.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

/// How texts become the tokens whose vectors interact: framing, query expansion, and what does not count.
class InteractionTokens {
 public:
  /// Pieces of options.skiplist_words that the tokenizer does not have are passed over, as
  /// sentence-transformers does. Throws ConfigError for query expansion with a tokenizer without mask token.
  InteractionTokens(std::shared_ptr<const text::Tokenizer> tokenizer,
                    const models::LateInteractionOptions& options);

  /// Prompt and text, cut, framed and, with query expansion, filled up with mask tokens: all of them count.
  [[nodiscard]] std::vector<text::TokenId> query(std::string_view text) const;
  /// Prompt and text, cut and framed.
  [[nodiscard]] std::vector<text::TokenId> document(std::string_view text) const;

  /// Whether a token of a document counts.
  [[nodiscard]] bool counts(text::TokenId id) const { return skipped_.count(id) == 0; }
  /// How many of them do. Special tokens do, so a text of punctuation alone has some where a tokenizer frames
  /// its texts.
  [[nodiscard]] std::int64_t count(const std::vector<text::TokenId>& document) const;
  /// [N] bool on the CPU: which of input_ids [N] of documents do not count.
  [[nodiscard]] at::Tensor left_out(const at::Tensor& input_ids) const;

 private:
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  models::LateInteractionOptions options_;
  text::TokenId mask_ = 0;
  std::set<text::TokenId> skipped_;
};

}  // namespace bitrain::objectives
