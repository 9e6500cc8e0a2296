#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/models/sentence_encoder.h>

namespace bitrain::models {

/// The shape of the upper encoder of a DocumentEncoder; defaults are HMDE's.
struct DocumentEncoderOptions {
  std::int64_t layers = 2;
  std::int64_t heads = 8;
  std::int64_t intermediate_size = 2048;
  std::int64_t max_sentences = 32;
  double dropout = 0.1;
  std::string pooling = "mean";
};
template <class Visitor>
void visit_fields(Visitor& v, DocumentEncoderOptions& o) {
  v.field("layers", o.layers, at_least(1), "Layers over the sentences.");
  v.field("heads", o.heads, at_least(1), "Heads of each; they divide the width of the sentence vectors.");
  v.field("intermediate_size", o.intermediate_size, at_least(1), "Width of their feed-forward layers.");
  v.field("max_sentences", o.max_sentences, at_least(1), "Longest document.");
  v.field("dropout", o.dropout, in_range(0, 1), "Share of features dropped in training; below 1.");
  v.field("pooling", o.pooling, one_of({"mean", "dcls"}),
          "A document's vector: the mean of the states over its sentences and its own, or the latter alone.");
}

/// The upper encoder's states, packed: of each document first its own, then those of its sentences.
struct DocumentStates {
  at::Tensor hidden;                     ///< [sentences + documents, D]
  std::vector<std::int32_t> boundaries;  ///< 0, then the end of each document.
};

/// A hierarchical document encoder (HMDE, Galoğlu et al. 2023, arXiv 2305.07016): a sentence encoder below,
/// and a small BERT above that reads its vectors in place of words, behind a learned vector of the document
/// itself (DCLS), with learned positions. Names are sentences.* and documents.*; DCLS is the only row of
/// documents' word embedding, so that the upper encoder is a BERT of one word, and transformers opens it as
/// such and takes inputs_embeds.
class DocumentEncoder : public nn::Module {
 public:
  /// A fresh upper encoder over `sentences`, of the dtype and on the device of its weights; fill it by
  /// initialise_documents. Throws ConfigError for heads that do not divide the width.
  DocumentEncoder(std::unique_ptr<SentenceEncoder> sentences, const DocumentEncoderOptions& options);
  /// From both. `pooling`: "mean" or "dcls". Throws ConfigError when the widths differ or the upper has other
  /// than one word.
  DocumentEncoder(std::unique_ptr<SentenceEncoder> sentences, std::unique_ptr<EncoderModel> documents,
                  const std::string& pooling);

  /// One vector a document, [documents, dimension()] in float32 (float64 for a float64 model). Segments are
  /// sentences; neighbours that share group_ids and document_ids are one document. A lower encoder of which
  /// nothing is trained runs without dropout and gradients. Throws DataError naming a document that is longer
  /// than max_sentences(); StateError for a batch without document_ids; else as EncoderModel::forward.
  [[nodiscard]] at::Tensor forward(const Batch& batch, const nn::ForwardContext& context);
  /// The same from sentence vectors [S, dimension()] of documents that end at `ends` (rising, the last S).
  /// Dropout is keyed by `context` as it is, which forward() sets for the upper encoder.
  [[nodiscard]] at::Tensor embed(const at::Tensor& sentences, const std::vector<std::int32_t>& ends,
                                 const nn::ForwardContext& context);
  /// What is pooled there.
  [[nodiscard]] DocumentStates states(const at::Tensor& sentences, const std::vector<std::int32_t>& ends,
                                      const nn::ForwardContext& context);

  [[nodiscard]] std::int64_t dimension() const { return documents_->config().hidden_size; }
  [[nodiscard]] std::int64_t max_sentences() const { return documents_->max_tokens() - 1; }
  [[nodiscard]] SentenceEncoder& sentences() { return *sentences_; }
  [[nodiscard]] EncoderModel& documents() { return *documents_; }
  [[nodiscard]] std::string pooling() const { return pooling_ == nn::Pooling::kCls ? "dcls" : "mean"; }

 private:
  void register_parts();

  std::unique_ptr<SentenceEncoder> sentences_;
  std::unique_ptr<EncoderModel> documents_;
  nn::Pooling pooling_;
};

/// Fills the upper encoder as Hugging Face does; the lower stays as it is.
void initialise_documents(DocumentEncoder& model, std::uint64_t seed);

/// Where each document of a batch ends, in segments. Throws StateError for a batch without document_ids.
[[nodiscard]] std::vector<std::int32_t> document_ends(const Batch& batch);

}  // namespace bitrain::models
