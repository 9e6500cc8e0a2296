#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/data/packing.h>
#include <bitrain/fields/rule.h>
#include <bitrain/losses/info_nce.h>
#include <bitrain/losses/memory_bank.h>
#include <bitrain/models/sentence_encoder.h>
#include <bitrain/nn/projection_head.h>
#include <bitrain/objectives/embedding_loss.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct ContextPredictionOptions {
  losses::InfoNceOptions info_nce;
  std::string bank = "per_language";
  std::int64_t bank_size = 4096;
  std::int64_t max_length = 64;
};

template <class Visitor>
void visit_fields(Visitor& v, ContextPredictionOptions& o) {
  v.field("info_nce", o.info_nce, any(), "How a sentence's context is told from other sentences.");
  v.field(
      "bank", o.bank, one_of({"per_language", "shared", "none"}),
      "Embeddings of earlier steps as negatives, each language's by itself; or one bank of all languages, "
      "and all languages of the step as negatives, for comparison; or only the step's own. A short run "
      "with a high rate is better without: what is held lies where the encoder no longer is.");
  v.field("bank_size", o.bank_size, at_least(1),
          "Earlier sentences kept as negatives, of each language or in all.");
  v.field("max_length", o.max_length, at_least(3), "Tokens a sentence is cut to, special tokens included.");
}

/// Contrastive context prediction (CCP, Wu et al. 2022, arXiv 2206.03281): a sentence is to be nearer to one
/// near it in the same document than to other sentences of its language, and the other way round. Negatives
/// are the other contexts of the step and a memory bank, both of the same language.
///
/// Sentences are compared behind a projection head, which training drops. Its batch norm takes the statistics
/// of the batch for one side of the pairs and running ones for the other, in turns from step to step, so that
/// it does not tell which sentences share a batch. The head runs over the joined rows of a step, inside the
/// loss: micro-batches of the encoder below it change nothing (GradCache stays exact).
class ContextPrediction {
 public:
  /// `languages`: what Batch::language_ids mean, and the banks there are. `width`: of the encoder's
  /// embeddings; the head keeps it. The head begins from `seed`; it and
  /// the bank are of the dtype and on the device of `tensors`. Throws ConfigError for no language.
  ContextPrediction(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
                    std::int64_t width, std::uint64_t seed, ContextPredictionOptions options = {},
                    at::TensorOptions tensors = at::kFloat);

  /// Centre (Example::text) and context (Example::pair_text) as parts. Empty when either has no tokens or
  /// both are the same. Throws DataError, naming source and row, for an example that is no pair, of two
  /// languages, or of a language that there is no bank for.
  [[nodiscard]] data::TokenSequence encode(const data::Example& example) const;

  /// The loss of a step, for train::TrainParts. Its sum counts both directions of a pair as halves; its
  /// weight is the number of pairs; parts are by language. Calling it is what moves the bank and the running
  /// statistics on, unless the loss is not finite. This and `model` must outlive it. Throws DataError for a
  /// language that has one pair in the step and nothing in its bank.
  [[nodiscard]] EmbeddingLoss loss(models::SentenceEncoder& model);

  /// To be trained beside the encoder: all of its weights but the running statistics require grad.
  [[nodiscard]] nn::ProjectionHead& head() { return head_; }
  [[nodiscard]] const losses::LanguageMemoryBank& bank() const { return bank_; }

  /// What a run goes on from, beside the head's weights: the bank, the running statistics, whose turn it is.
  [[nodiscard]] std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// The inverse. Throws StateError when a part is missing or does not fit.
  void load_state(const losses::LanguageMemoryBank::Lookup& lookup);

 private:
  /// Centres and contexts behind the head, of length 1.
  struct Sides {
    at::Tensor centres;   ///< [B, D]
    at::Tensor contexts;  ///< [B, D]
  };
  [[nodiscard]] Sides project(const at::Tensor& centres, const at::Tensor& contexts);
  [[nodiscard]] LossSum loss_of(const at::Tensor& embedded, const std::vector<Batch>& micro_batches);
  [[nodiscard]] std::int32_t language_id(const std::string& language) const;
  /// The bank of a language.
  [[nodiscard]] std::int32_t bank_of(std::int32_t language) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  ContextPredictionOptions options_;
  nn::ProjectionHead head_;
  losses::LanguageMemoryBank bank_;
  std::int64_t steps_ = 0;  ///< Losses computed: odd and even ones swap the sides' statistics.
};

}  // namespace bitrain::objectives
