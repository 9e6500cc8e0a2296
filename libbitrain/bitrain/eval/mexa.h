#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/models/language_model.h>
#include <bitrain/text/tokenizer.h>

/// MEXA (Kargaran et al. 2024, arXiv 2410.05873): how far a decoder has aligned a language with its pivot,
/// from parallel sentences alone.
namespace bitrain::eval {

struct MexaOptions {
  std::string tokens = "weighted";
  std::int64_t batch_tokens = 4096;
};
template <class Visitor>
void visit_fields(Visitor& v, MexaOptions& o) {
  v.field("tokens", o.tokens, one_of({"weighted", "last"}),
          "A sentence's embedding: the mean of its tokens weighted by their positions, or the last token.");
  v.field("batch_tokens", o.batch_tokens, at_least(1), "Tokens in memory at a time; changes no figure.");
}

/// Embeddings of the sentences, one tensor [n, D] float32 for each of the model's layers: the embedding's
/// output, every layer's, the last after the final norm. A sentence begins with BOS where the tokenizer has
/// it. Throws DataError for a sentence without tokens.
[[nodiscard]] std::vector<at::Tensor> layer_embeddings(models::LanguageModel& model,
                                                       const text::Tokenizer& tokenizer,
                                                       const std::vector<std::string>& sentences,
                                                       const MexaOptions& options = {});

/// Share of pairs (row i, row i) whose cosine is above that of either row with any other row of the other
/// side: ties (within 1e-10, what float64 leaves of one sum in two orders) do not count, so rows that are all
/// equal score 0. Throws StateError for sizes that differ, DataError for fewer than two pairs, which have
/// nothing to be told from, or rows that are all zero or not finite.
[[nodiscard]] double mexa_alignment(const at::Tensor& pivot, const at::Tensor& other);

struct MexaScores {
  std::vector<double> layers;  ///< mexa_alignment of each layer.
  double mean = 0;
  double max = 0;
};
/// Sentence i of one side translates sentence i of the other. Throws as the two above.
[[nodiscard]] MexaScores mexa(models::LanguageModel& model, const text::Tokenizer& tokenizer,
                              const std::vector<std::string>& pivot, const std::vector<std::string>& other,
                              const MexaOptions& options = {});

}  // namespace bitrain::eval
