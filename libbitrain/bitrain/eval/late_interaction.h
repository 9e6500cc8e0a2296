#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/eval/search.h>
#include <bitrain/fields/rule.h>
#include <bitrain/losses/late_interaction.h>
#include <bitrain/models/late_interaction_encoder.h>
#include <bitrain/objectives/interaction_tokens.h>

/// Search by late interaction: every token vector of every document is kept.
namespace bitrain::eval {

struct LateIndexOptions {
  std::string storage = "bfloat16";
  double max_gib = 0;
};
template <class Visitor>
void visit_fields(Visitor& v, LateIndexOptions& o) {
  v.field("storage", o.storage, one_of({"bfloat16", "int8"}),
          "How the vectors of documents are kept; int8 with one scale each takes half the memory.");
  v.field(
      "max_gib", o.max_gib, at_least(0),
      "Most memory of an index, in GiB; a larger one is an error before anything is encoded. 0: no limit.");
}

/// Vectors of documents, and exact search among them.
class LateInteractionIndex {
 public:
  /// Room for documents of `lengths` vectors each. Throws ConfigError, before memory is taken, when bytes_of
  /// is above options.max_gib, saying what would help; DataError for a document without vectors or no
  /// documents.
  LateInteractionIndex(const std::vector<std::int64_t>& lengths, std::int64_t dimension,
                       const LateIndexOptions& options = {});

  /// The vectors [lengths[document], dimension] of a document, each of length 1. Throws DataError for NaN or
  /// infinity, StateError for another shape.
  void put(std::int64_t document, const at::Tensor& vectors);

  /// The k documents with the highest losses::max_sim for each query, over the vectors as they are kept, in
  /// blocks of documents. k is cut to their number; of equal scores the lower row comes first. Throws
  /// DataError naming a query with NaN or infinity; else as max_sim.
  [[nodiscard]] Neighbours search(const losses::TokenVectors& queries, std::int64_t k) const;

  [[nodiscard]] std::int64_t documents() const { return static_cast<std::int64_t>(boundaries_.size()) - 1; }
  [[nodiscard]] std::int64_t vectors() const { return boundaries_.back(); }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_of(vectors(), documents(), dimension_, storage_); }
  /// What an index of that size takes: vectors, their scales and the boundaries.
  [[nodiscard]] static std::uint64_t bytes_of(std::int64_t vectors, std::int64_t documents,
                                              std::int64_t dimension, const std::string& storage);

 private:
  /// float32 vectors of documents first .. last - 1.
  [[nodiscard]] losses::TokenVectors block(std::int64_t first, std::int64_t last) const;

  std::int64_t dimension_;
  std::string storage_;
  std::vector<std::int64_t> boundaries_ = {0};
  at::Tensor vectors_;  ///< [vectors, dimension] bfloat16 or int8.
  at::Tensor scales_;   ///< [vectors] float32, of int8.
};

struct LateEncodeOptions {
  std::int64_t tokens_per_batch = 4096;  ///< Changes no result.
  std::int32_t language = -1;            ///< Of all texts: an index into EncoderModel::set_languages.
};

/// The token vectors of queries, float32 on the CPU, in their order, without gradients. Throws as
/// LateInteractionEncoder::forward.
[[nodiscard]] losses::TokenVectors encode_queries(models::LateInteractionEncoder& model,
                                                  const objectives::InteractionTokens& tokens,
                                                  const std::vector<std::string>& texts,
                                                  const LateEncodeOptions& options = {});

/// Encodes documents into an index; only the index is ever held in full. Throws as the index and the encoder,
/// and DataError naming a document of which no token counts.
[[nodiscard]] LateInteractionIndex index_documents(models::LateInteractionEncoder& model,
                                                   const objectives::InteractionTokens& tokens,
                                                   const std::vector<std::string>& texts,
                                                   const LateIndexOptions& index = {},
                                                   const LateEncodeOptions& options = {});

}  // namespace bitrain::eval
