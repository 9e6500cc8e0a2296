#include <bitrain/eval/rerank.h>

#include <algorithm>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/eval/finite_scores.h>

namespace bitrain::eval {
namespace {

using Framed = std::vector<text::FramedPair>;

Batch batch_of(const Framed& pairs, const std::vector<std::size_t>& chosen, std::int32_t language) {
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::vector<std::int32_t>> types;
  bool typed = false;
  for (const std::size_t i : chosen) {
    ids.push_back(pairs[i].ids);
    labels.emplace_back(pairs[i].ids.size(), static_cast<std::int32_t>(kIgnoreIndex));
    types.push_back(pairs[i].type_ids);
    typed =
        typed || std::any_of(types.back().begin(), types.back().end(), [](auto type) { return type != 0; });
  }
  Batch batch =
      make_batch(ids, labels, std::vector<std::int32_t>(language < 0 ? 0 : chosen.size(), language));
  if (typed) batch.token_type_ids = make_batch(types, labels).input_ids;
  return batch;
}

/// Texts by id.
class Texts {
 public:
  Texts(const std::vector<Document>& documents, const char* kind) : kind_(kind) {
    for (const Document& document : documents) texts_.emplace(document.id, text_of(document));
  }
  [[nodiscard]] const std::string& at(const std::string& id) const {
    const auto found = texts_.find(id);
    if (found == texts_.end()) throw DataError("rerank: there is no ", kind_, " '", id, "'");
    return found->second;
  }

 private:
  const char* kind_;
  std::unordered_map<std::string, std::string> texts_;
};

}  // namespace

at::Tensor score_text_pairs(models::CrossEncoder& model, const text::Tokenizer& tokenizer,
                            const std::vector<TextPair>& pairs, const RerankOptions& options) {
  const at::NoGradGuard no_grad;
  const at::Device device = model.encoder().input_embeddings().weight.device();
  const std::int64_t longest = std::min(options.max_length, model.encoder().max_tokens());
  Framed framed;
  framed.reserve(pairs.size());
  for (const TextPair& pair : pairs)
    framed.push_back(
        text::encode_pair_framed(tokenizer, options.prompt + pair.query, pair.document, longest));
  std::vector<std::size_t> order(pairs.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return framed[a].ids.size() > framed[b].ids.size(); });
  at::Tensor scores =
      at::empty({static_cast<std::int64_t>(pairs.size())}, at::TensorOptions().dtype(at::kFloat));
  auto* score = scores.mutable_data_ptr<float>();
  std::vector<std::size_t> chosen;
  std::int64_t tokens = 0;
  const auto flush = [&] {
    const Batch batch = batch_of(framed, chosen, options.language).to(device);
    const at::Tensor found = model.forward(batch, {}).to(at::kCPU, at::kFloat).contiguous();
    check_finite(found, "scores of pairs");
    for (std::size_t i = 0; i < chosen.size(); ++i) score[chosen[i]] = found.const_data_ptr<float>()[i];
    chosen.clear();
    tokens = 0;
  };
  for (const std::size_t i : order) {
    const auto size = static_cast<std::int64_t>(framed[i].ids.size());
    if (!chosen.empty() && tokens + size > options.tokens_per_batch) flush();
    chosen.push_back(i);
    tokens += size;
  }
  if (!chosen.empty()) flush();
  return scores;
}

RetrievalRun rerank(models::CrossEncoder& model, const text::Tokenizer& tokenizer, const RetrievalSet& set,
                    const RetrievalRun& run, const RerankOptions& options) {
  const Texts documents(set.corpus, "document");
  const Texts queries(set.queries, "query");
  const auto read = [&](const std::vector<Hit>& hits) {
    return std::min(hits.size(), static_cast<std::size_t>(std::max<std::int64_t>(0, options.depth)));
  };
  std::vector<TextPair> pairs;
  std::vector<std::size_t> places;  // Of each hit's pair: equal texts are scored once, and equal.
  for (const auto& [query, hits] : run) {
    std::unordered_map<std::string_view, std::size_t> seen;
    for (std::size_t i = 0; i < read(hits); ++i) {
      const std::string& document = documents.at(hits[i].document);
      const auto [place, is_new] = seen.emplace(document, pairs.size());
      if (is_new) pairs.push_back({queries.at(query), document});
      places.push_back(place->second);
    }
  }
  const at::Tensor scores = score_text_pairs(model, tokenizer, pairs, options);
  const auto* score = scores.const_data_ptr<float>();
  auto place = places.begin();
  RetrievalRun reranked;
  for (const auto& [query, hits] : run) {
    std::vector<Hit>& ordered = reranked[query];
    ordered = hits;
    const auto end = ordered.begin() + static_cast<std::ptrdiff_t>(read(hits));
    for (auto hit = ordered.begin(); hit != end; ++hit) hit->score = score[*place++];
    std::stable_sort(ordered.begin(), end, [](const Hit& a, const Hit& b) { return a.score > b.score; });
    double below = end == ordered.begin() ? 0 : (end - 1)->score;
    for (auto hit = end; hit != ordered.end(); ++hit) hit->score = --below;
  }
  return reranked;
}

}  // namespace bitrain::eval
