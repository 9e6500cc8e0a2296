#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <bitrain/data/source.h>
#include <bitrain/fields/rule.h>
#include <bitrain/models/language_model.h>
#include <bitrain/objectives/objective.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::eval {

struct PerplexityOptions {
  std::int64_t sequence_length = 512;
  std::int64_t overlap = 128;
  std::int64_t batch_tokens = 4096;
  bool score_eos = false;
};

template <class Visitor>
void visit_fields(Visitor& v, PerplexityOptions& o) {
  v.field("sequence_length", o.sequence_length, at_least(2), "Longest context.");
  v.field("overlap", o.overlap, at_least(0),
          "Tokens of context that a window of a longer document has before what it scores.");
  v.field("batch_tokens", o.batch_tokens, at_least(1), "Tokens in memory at a time; changes no figure.");
  v.field("score_eos", o.score_eos, any(), "Count the prediction of the document's end too.");
}

/// How well a model predicts text of one language.
struct LanguageScore {
  double loss_per_token = 0;  ///< Nats.
  double bits_per_byte = 0;   ///< Of the UTF-8 text: comparable across tokenizers.
  std::int64_t tokens = 0;    ///< Scored.
  std::int64_t bytes = 0;     ///< Of the text they stand for.
  std::int64_t documents = 0;
  double nll = 0;  ///< Sum over the tokens, nats.
  double seconds = 0;
};

/// Bits per byte of a uniform guess over bytes, which needs no model.
inline constexpr double kBitsOfAGuess = 8;

/// What to tell people of a language that a model predicts worse than a guess (also NaN); empty where it does
/// not.
[[nodiscard]] std::string worse_than_no_model(const std::string& language, double bits_per_byte);

/// Loss per language over whole documents. Each begins with BOS, or EOS where the tokenizer has only that;
/// with neither, its first token cannot be predicted and is left out, with its bytes. No gradients are kept,
/// the same input gives the same figures. Throws DataError for a language without anything to score,
/// ConfigError for an overlap that is not below the sequence length.
[[nodiscard]] std::map<std::string, LanguageScore> perplexity(
    models::LanguageModel& model, const text::Tokenizer& tokenizer,
    const std::map<std::string, std::vector<std::string>>& documents, const PerplexityOptions& options = {});

/// Loss of what an objective supervises, per language (Example::language), for example of held-out responses.
/// Examples that it drops are left out. bits_per_byte and bytes stay 0. `max_documents`: no more than the
/// first so many of each language; 0: all. Throws DataError when nothing is left.
[[nodiscard]] std::map<std::string, LanguageScore> objective_loss(models::LanguageModel& model,
                                                                  const objectives::Objective& objective,
                                                                  const data::Source& source,
                                                                  std::int64_t max_documents = 0,
                                                                  std::int64_t batch_tokens = 4096);

}  // namespace bitrain::eval
