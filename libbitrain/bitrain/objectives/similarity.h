#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/data/packing.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/sentence_encoder.h>
#include <bitrain/objectives/embedding_loss.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct SimilarityOptions {
  double top_score = 5.0;
  std::int64_t max_length = 128;
};

template <class Visitor>
void visit_fields(Visitor& v, SimilarityOptions& o) {
  v.field("top_score", o.top_score, above(0),
          "The score of pairs that mean the same: scores from 0 to it become cosines from 0 to 1.");
  v.field("max_length", o.max_length, at_least(3), "Tokens a text is cut to, special tokens included.");
}

/// Trains a sentence encoder on scored pairs (Example::text, pair_text, score): the cosine of the two is to
/// be the score over `top_score` (sentence-transformers' CosineSimilarityLoss).
class Similarity {
 public:
  /// `languages`: what Batch::language_ids mean (data::languages_of).
  Similarity(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
             SimilarityOptions options = {});

  /// Both texts as parts, with the score as a cosine. Empty when a side has no text, or both are the same,
  /// whose cosine is 1 whatever the model. Throws DataError, naming source and row, for a score that is
  /// missing or outside 0 to top_score.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const;

  /// The loss of a step, for train::TrainParts: the sum of squared differences; its weight is the number of
  /// pairs. The model must outlive it.
  [[nodiscard]] static EmbeddingLoss loss(models::SentenceEncoder& model);

 private:
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  SimilarityOptions options_;
};

}  // namespace bitrain::objectives
