#include <bitrain/eval/late_interaction.h>

#include <algorithm>
#include <functional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/round.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>
#include <bitrain/eval/best_rows.h>
#include <bitrain/eval/length_batches.h>
#include <bitrain/fields/check.h>

namespace bitrain::eval {
namespace {

constexpr std::int64_t kBlockVectors = 32768;  ///< Vectors of documents made float32 at a time.
constexpr std::int64_t kQueryVectors = 4096;   ///< Vectors of queries scored against them at a time.
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

using Ids = std::vector<text::TokenId>;

/// The first texts from `first` on that have at most `most` vectors together; at least one.
template <class T>
std::int64_t block_end(const std::vector<T>& boundaries, std::int64_t first, std::int64_t most) {
  const auto texts = static_cast<std::int64_t>(boundaries.size()) - 1;
  std::int64_t end = first + 1;
  while (end < texts &&
         boundaries[static_cast<std::size_t>(end) + 1] - boundaries[static_cast<std::size_t>(first)] <= most)
    ++end;
  return end;
}

/// Runs the model over texts; `take` gets each one's place and its vectors [n, D].
void encode_all(models::LateInteractionEncoder& model, const std::vector<Ids>& ids,
                const LateEncodeOptions& options,
                const std::function<void(std::int64_t, const at::Tensor&)>& take) {
  const at::NoGradGuard no_grad;
  const at::Device device = model.encoder().input_embeddings().weight.device();
  run_by_length(ids, options.tokens_per_batch, options.language,
                [&](const std::vector<std::int64_t>& chosen, const Batch& batch) {
                  const at::Tensor vectors = model.forward(batch.to(device), {}).to(at::kCPU, at::kFloat);
                  for (std::size_t i = 0; i < chosen.size(); ++i) {
                    const std::int32_t first = batch.boundaries[i];
                    take(chosen[i], vectors.narrow(0, first, batch.boundaries[i + 1] - first));
                  }
                });
}

/// Documents by ids; throws for one of which no token counts.
std::vector<Ids> documents_of(const objectives::InteractionTokens& tokens,
                              const std::vector<std::string>& texts, std::vector<std::int64_t>& lengths) {
  std::vector<Ids> ids;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    ids.push_back(tokens.document(texts[i]));
    lengths.push_back(tokens.count(ids.back()));
    if (lengths.back() == 0)
      throw DataError("late interaction: document ", i, " ('", texts[i].substr(0, 40),
                      "') has no token that counts: it is empty or all punctuation");
  }
  return ids;
}

}  // namespace

std::uint64_t LateInteractionIndex::bytes_of(std::int64_t vectors, std::int64_t documents,
                                             std::int64_t dimension, const std::string& storage) {
  const std::int64_t each = storage == "int8" ? dimension + 4 : 2 * dimension;
  return static_cast<std::uint64_t>(vectors * each + (documents + 1) * 8);
}

LateInteractionIndex::LateInteractionIndex(const std::vector<std::int64_t>& lengths, std::int64_t dimension,
                                           const LateIndexOptions& options)
    : dimension_(dimension), storage_(options.storage) {
  check_fields(options, "late interaction: ");
  if (lengths.empty()) throw DataError("late interaction: there are no documents");
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 1) throw DataError("late interaction: document ", i, " has no vectors");
    boundaries_.push_back(boundaries_.back() + lengths[i]);
  }
  if (options.max_gib > 0 && static_cast<double>(bytes()) > options.max_gib * kGiB) {
    const bool small = storage_ == "int8";
    throw ConfigError(
        "late interaction: the index of ", with_thousands(documents()), " documents (",
        with_thousands(vectors()), " vectors of ", dimension_, " features in ", storage_, ") takes ",
        human_bytes(bytes()), ", above max_gib (", options.max_gib, " GiB): ",
        small ? ""
              : to_text("storage int8 takes ",
                        human_bytes(bytes_of(vectors(), documents(), dimension_, "int8")), "; or "),
        "shorten documents (document_length), or raise the limit");
  }
  vectors_ = at::empty({vectors(), dimension_},
                       at::TensorOptions().dtype(storage_ == "int8" ? at::kChar : at::kBFloat16));
  if (storage_ == "int8") scales_ = at::empty({vectors()}, at::TensorOptions().dtype(at::kFloat));
}

void LateInteractionIndex::put(std::int64_t document, const at::Tensor& vectors) {
  const at::NoGradGuard no_grad;
  const auto at = static_cast<std::size_t>(document);
  if (document < 0 || document >= documents())
    throw StateError("late interaction: there is no document ", document, " in an index of ", documents());
  const std::int64_t first = boundaries_[at];
  const std::int64_t length = boundaries_[at + 1] - first;
  if (vectors.dim() != 2 || vectors.size(0) != length || vectors.size(1) != dimension_)
    throw StateError("late interaction: document ", document, " has room for [", length, ", ", dimension_,
                     "] vectors, not ", vectors.sizes());
  if (!at::isfinite(vectors).all().item<bool>())
    throw DataError("late interaction: document ", document, " has NaN or infinity in its vectors");
  const at::Tensor room = vectors_.narrow(0, first, length);
  if (storage_ != "int8") {
    room.copy_(vectors);
    return;
  }
  const at::Tensor scale = at::amax(vectors.to(at::kFloat).abs(), {1}, true).clamp_min(1e-12) / 127;
  room.copy_(at::round(vectors.to(at::kFloat) / scale));
  scales_.narrow(0, first, length).copy_(scale.squeeze(1));
}

