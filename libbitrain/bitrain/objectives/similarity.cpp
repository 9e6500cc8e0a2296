#include <bitrain/objectives/similarity.h>

#include <algorithm>
#include <utility>

#include <ATen/ops/empty.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/distillation.h>

namespace bitrain::objectives {
namespace {

/// The wanted cosine of each pair of a step. Throws StateError unless every example is two texts with a
/// score.
at::Tensor targets_of(const std::vector<Batch>& micro_batches) {
  std::vector<float> targets;
  for (const Batch& batch : micro_batches) {
    const std::size_t segments = batch.group_ids.size();
    bool paired = segments % 2 == 0 && batch.scores.size() == segments &&
                  static_cast<std::int64_t>(segments) == batch.segments();
    for (std::size_t s = 0; paired && s < segments; s += 2) {
      paired = batch.group_ids[s] == batch.group_ids[s + 1] &&
               (s + 2 == segments || batch.group_ids[s + 2] != batch.group_ids[s]);
      targets.push_back(batch.scores[s]);
    }
    if (!paired) throw StateError("similarity: an example of a batch is not a pair with a score");
  }
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(targets.size())}, at::kFloat);
  std::copy(targets.begin(), targets.end(), tensor.mutable_data_ptr<float>());
  return tensor;
}

}  // namespace

Similarity::Similarity(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> languages,
                       SimilarityOptions options)
    : tokenizer_(std::move(tokenizer)), languages_(std::move(languages)), options_(options) {}

data::TokenSequence Similarity::encode(const data::Example& example) const {
  const auto row = [&example] { return data::row_name(example); };
  if (!example.score)
    throw DataError(row(), " has no score: similarity is learnt from a text, another, and a score");
  if (!(*example.score >= 0 && *example.score <= options_.top_score))
    throw DataError(row(), ": its score ", *example.score, " is not between 0 and ", options_.top_score,
                    "; set objective.top_score to that of pairs that mean the same");
  if (example.text.empty() || example.pair_text.empty() || example.text == example.pair_text) return {};
  data::TokenSequence sequence;
  const auto append = [&](const std::string& text, const std::string& code) {
    const auto found = std::find(languages_.begin(), languages_.end(), code);
    const std::vector<text::TokenId> ids = text::encode_framed(*tokenizer_, text, options_.max_length);
    sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.end());
    sequence.parts.push_back(
        {static_cast<std::int32_t>(sequence.ids.size()),
         found == languages_.end() ? -1 : static_cast<std::int32_t>(found - languages_.begin())});
  };
  append(example.text, example.language);
  append(example.pair_text, example.pair_language);
  sequence.labels.assign(sequence.ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
  sequence.score = static_cast<float>(*example.score / options_.top_score);
  return sequence;
}

EmbeddingLoss Similarity::loss(models::SentenceEncoder& model) {
  EmbeddingLoss loss;
  loss.embed = [&model](const Batch& batch, const nn::ForwardContext& context) {
    return model.forward(batch, context);
  };
  loss.loss = [](const at::Tensor& embedded, const at::Tensor&, const std::vector<Batch>& micro_batches) {
    const at::Tensor targets = targets_of(micro_batches).to(embedded.device());
    // Text and pair follow each other.
    const at::Tensor pairs = embedded.view({-1, 2, embedded.size(1)});
    LossSum result;
    result.sum = losses::cosine_regression(pairs.select(1, 0), pairs.select(1, 1), targets).sum();
    result.weight = static_cast<double>(targets.size(0));
    return result;
  };
  return loss;
}

}  // namespace bitrain::objectives
