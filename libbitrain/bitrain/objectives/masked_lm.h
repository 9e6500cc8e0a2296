#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/base/batch.h>
#include <bitrain/base/loss_sum.h>
#include <bitrain/data/example.h>
#include <bitrain/data/packing.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/masked_language_model.h>
#include <bitrain/objectives/masking.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::objectives {

struct MaskedLmOptions {
  std::int64_t max_length = 512;
  MaskingOptions masking;
};

template <class Visitor>
void visit_fields(Visitor& v, MaskedLmOptions& o) {
  v.field(
      "max_length", o.max_length, at_least(1),
      "Longest text, or pair, in tokens, special ones included; longer ones are cut, of a pair the longer "
      "text first.");
  v.field("masking", o.masking, any(), "Which tokens are to be predicted, and how they are hidden.");
}

/// A text, or a pair, as an encoder reads it, before masking. Empty: skip it.
struct FramedText {
  std::vector<text::TokenId> ids;
  std::vector<std::int32_t> type_ids;
  std::vector<std::int32_t> words;      ///< As MaskingVocabulary::words.
  std::vector<std::int32_t> languages;  ///< Of each token: index into the run's list, or -1.
  std::size_t second = 0;               ///< Where the second text begins; 0: there is one.
  std::optional<bool> follows;  ///< For next sentences: the second text follows on the first, or does not.

  [[nodiscard]] bool empty() const { return ids.empty(); }
};

/// A micro-batch whose labels are the tokens that were hidden.
struct MaskedBatch {
  Batch tokens;
  std::vector<std::int32_t> token_languages;  ///< [N], as FramedText::languages.
  std::vector<std::int64_t> next_sentence;    ///< [S]: 0 follows, 1 does not, kIgnoreIndex; empty: no pairs.

  [[nodiscard]] MaskedBatch to(at::Device device) const {
    return {tokens.to(device), token_languages, next_sentence};
  }
};

/// Sum over the hidden tokens of a micro-batch, with their number as weight and the share of each language as
/// part "language/<code>". Heads see the hidden tokens alone, in chunks.
///
/// Where the batch has next_sentence labels, each pair's cross-entropy is added once for each of its hidden
/// tokens, so that the mean over tokens is that of the masked tokens plus a mean over pairs, and the same for
/// any split into micro-batches; part "next_sentence" has the plain sum over pairs and their number.
/// Batch::weights scale segments, in sums and weights alike. Throws StateError for parts of the batch that do
/// not fit each other, and for next_sentence with a model without that head.
[[nodiscard]] LossSum masked_lm_loss(models::MaskedLanguageModel& model, const MaskedBatch& batch,
                                     const nn::ForwardContext& context,
                                     const std::vector<std::string>& languages);

/// Masked-language modelling (MLM, Devlin et al. 2019) of Example::text and, where there is an
/// Example::pair_text, of both as one segment, so that a word may be read off its translation (TLM, Conneau
/// and Lample 2019).
class MaskedLm {
 public:
  /// `languages`: what Batch::language_ids mean (data::languages_of). Throws ConfigError as check(masking)
  /// and MaskingVocabulary, and where max_length leaves no room for a pair.
  MaskedLm(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
           std::uint64_t seed, MaskedLmOptions options = {});

  /// Tokens of an example, framed as the tokenizer's files say. `follows` makes the pair one for next
  /// sentences. Empty when there are no words, or, with `follows`, when one text has none. Thread-safe.
  /// Throws DataError, naming source and row, for a conversation, and for `follows` without a pair;
  /// UnsupportedError for a clone.
  [[nodiscard]] FramedText encode(const data::Example& example, std::optional<bool> follows = {}) const;

  /// encode() for a data::Loader with packing "whole": not masked yet, a pair as two parts. Where
  /// Example::follows is set, the label of the first token says it: 0 follows, 1 does not.
  [[nodiscard]] data::TokenSequence sequence(const data::Example& example) const;

  /// Masks of a text: a function of the text, the seed and `sample`, its number in the run, alone.
  [[nodiscard]] MaskedTokens mask(const FramedText& text, std::int64_t sample) const;

  /// A micro-batch of masked texts, one a segment, with their numbers in the run. The language of a segment
  /// is that of its first text. Throws StateError for empty texts, and for another number of numbers.
  [[nodiscard]] MaskedBatch collate(const std::vector<FramedText>& texts,
                                    const std::vector<std::int64_t>& samples) const;

  /// A micro-batch of such sequences, masked for a step: a function of the seed, of `step` and of the place
  /// in the step, whatever the split into micro-batches.
  [[nodiscard]] MaskedBatch masked(const Batch& batch, std::int64_t step) const;

  /// The loss of a micro-batch of such sequences, masked anew for context.dropout.step.
  [[nodiscard]] LossSum loss(models::MaskedLanguageModel& model, const Batch& batch,
                             const nn::ForwardContext& context) const;

  /// As masked_lm_loss.
  [[nodiscard]] LossSum loss(models::MaskedLanguageModel& model, const MaskedBatch& batch,
                             const nn::ForwardContext& context) const {
    return masked_lm_loss(model, batch, context, languages_);
  }

 private:
  [[nodiscard]] std::int32_t language_id(const std::string& language) const;
  [[nodiscard]] std::vector<FramedText> framed_texts(const Batch& batch) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::string> languages_;
  MaskedLmOptions options_;
  MaskingVocabulary vocabulary_;
  std::uint64_t key_;
};

}  // namespace bitrain::objectives
