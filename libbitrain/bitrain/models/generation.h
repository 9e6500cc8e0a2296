#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/models/language_model.h>

namespace bitrain::models {

/// How a continuation is chosen. The filters apply in this order: repetition penalty, temperature, top-k,
/// top-p.
struct GenerationOptions {
  std::int64_t max_new_tokens = 128;
  double temperature = 0.0;
  std::int64_t top_k = 0;
  double top_p = 1.0;
  double repetition_penalty = 1.0;
  std::int64_t seed = 0;
  std::vector<std::int64_t> stop_tokens;
};
template <class Visitor>
void visit_fields(Visitor& v, GenerationOptions& o) {
  v.field("max_new_tokens", o.max_new_tokens, at_least(1), "Longest continuation, in tokens.");
  v.field("temperature", o.temperature, at_least(0), "Divides the logits; 0 takes the likeliest token.");
  v.field("top_k", o.top_k, at_least(0), "Draw among this many likeliest tokens; 0 means all.");
  v.field("top_p", o.top_p, in_range(0, 1),
          "Draw among the likeliest tokens that together reach this probability.");
  v.field("repetition_penalty", o.repetition_penalty, above(0),
          "Divides positive and multiplies negative logits of tokens seen before; 1 changes nothing.");
  v.field("seed", o.seed, any(), "Seed of the draws.");
  v.field("stop_tokens", o.stop_tokens, any(),
          "Ids that end the continuation; empty takes those of generation_config.json or config.json.");
}

/// Receives each new token as it is chosen; false ends the continuation after it.
using TokenCallback = std::function<bool(std::int32_t)>;

/// Continues `prompt` (not empty) with cached keys and values; returns the new tokens without the stop token.
/// `vocab_size` > 0 restricts the choice to the first ids, for models whose rows outnumber the tokenizer's.
/// The draws are a function of (seed, number of the new token). Throws DataError for an empty prompt or an id
/// outside the vocabulary, ConfigError for options out of range.
[[nodiscard]] std::vector<std::int32_t> generate(LanguageModel& model,
                                                 const std::vector<std::int32_t>& prompt,
                                                 const GenerationOptions& options = {},
                                                 const TokenCallback& on_token = {},
                                                 std::int64_t vocab_size = 0);

}  // namespace bitrain::models
