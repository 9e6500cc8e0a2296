#pragma once

#include <memory>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct CausalLmOptions {
  bool bos = true;
  bool eos = true;
};

template <class Visitor>
void visit_fields(Visitor& v, CausalLmOptions& o) {
  v.field("bos", o.bos, any(), "Begin each document with BOS, where the tokenizer has one.");
  v.field("eos", o.eos, any(), "End each document with EOS, where the tokenizer has one.");
}

/// Predicts every token of plain text (Example::text) from those before it in the document. With
/// Example::clone c, every id but padding is shifted by c vocabularies.
class CausalLm : public Objective {
 public:
  /// `languages`: what Batch::language_ids mean (data::languages_of).
  CausalLm(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
           CausalLmOptions options = {});

  /// Throws DataError for an example that is a conversation.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const override;
  [[nodiscard]] LossSum loss(models::LanguageModel& model, const Batch& batch,
                             const nn::ForwardContext& context) const override;

 private:
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  CausalLmOptions options_;
};

}  // namespace bitrain::objectives