losses::TokenVectors LateInteractionIndex::block(std::int64_t first, std::int64_t last) const {
  const std::int64_t begin = boundaries_[static_cast<std::size_t>(first)];
  const std::int64_t length = boundaries_[static_cast<std::size_t>(last)] - begin;
  losses::TokenVectors texts{vectors_.narrow(0, begin, length).to(at::kFloat), {}, {}};
  if (scales_.defined()) texts.vectors.mul_(scales_.narrow(0, begin, length).unsqueeze(1));
  for (std::int64_t d = first; d <= last; ++d)
    texts.boundaries.push_back(static_cast<std::int32_t>(boundaries_[static_cast<std::size_t>(d)] - begin));
  return texts;
}

Neighbours LateInteractionIndex::search(const losses::TokenVectors& queries, std::int64_t k) const {
  const at::NoGradGuard no_grad;
  if (k < 1) throw ConfigError("late interaction: k must be at least 1, not ", k);
  k = std::min(k, documents());
  struct Block {
    losses::TokenVectors texts;
    BestRows best;
  };
  std::vector<Block> blocks;
  const at::Tensor vectors = queries.vectors.detach().to(at::kCPU, at::kFloat);
  for (std::int64_t first = 0; first < queries.texts();) {
    const std::int64_t last = block_end(queries.boundaries, first, kQueryVectors);
    const std::int32_t begin = queries.boundaries[static_cast<std::size_t>(first)];
    losses::TokenVectors texts;
    for (std::int64_t q = first; q <= last; ++q) {
      texts.boundaries.push_back(queries.boundaries[static_cast<std::size_t>(q)] - begin);
      if (q == last) continue;
      const std::int32_t from = queries.boundaries[static_cast<std::size_t>(q)];
      const std::int32_t to = queries.boundaries[static_cast<std::size_t>(q) + 1];
      if (!at::isfinite(vectors.narrow(0, from, to - from)).all().item<bool>())
        throw DataError("late interaction: query ", q, " has NaN or infinity in its vectors");
    }
    texts.vectors = vectors.narrow(0, begin, texts.boundaries.back());
    if (queries.left_out.defined())
      texts.left_out = queries.left_out.narrow(0, begin, texts.boundaries.back()).cpu();
    blocks.push_back({std::move(texts), BestRows(last - first, k)});
    first = last;
  }
  for (std::int64_t first = 0; first < documents();) {
    const std::int64_t last = block_end(boundaries_, first, kBlockVectors);
    const losses::TokenVectors texts = block(first, last);
    for (Block& each : blocks) each.best.take(losses::max_sim(each.texts, texts).contiguous(), first);
    first = last;
  }
  Neighbours found{at::empty({queries.texts(), k}, at::TensorOptions().dtype(at::kLong)),
                   at::empty({queries.texts(), k}, at::TensorOptions().dtype(at::kFloat))};
  std::int64_t row = 0;
  for (const Block& each : blocks) {
    each.best.write(found.scores.mutable_data_ptr<float>() + row * k,
                    found.rows.mutable_data_ptr<std::int64_t>() + row * k);
    row += each.texts.texts();
  }
  return found;
}

losses::TokenVectors encode_queries(models::LateInteractionEncoder& model,
                                    const objectives::InteractionTokens& tokens,
                                    const std::vector<std::string>& texts, const LateEncodeOptions& options) {
  std::vector<Ids> ids;
  losses::TokenVectors queries;
  queries.boundaries.push_back(0);
  for (const std::string& text : texts) {
    ids.push_back(tokens.query(text));
    queries.boundaries.push_back(queries.boundaries.back() + static_cast<std::int32_t>(ids.back().size()));
  }
  queries.vectors =
      at::empty({queries.boundaries.back(), model.dimension()}, at::TensorOptions().dtype(at::kFloat));
  encode_all(model, ids, options, [&](std::int64_t text, const at::Tensor& vectors) {
    queries.vectors.narrow(0, queries.boundaries[static_cast<std::size_t>(text)], vectors.size(0))
        .copy_(vectors);
  });
  return queries;
}

LateInteractionIndex index_documents(models::LateInteractionEncoder& model,
                                     const objectives::InteractionTokens& tokens,
                                     const std::vector<std::string>& texts, const LateIndexOptions& index,
                                     const LateEncodeOptions& options) {
  std::vector<std::int64_t> lengths;
  const std::vector<Ids> ids = documents_of(tokens, texts, lengths);
  LateInteractionIndex result(lengths, model.dimension(), index);
  encode_all(model, ids, options, [&](std::int64_t text, const at::Tensor& vectors) {
    const Ids& document = ids[static_cast<std::size_t>(text)];
    std::vector<std::int64_t> kept;
    for (std::size_t i = 0; i < document.size(); ++i)
      if (tokens.counts(document[i])) kept.push_back(static_cast<std::int64_t>(i));
    at::Tensor places =
        at::empty({static_cast<std::int64_t>(kept.size())}, at::TensorOptions().dtype(at::kLong));
    std::copy(kept.begin(), kept.end(), places.mutable_data_ptr<std::int64_t>());
    result.put(text, at::index_select(vectors, 0, places));
  });
  return result;
}

}  // namespace bitrain::eval
