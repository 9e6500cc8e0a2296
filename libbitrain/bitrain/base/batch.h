#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace bitrain {

/// Label of a position that carries no loss (Hugging Face's value).
inline constexpr std::int64_t kIgnoreIndex = -100;

/// One micro-batch: a run of N tokens cut into S segments. There is no padding and attention never crosses a
/// segment.
struct Batch {
  at::Tensor input_ids;  ///< [N] int64.
  at::Tensor
      labels;  ///< [N] int64: the token that position i must predict (already shifted), or kIgnoreIndex.
  at::Tensor position_ids;    ///< [N] int64, from 0 in each segment.
  at::Tensor token_type_ids;  ///< [N] int64: sentence 0 or 1 of a pair, for encoders; undefined: all 0.
  at::Tensor cu_seqlens;      ///< [S + 1] int32 on the device of the tokens: 0, ends of the segments.
  std::vector<std::int32_t>
      boundaries;  ///< cu_seqlens on the host, made once, so that no layer has to synchronise.
  std::vector<std::int32_t> language_ids;  ///< [S], index into the run's language list; empty when unknown.
  /// [S] rising: which example of the micro-batch a segment belongs to, for examples of several texts (query,
  /// positive, negatives); empty: each segment is one.
  std::vector<std::int32_t> group_ids;
  /// [S]: which document of its group a segment is a sentence of, for examples of documents; empty: each
  /// segment is a text by itself.
  std::vector<std::int32_t> document_ids;
  std::vector<float> weights;  ///< [S] loss weight of a segment; empty means 1.
  std::vector<float> scores;   ///< [S] score of the example that a segment belongs to; empty: they have none.
  /// Where ranks share the tokens of a micro-batch and this is the share of one (token_share): the boundaries
  /// of the whole micro-batch, which attention is over; empty: this is all of it.
  std::vector<std::int32_t> whole_boundaries;
  std::int64_t first_token =
      0;  ///< Position of this micro-batch's first token among those of the step that the model reads.

  /// Of examples of documents: the same for an encoder that reads, of each document, itself and its sentences
  /// as tokens.
  std::int64_t first_sentence = 0;

  [[nodiscard]] std::int64_t tokens() const { return boundaries.empty() ? 0 : boundaries.back(); }
  [[nodiscard]] std::int64_t segments() const { return static_cast<std::int64_t>(boundaries.size()) - 1; }
  /// Tokens of the longest one, of the whole micro-batch.
  [[nodiscard]] std::int64_t longest_segment() const;
  /// The same batch on `device`.
  [[nodiscard]] Batch to(at::Device device) const;
};

/// Where the tokens of `rank` begin when `ranks` share `tokens`; of rank + 1, where they end.
[[nodiscard]] inline std::int64_t token_begin(std::int64_t tokens, std::int64_t rank, std::int64_t ranks) {
  return tokens * rank / ranks;
}

/// The tokens of `rank` when `ranks` share a micro-batch, cut anywhere: a segment that is cut is one on both
/// sides, with its language and weight, and positions go on. A batch without tokens stays as it is. Throws
/// DataError for fewer tokens than ranks, StateError for a batch of examples with several texts.
[[nodiscard]] Batch token_share(const Batch& batch, std::int64_t rank, std::int64_t ranks);

/// Builds a batch from its segments: positions, boundaries and tensors from ids and labels of equal length.
/// Throws DataError when the lengths differ or a segment is empty.
[[nodiscard]] Batch make_batch(const std::vector<std::vector<std::int32_t>>& ids,
                               const std::vector<std::vector<std::int32_t>>& labels,
                               const std::vector<std::int32_t>& language_ids = {});

}  // namespace bitrain
