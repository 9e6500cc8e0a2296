#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>
#include <bitrain/models/language_model.h>
#include <bitrain/text/tokenizer.h>

namespace bitrain::eval {

/// A beginning and the text that should follow.
struct CompletionCase {
  std::vector<text::TokenId> prompt;  ///< Whole, with BOS and role prefixes: see split_case, Sft::prompt.
  std::string expected;
  std::string language;
  std::string place = {};  ///< Where it is from, for messages: "file:17". May be empty.
};

struct CompletionOptions {
  std::int64_t words = 1;
  std::int64_t max_new_tokens = 16;
  std::int64_t batch_tokens = 4096;
};

template <class Visitor>
void visit_fields(Visitor& v, CompletionOptions& o) {
  v.field("words", o.words, at_least(1), "Words that are compared.");
  v.field("max_new_tokens", o.max_new_tokens, at_least(1), "Most tokens generated for them.");
  v.field("batch_tokens", o.batch_tokens, at_least(1), "Prompt tokens in memory at a time.");
}

struct CompletionScore {
  std::int64_t cases = 0;
  std::int64_t correct = 0;
  double accuracy = 0;
  double seconds = 0;
};

/// Share of cases where greedy generation begins with exactly the first `words` words (split at white space)
/// that are expected. Fewer expected words are compared as they are. Throws DataError without cases, and
/// naming its place for a case without prompt or without a word that is expected.
[[nodiscard]] std::map<std::string, CompletionScore> completion_accuracy(
    models::LanguageModel& model, const text::Tokenizer& tokenizer, const std::vector<CompletionCase>& cases,
    const CompletionOptions& options = {});

/// A prompt as people type it for a model: BOS, unless it spells that itself, and its text, in which
/// spellings of special tokens are these tokens.
[[nodiscard]] std::vector<text::TokenId> encode_prompt(const text::Tokenizer& tokenizer,
                                                       const std::string& prompt);

/// Case for a plain language model: BOS and the first `prompt_words` words, and the rest. `expected` is empty
/// when the text has no more words.
[[nodiscard]] CompletionCase split_case(const text::Tokenizer& tokenizer, const std::string& text,
                                        const std::string& language, std::int64_t prompt_words);

}  // namespace bitrain::eval
