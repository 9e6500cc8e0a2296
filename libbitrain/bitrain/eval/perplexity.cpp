#include <bitrain/eval/perplexity.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/eval/finite_scores.h>

namespace bitrain::eval {
namespace {

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

struct Sums {
  double nll = 0;
  double tokens = 0;
};

/// Collects segments into batches of about `batch_tokens` and scores them by language.
class Scorer {
 public:
  Scorer(models::LanguageModel& model, std::vector<std::string> languages, std::int64_t batch_tokens)
      : model_(model), languages_(std::move(languages)), batch_tokens_(batch_tokens) {
    if (batch_tokens < 1) throw ConfigError("batch_tokens must be 1 or more");
  }

  void add(std::vector<std::int32_t> ids, std::vector<std::int32_t> labels, std::int32_t language) {
    const auto size = static_cast<std::int64_t>(ids.size());
    if (waiting_ > 0 && waiting_ + size > batch_tokens_) flush();
    waiting_ += size;
    ids_.push_back(std::move(ids));
    labels_.push_back(std::move(labels));
    language_ids_.push_back(language);
  }

  void flush() {
    if (ids_.empty()) return;
    const at::NoGradGuard no_grad;
    const at::Device device = model_.input_embeddings().weight.device();
    const Batch batch = make_batch(ids_, labels_, language_ids_).to(device);
    const LossSum loss = objectives::next_token_loss(model_, batch, {}, languages_);
    for (const auto& [name, part] : loss.parts) {
      Sums& sums = sums_[name.substr(name.find('/') + 1)];
      sums.nll += part.sum;
      sums.tokens += part.weight;
    }
    ids_.clear();
    labels_.clear();
    language_ids_.clear();
    waiting_ = 0;
  }

  [[nodiscard]] const std::map<std::string, Sums>& sums() const { return sums_; }

