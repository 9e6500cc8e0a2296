#include <bitrain/objectives/document_contrastive.h>

#include <algorithm>
#include <set>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/data/sentence_windows.h>
#include <bitrain/losses/two_pool_info_nce.h>

namespace bitrain::objectives {

DocumentContrastive::DocumentContrastive(std::shared_ptr<const text::Tokenizer> tokenizer,
                                         std::vector<std::string> languages, std::int64_t max_sentences,
                                         DocumentContrastiveOptions options)
    : tokenizer_(std::move(tokenizer)),
      languages_(std::move(languages)),
      max_sentences_(max_sentences),
      options_(std::move(options)) {
  if (max_sentences < 1)
    throw ConfigError("documents of ", max_sentences, " sentences: there must be one at least");
}

data::TokenSequence DocumentContrastive::encode(const data::Example& example) const {
  if (example.pair_text.empty() && (!example.messages.empty() || !example.text.empty()))
    throw DataError(data::row_name(example),
                    " is not a pair: documents are trained beside their translations");
  data::TokenSequence sequence;
  const auto add = [&](const std::string& document, std::int32_t number) {
    const std::string& code = number % 2 == 0 ? example.language : example.pair_language;
    const auto found = std::find(languages_.begin(), languages_.end(), code);
    const auto language =
        found == languages_.end() ? -1 : static_cast<std::int32_t>(found - languages_.begin());
    std::vector<std::string> sentences = data::split_sentences(document);
    sentences.resize(std::min(sentences.size(), static_cast<std::size_t>(max_sentences_)));
    for (const std::string& sentence : sentences) {
      const auto ids = text::encode_framed(*tokenizer_, sentence, options_.max_length);
      sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.end());
      sequence.parts.push_back({static_cast<std::int32_t>(sequence.ids.size()), language, number});
    }
    return !sentences.empty();
  };
  if (example.text == example.pair_text || !add(example.text, 0) || !add(example.pair_text, 1)) return {};
  std::set<std::string> known = {example.text, example.pair_text};
  const auto add_negatives = [&](const std::vector<std::string>& negatives, std::int32_t number) {
    for (const std::string& negative : negatives)
      if (known.insert(negative).second && add(negative, number)) number += 2;
  };
  add_negatives(example.text_negatives, 2);
  add_negatives(example.negatives, 3);
  sequence.labels.assign(sequence.ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
  return sequence;
}

EmbeddingLoss DocumentContrastive::loss(models::DocumentEncoder& model) const {
  EmbeddingLoss loss;
  loss.embed = [&model](const Batch& batch, const nn::ForwardContext& context) {
    return model.forward(batch, context);
  };
  loss.loss = [this](const at::Tensor& embedded, const at::Tensor&, const std::vector<Batch>& micro_batches) {
    return loss_of(embedded, micro_batches);
  };
  return loss;
}

LossSum DocumentContrastive::loss_of(const at::Tensor& embedded,
                                     const std::vector<Batch>& micro_batches) const {
  std::vector<std::int64_t> texts;
  std::vector<std::int64_t> pairs;
  std::vector<std::int64_t> of_texts;  // Hard negatives in the language of the texts,
  std::vector<std::int64_t> of_pairs;  // and of the pairs.
  std::int64_t row = 0;
  for (const Batch& batch : micro_batches) {
    for (const std::int32_t end : models::document_ends(batch)) {
      const std::int32_t number = batch.document_ids[static_cast<std::size_t>(end) - 1];
      (number == 0 ? texts : number == 1 ? pairs : number % 2 == 0 ? of_texts : of_pairs).push_back(row++);
    }
  }
  if (texts.size() != pairs.size() || embedded.size(0) != row)
    throw StateError("a step of ", texts.size(), " documents, ", pairs.size(), " translations and ",
                     embedded.size(0), " embeddings is none of pairs");
  const auto rows_at = [&](const std::vector<std::int64_t>& rows) {
    return rows.empty() ? at::Tensor() : embedded.index_select(0, at::tensor(rows).to(embedded.device()));
  };
  LossSum result;
  result.sum = losses::two_pool_info_nce(rows_at(texts), rows_at(pairs), rows_at(of_pairs), rows_at(of_texts),
                                         options_.info_nce)
                   .sum;
  result.weight = static_cast<double>(texts.size());
  return result;
}

}  // namespace bitrain::objectives
