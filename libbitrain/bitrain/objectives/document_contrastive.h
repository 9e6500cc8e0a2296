#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/data/packing.h>
#include <bitrain/fields/rule.h>
#include <bitrain/losses/info_nce.h>
#include <bitrain/models/document_encoder.h>
#include <bitrain/objectives/embedding_loss.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct DocumentContrastiveOptions {
  losses::InfoNceOptions info_nce;
  std::int64_t max_length = 128;
};

template <class Visitor>
void visit_fields(Visitor& v, DocumentContrastiveOptions& o) {
  v.field("info_nce", o.info_nce, any(), "How a document is told from the others.");
  v.field("max_length", o.max_length, at_least(3), "Tokens a sentence is cut to, special tokens included.");
}

/// Trains a document encoder on pairs of documents (HMDE, arXiv 2305.07016): each is to be nearer to its pair
/// than to the other documents of the step in that language and to hard negatives of that language, both ways
/// summed (losses::two_pool_info_nce).
class DocumentContrastive {
 public:
  /// `languages`: what Batch::language_ids mean. `max_sentences`: documents are cut to so many.
  DocumentContrastive(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
                      std::int64_t max_sentences, DocumentContrastiveOptions options = {});

  /// The sentences (data::split_sentences) of an example as parts: those of its text are document 0, of its
  /// pair 1, of Example::text_negatives 2, 4, .. and of Example::negatives 3, 5, ..: even numbers have the
  /// text's language, odd ones the pair's. Hard negatives without sentences, or equal to another of its
  /// documents, are left out. Empty when a side has no sentences or both are the same. Throws DataError,
  /// naming source and row, for an example that is no pair.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const;

  /// The loss of a step, for train::TrainParts; its weight is the number of pairs. This and the model must
  /// outlive it. Throws DataError for a step of one pair without hard negatives.
  [[nodiscard]] EmbeddingLoss loss(models::DocumentEncoder& model) const;

 private:
  [[nodiscard]] LossSum loss_of(const at::Tensor& embedded, const std::vector<Batch>& micro_batches) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  std::int64_t max_sentences_;
  DocumentContrastiveOptions options_;
};

}  // namespace bitrain::objectives
