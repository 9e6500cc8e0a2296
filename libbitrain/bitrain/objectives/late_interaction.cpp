#include <bitrain/objectives/late_interaction.h>

#include <algorithm>
#include <set>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/late_interaction.h>

namespace bitrain::objectives {
namespace {

/// Token vectors of some texts of a step, taken one by one.
class Side {
 public:
  /// Rows [begin, end) of `vectors`; `left_out` may be undefined.
  void add(const at::Tensor& vectors, const at::Tensor& left_out, std::int64_t begin, std::int64_t end) {
    vectors_.push_back(vectors.narrow(0, begin, end - begin));
    if (left_out.defined()) left_out_.push_back(left_out.narrow(0, begin, end - begin));
    boundaries_.push_back(boundaries_.back() + static_cast<std::int32_t>(end - begin));
  }

  [[nodiscard]] losses::TokenVectors joined() const {
    losses::TokenVectors texts{at::cat(vectors_), boundaries_, {}};
    if (!left_out_.empty()) texts.left_out = at::cat(left_out_).to(texts.vectors.device());
    return texts;
  }

 private:
  std::vector<at::Tensor> vectors_;
  std::vector<at::Tensor> left_out_;
  std::vector<std::int32_t> boundaries_ = {0};
};

}  // namespace

LateInteraction::LateInteraction(std::shared_ptr<const InteractionTokens> tokens,
                                 std::vector<std::string> languages, LateInteractionLossOptions options)
    : tokens_(std::move(tokens)), languages_(std::move(languages)), options_(options) {}

data::TokenSequence LateInteraction::encode(const data::Example& example) const {
  if (example.pair_text.empty() && (!example.messages.empty() || !example.text.empty()))
    throw DataError(data::row_name(example),
                    " is not a pair: late interaction learns from a query and a document");
  if (example.text.empty() || example.text == example.pair_text) return {};
  const auto language = [&](const std::string& code) {
    const auto found = std::find(languages_.begin(), languages_.end(), code);
    return found == languages_.end() ? -1 : static_cast<std::int32_t>(found - languages_.begin());
  };
  data::TokenSequence sequence;
  const auto append = [&](const std::vector<text::TokenId>& ids, std::int32_t id) {
    sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.end());
    sequence.parts.push_back({static_cast<std::int32_t>(sequence.ids.size()), id});
  };
  const auto append_document = [&](const std::string& text) {
    const std::vector<text::TokenId> ids = tokens_->document(text);
    if (tokens_->count(ids) == 0) return false;
    append(ids, language(example.pair_language));
    return true;
  };
  append(tokens_->query(example.text), language(example.language));
  if (!append_document(example.pair_text)) return {};
  std::set<std::string> known = {example.text, example.pair_text};
  std::int64_t wanted = options_.negatives;
  for (auto negative = example.negatives.begin(); wanted > 0 && negative != example.negatives.end();
       ++negative)
    if (known.insert(*negative).second && append_document(*negative)) --wanted;
  if (wanted > 0) return {};
  sequence.labels.assign(sequence.ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
  return sequence;
}

EmbeddingLoss LateInteraction::loss(models::LateInteractionEncoder& model) const {
  EmbeddingLoss loss;
  loss.embed = [&model](const Batch& batch, const nn::ForwardContext& context) {
    return model.forward(batch, context);
  };
  loss.loss = [this](const at::Tensor& vectors, const at::Tensor&, const std::vector<Batch>& micro_batches) {
    return loss_of(vectors, micro_batches);
  };
  return loss;
}

LossSum LateInteraction::loss_of(const at::Tensor& vectors, const std::vector<Batch>& micro_batches) const {
  Side queries;
  Side documents;
  std::int64_t first = 0;  // Of the micro-batch, in `vectors`.
  std::int64_t count = 0;
  for (const Batch& batch : micro_batches) {
    const std::int64_t texts = 2 + options_.negatives;
    if (static_cast<std::int64_t>(batch.group_ids.size()) != batch.segments() ||
        batch.segments() % texts != 0)
      throw StateError("a late-interaction batch must hold ", texts, " texts for each example, not ",
                       batch.segments(), " in all");
    const at::Tensor left_out = tokens_->left_out(batch.input_ids);
    const at::Tensor rows = vectors.narrow(0, first, batch.tokens());
    for (std::int64_t segment = 0; segment < batch.segments(); ++segment) {
      const auto s = static_cast<std::size_t>(segment);
      if (segment % texts == 0)
        queries.add(rows, {}, batch.boundaries[s], batch.boundaries[s + 1]);
      else
        documents.add(rows, left_out, batch.boundaries[s], batch.boundaries[s + 1]);
    }
    first += batch.tokens();
    count += batch.segments() / texts;
  }
  LossSum result;
  result.sum = losses::colbert_loss(queries.joined(), documents.joined()).sum();
  result.weight = static_cast<double>(count);
  return result;
}

}  // namespace bitrain::objectives