 private:
  models::LanguageModel& model_;
  std::vector<std::string> languages_;
  std::int64_t batch_tokens_;
  std::int64_t waiting_ = 0;
  std::vector<std::vector<std::int32_t>> ids_;
  std::vector<std::vector<std::int32_t>> labels_;
  std::vector<std::int32_t> language_ids_;
  std::map<std::string, Sums> sums_;
};

/// Cuts a document into windows: each scores what the one before it did not, after `overlap` tokens of
/// context.
void add_windows(Scorer& scorer, const data::TokenSequence& document, std::int32_t language,
                 const PerplexityOptions& options) {
  const std::int64_t size = document.size();
  for (std::int64_t scored = 0; scored < size;) {
    const std::int64_t begin = std::max<std::int64_t>(0, scored - options.overlap);
    const std::int64_t end = std::min(size, begin + options.sequence_length);
    std::vector<std::int32_t> ids(document.ids.begin() + begin, document.ids.begin() + end);
    std::vector<std::int32_t> labels(document.labels.begin() + begin, document.labels.begin() + end);
    std::fill(labels.begin(), labels.begin() + (scored - begin), static_cast<std::int32_t>(kIgnoreIndex));
    scorer.add(std::move(ids), std::move(labels), language);
    scored = end;
  }
}

/// A document as tokens to score; `bytes` receives the length of the text they stand for.
data::TokenSequence scored_tokens(const text::Tokenizer& tokenizer, const std::string& text, bool score_eos,
                                  std::int64_t& bytes) {
  const text::SpecialTokens& special = tokenizer.special_tokens();
  bytes = static_cast<std::int64_t>(text.size());
  std::vector<text::TokenId> tokens;
  const std::optional<text::TokenId> first = special.bos ? special.bos : special.eos;
  if (first) {
    tokens = tokenizer.encode(text);
    if (tokens.empty()) return {};
    tokens.insert(tokens.begin(), *first);
  } else {
    const text::Encoding encoding = tokenizer.encode_with_offsets(text);
    if (encoding.ids.empty()) return {};
    tokens = encoding.ids;
    bytes -= encoding.offsets.front().end;
  }
  if (score_eos && special.eos) tokens.push_back(*special.eos);
  return objectives::shift_labels(tokens, std::vector<bool>(tokens.size(), true));
}

void finish(LanguageScore& score, const Sums& sums, const std::string& language) {
  check_score(sums.nll, language.empty() ? "the loss" : "the loss of '" + language + "'");
  score.nll = sums.nll;
  score.tokens = std::llround(sums.tokens);
  score.loss_per_token = sums.nll / sums.tokens;
  if (score.bytes > 0) {
    score.bits_per_byte = sums.nll / std::log(2.0) / static_cast<double>(score.bytes);
  }
}

}  // namespace

std::string worse_than_no_model(const std::string& language, double bits_per_byte) {
  if (bits_per_byte <= kBitsOfAGuess) return "";
  return to_text("text of language '", language, "' costs ", format("%.2f", bits_per_byte),
                 " bits per byte; 8 is what guessing bytes costs, so this is worse than no model. Check that "
                 "the tokenizer belongs to the weights, that the folder is the model you mean, and that the "
                 "text is of this language; in the course of training, lower train.learning_rate");
}

std::map<std::string, LanguageScore> perplexity(
    models::LanguageModel& model, const text::Tokenizer& tokenizer,
    const std::map<std::string, std::vector<std::string>>& documents, const PerplexityOptions& options) {
  if (options.sequence_length < 2) throw ConfigError("perplexity: sequence_length must be 2 or more");
  if (options.overlap < 0 || options.overlap >= options.sequence_length) {
    throw ConfigError("perplexity: overlap ", options.overlap, " must be below sequence_length ",
                      options.sequence_length);
  }
  std::map<std::string, LanguageScore> result;
  for (const auto& [language, texts] : documents) {
    const Stopwatch watch;
    Scorer scorer(model, {language}, options.batch_tokens);
    LanguageScore score;
    for (const std::string& text : texts) {
      std::int64_t bytes = 0;
      const data::TokenSequence document = scored_tokens(tokenizer, text, options.score_eos, bytes);
      if (document.empty()) continue;
      score.bytes += bytes;
      ++score.documents;
      add_windows(scorer, document, 0, options);
    }
    scorer.flush();
    if (scorer.sums().empty()) {
      throw DataError("there is nothing to evaluate for language '", language, "': ", texts.size(),
                      " documents, none with text");
    }
    finish(score, scorer.sums().begin()->second, language);
    score.seconds = watch.seconds();
    result.emplace(language, score);
  }
  return result;
}

std::map<std::string, LanguageScore> objective_loss(models::LanguageModel& model,
                                                    const objectives::Objective& objective,
                                                    const data::Source& source, std::int64_t max_documents,
                                                    std::int64_t batch_tokens) {
  const Stopwatch watch;
  const std::vector<std::string> languages = source.languages();
  Scorer scorer(model, languages, batch_tokens);
  std::map<std::string, LanguageScore> result;
  for (std::int64_t i = 0; i < source.size(); ++i) {
    const data::Example example = source.at(i);
    if (example.empty()) continue;
    const auto seen = result.find(example.language);
    if (max_documents > 0 && seen != result.end() && seen->second.documents >= max_documents) continue;
    data::TokenSequence sequence = objective.encode(example);
    if (sequence.empty()) continue;
    const auto language = std::find(languages.begin(), languages.end(), example.language);
    if (language == languages.end()) {
      throw DataError(data::row_name(example), " is of language '", example.language,
                      "', which the source does not list");
    }
    ++result[example.language].documents;
    scorer.add(std::move(sequence.ids), std::move(sequence.labels),
               static_cast<std::int32_t>(language - languages.begin()));
  }
  scorer.flush();
  if (result.empty()) {
    throw DataError("there is nothing to evaluate in source '", source.name(),
                    "': none of its examples has anything supervised");
  }
  for (auto& [language, score] : result) {
    finish(score, scorer.sums().at(language.empty() ? "unknown" : language), language);
    score.seconds = watch.seconds();
  }
  return result;
}

}  // namespace bitrain::eval
