#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/base/loss_sum.h>
#include <bitrain/data/example.h>
#include <bitrain/data/packing.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/cross_encoder.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct ListwiseOptions {
  std::int64_t max_length = 256;
};

template <class Visitor>
void visit_fields(Visitor& v, ListwiseOptions& o) {
  v.field("max_length", o.max_length, at_least(5),
          "Tokens a query and a candidate are cut to together, special ones included; the longer text is cut "
          "first, so a short query stays whole.");
}

/// Trains a cross-encoder to score the answer of a query (Example::text, Example::pair_text) above its hard
/// negatives (Example::negatives): softmax over the candidates of one query, the positive first (T2Ranking,
/// Xie et al. 2023, arXiv 2304.03679).
class Listwise {
 public:
  /// `languages`: what Batch::language_ids mean (data::languages_of). `prompt` is put before every query.
  /// Throws ConfigError when max_length leaves no room for two texts.
  Listwise(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
           ListwiseOptions options = {}, std::string prompt = "");

  /// Query and candidate, framed as a pair, for the positive and each negative that is another text; every
  /// pair as two parts, the query's and the candidate's, for a data::Loader with packing "whole"; X-MOD reads
  /// it by the candidate's adapter. Empty when
  /// query or positive has no text, or both are the same. Thread-safe. Throws DataError, naming source and
  /// row, for an example that is no pair, and for one without negatives.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const;

  /// Sum over the queries of a micro-batch of such sequences, with their number as weight; part
  /// "positive_first": the share of queries whose positive scores highest. Throws DataError for a query with
  /// one candidate, StateError for a batch of another kind.
  [[nodiscard]] LossSum loss(models::CrossEncoder& model, const Batch& batch,
                             const nn::ForwardContext& context) const;

 private:
  /// The pairs, each one segment, and where the candidates of each query end.
  struct Candidates {
    Batch pairs;
    std::vector<std::int64_t> ends;
  };
  [[nodiscard]] Candidates candidates_of(const Batch& batch) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  ListwiseOptions options_;
  std::string prompt_;
};

}  // namespace bitrain::objectives
