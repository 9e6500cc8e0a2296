#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/eval/retrieval.h>
#include <bitrain/models/cross_encoder.h>
#include <bitrain/text/tokenizer.h>

/// Reranking: a cross-encoder reads each query beside what a first system found for it.
namespace bitrain::eval {

struct RerankOptions {
  std::int64_t depth = 100;              ///< Hits of each query that are read; the rest stay behind them.
  std::int64_t max_length = 512;         ///< Tokens of a pair, special ones included; the longer text is cut.
  std::int64_t tokens_per_batch = 4096;  ///< Changes no result.
  std::string prompt;                    ///< Put before every query.
  std::int32_t language = -1;            ///< Of the documents: an index into EncoderModel::set_languages.
};

struct TextPair {
  std::string query;
  std::string document;
};

/// Scores of pairs, [n] float32 on the CPU, in their order, without gradients; pairs of like length share a
/// batch. Throws as CrossEncoder::forward, and ConfigError when max_length leaves no room for two texts.
[[nodiscard]] at::Tensor score_text_pairs(models::CrossEncoder& model, const text::Tokenizer& tokenizer,
                                          const std::vector<TextPair>& pairs,
                                          const RerankOptions& options = {});

/// The hits of each query in the order of the cross-encoder's scores; of equal ones the one found first. Hits
/// beyond `depth` keep their order, with scores below. A query without hits stays without. Throws DataError
/// for a run that names a query or document that is not in the set.
[[nodiscard]] RetrievalRun rerank(models::CrossEncoder& model, const text::Tokenizer& tokenizer,
                                  const RetrievalSet& set, const RetrievalRun& run,
                                  const RerankOptions& options = {});

}  // namespace bitrain::eval
