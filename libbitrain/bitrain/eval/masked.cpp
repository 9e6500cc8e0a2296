#include <bitrain/eval/masked.h>

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nonzero.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/finite_scores.h>

namespace bitrain::eval {
namespace {

constexpr std::size_t kTextsPerBatch = 32;

void score_batch(models::MaskedLanguageModel& model, const objectives::MaskedBatch& batch,
                 const std::vector<std::string>& languages, std::map<std::string, MaskedScore>& scores) {
  const at::Tensor states = model.forward(batch.tokens, {}).hidden;
  const at::Tensor places = batch.tokens.labels.ne(kIgnoreIndex).nonzero().squeeze(1);
  if (places.numel() == 0) return;
  const at::Tensor labels = batch.tokens.labels.index_select(0, places);
  const at::Tensor logits =
      model.output_head().forward(model.transform(states.index_select(0, places), {}), {}).to(at::kFloat);
  const at::Tensor losses = -at::log_softmax(logits, -1).gather(1, labels.unsqueeze(1)).squeeze(1);
  const at::Tensor correct = at::argmax(logits, -1).eq(labels).cpu().contiguous();
  const at::Tensor values = losses.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor rows = places.cpu();
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    const std::int32_t id =
        batch.token_languages[static_cast<std::size_t>(rows.const_data_ptr<std::int64_t>()[i])];
    const bool known = id >= 0 && static_cast<std::size_t>(id) < languages.size();
    MaskedScore& score = scores[known ? languages[static_cast<std::size_t>(id)] : ""];
    ++score.tokens;
    score.correct += correct.const_data_ptr<bool>()[i] ? 1 : 0;
    score.loss_per_token += values.const_data_ptr<double>()[i];
  }
}

/// Calls visit(batch) with the examples that have words, masked the same every time.
template <class Visit>
void for_each_batch(models::MaskedLanguageModel& model, const objectives::MaskedLm& objective,
                    const std::vector<data::Example>& examples, const Visit& visit) {
  const at::Device device = model.output_head().weight.device();
  std::vector<objectives::FramedText> texts;
  for (const data::Example& example : examples) {
    objectives::FramedText text = objective.encode(example, example.follows);
    if (!text.empty()) texts.push_back(std::move(text));
  }
  if (texts.empty()) throw DataError("score_masked: there is no text with words");
  for (std::size_t begin = 0; begin < texts.size(); begin += kTextsPerBatch) {
    const std::size_t end = std::min(begin + kTextsPerBatch, texts.size());
    std::vector<std::int64_t> samples;  // Below 0: training counts from 0.
    for (std::size_t i = begin; i < end; ++i) samples.push_back(-1 - static_cast<std::int64_t>(i));
    const std::vector<objectives::FramedText> some(texts.begin() + static_cast<std::ptrdiff_t>(begin),
                                                   texts.begin() + static_cast<std::ptrdiff_t>(end));
    visit(objective.collate(some, samples).to(device));
  }
}

}  // namespace

std::map<std::string, MaskedScore> score_masked(models::MaskedLanguageModel& model,
                                                const objectives::MaskedLm& objective,
                                                const std::vector<std::string>& languages,
                                                const std::vector<data::Example>& examples) {
  const at::NoGradGuard no_grad;
  std::map<std::string, MaskedScore> scores;
  for_each_batch(model, objective, examples,
                 [&](const objectives::MaskedBatch& batch) { score_batch(model, batch, languages, scores); });
  for (auto& [language, score] : scores) {
    score.loss_per_token /= static_cast<double>(score.tokens);
    check_score(score.loss_per_token, "the loss of '" + language + "'");
  }
  return scores;
}

double next_sentence_accuracy(models::MaskedLanguageModel& model, const objectives::MaskedLm& objective,
                              const std::vector<data::Example>& examples) {
  const at::NoGradGuard no_grad;
  std::int64_t pairs = 0;
  std::int64_t right = 0;
  for_each_batch(model, objective, examples, [&](const objectives::MaskedBatch& batch) {
    const at::Tensor hidden = model.forward(batch.tokens, {}).hidden;
    const at::Tensor logits = model.next_sentence_logits(hidden, batch.tokens, {});
    check_finite(logits, "the logits of next sentences");
    const at::Tensor said = at::argmax(logits, -1).cpu().contiguous();
    for (std::size_t s = 0; s < batch.next_sentence.size(); ++s) {
      if (batch.next_sentence[s] == kIgnoreIndex) continue;
      ++pairs;
      right += said.const_data_ptr<std::int64_t>()[s] == batch.next_sentence[s] ? 1 : 0;
    }
  });
  if (pairs == 0) throw DataError("next_sentence_accuracy: there is no pair of sentences");
  return static_cast<double>(right) / static_cast<double>(pairs);
}

}  // namespace bitrain::eval
