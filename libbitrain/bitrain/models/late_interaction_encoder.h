#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/models/encoder.h>
#include <bitrain/models/sentence_encoder.h>

namespace bitrain::models {

/// string.punctuation, one piece each: what ColBERT leaves out of documents.
[[nodiscard]] std::vector<std::string> punctuation();

/// How texts are given to a LateInteractionEncoder, and which of their tokens count.
struct LateInteractionOptions {
  std::int64_t query_length = 32;
  bool query_expansion = true;
  std::int64_t document_length = 256;
  std::string query_prompt;
  std::string document_prompt;
  std::vector<std::string> skiplist_words = punctuation();  ///< Pieces that are read but never found.
};
template <class Visitor>
void visit_fields(Visitor& v, LateInteractionOptions& o) {
  v.field("query_length", o.query_length, at_least(3),
          "Tokens a query is cut to, special tokens included (ColBERT: 32).");
  v.field("query_expansion", o.query_expansion, any(),
          "Fill queries up to query_length with mask tokens, which are attended to and look for words too.");
  v.field("document_length", o.document_length, at_least(3),
          "Tokens a document is cut to, special tokens included.");
  v.field("query_prompt", o.query_prompt, any(), "Put before every query.");
  v.field("document_prompt", o.document_prompt, any(), "Put before every document.");
}

/// ColBERT (Khattab and Zaharia 2020): an encoder and a linear map of its hidden states, one vector of length
/// 1 for each token. Names are those of the parts: transformer.*, projection.linear.weight.
class LateInteractionEncoder : public nn::Module {
 public:
  /// A projection without bias onto `dimension` features, allocated as the encoder is, not filled: load it or
  /// call initialise_projection. Throws ConfigError for a dimension below 1.
  LateInteractionEncoder(std::unique_ptr<EncoderModel> encoder, std::int64_t dimension,
                         LateInteractionOptions options = {});
  /// Takes a map that exists. Throws ConfigError when it does not follow on the encoder.
  LateInteractionEncoder(std::unique_ptr<EncoderModel> encoder, std::unique_ptr<Dense> projection,
                         LateInteractionOptions options = {});

  /// Unit vectors of all tokens, [N, dimension()] in float32 (float64 for a float64 model). Throws as
  /// EncoderModel::forward.
  [[nodiscard]] at::Tensor forward(const Batch& batch, const nn::ForwardContext& context);

  [[nodiscard]] std::int64_t dimension() const { return projection_->linear.out_features; }
  [[nodiscard]] EncoderModel& encoder() { return *encoder_; }
  [[nodiscard]] const EncoderModel& encoder() const { return *encoder_; }
  [[nodiscard]] Dense& projection() { return *projection_; }
  [[nodiscard]] const LateInteractionOptions& options() const { return options_; }

 private:
  std::unique_ptr<EncoderModel> encoder_;
  std::unique_ptr<Dense> projection_;
  LateInteractionOptions options_;
};

/// Fills the projection at the config's initializer_range; the encoder stays as it is.
void initialise_projection(LateInteractionEncoder& model, std::uint64_t seed);

}  // namespace bitrain::models
