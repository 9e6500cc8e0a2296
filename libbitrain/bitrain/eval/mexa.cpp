#include <bitrain/eval/mexa.h>

#include <algorithm>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/finite_scores.h>

namespace bitrain::eval {
namespace {

/// Cosines that are no further apart are equal.
constexpr double kTie = 1e-10;

std::vector<std::int32_t> ids_of(const text::Tokenizer& tokenizer, const std::string& sentence,
                                 std::size_t index) {
  std::vector<std::int32_t> ids = tokenizer.encode(sentence);
  if (ids.empty()) throw DataError("MEXA: sentence ", index + 1, " has no tokens: '", sentence, "'");
  if (const auto bos = tokenizer.special_tokens().bos) ids.insert(ids.begin(), *bos);
  return ids;
}

/// [N, D] of packed tokens -> [S, D].
at::Tensor pool(const at::Tensor& hidden, const Batch& batch, bool weighted) {
  std::vector<at::Tensor> rows;
  for (std::size_t segment = 0; segment + 1 < batch.boundaries.size(); ++segment) {
    const std::int64_t begin = batch.boundaries[segment];
    const std::int64_t length = batch.boundaries[segment + 1] - begin;
    if (!weighted) {
      rows.push_back(hidden.select(0, begin + length - 1).to(at::kFloat));
      continue;
    }
    const at::Tensor weights = batch.position_ids.narrow(0, begin, length).to(at::kFloat) + 1;
    rows.push_back(at::matmul(weights, hidden.narrow(0, begin, length).to(at::kFloat)) / weights.sum());
  }
  return at::stack(rows);
}

at::Tensor unit_rows(const at::Tensor& x) {
  const at::Tensor wide = x.detach().to(at::kDouble);
  if (!at::isfinite(wide).all().item<bool>()) throw DataError("MEXA: an embedding has NaN or infinity");
  const at::Tensor norms = at::linalg_vector_norm(wide, 2, {1}, true);
  if (norms.eq(0).any().item<bool>()) throw DataError("MEXA: an embedding is all zero");
  return wide / norms;
}

void refuse_few(std::int64_t pairs) {
  if (pairs < 2)
    throw DataError("MEXA: ", pairs, pairs == 1 ? " pair has" : " pairs have",
                    " nothing to be told from; give two or more");
}

}  // namespace

std::vector<at::Tensor> layer_embeddings(models::LanguageModel& model, const text::Tokenizer& tokenizer,
                                         const std::vector<std::string>& sentences,
                                         const MexaOptions& options) {
  const at::NoGradGuard no_grad;
  std::vector<std::vector<at::Tensor>> parts;  // By layer.
  std::vector<std::vector<std::int32_t>> rows;
  std::int64_t tokens = 0;
  const auto flush = [&] {
    if (rows.empty()) return;
    std::vector<std::vector<std::int32_t>> labels;
    labels.reserve(rows.size());
    for (const auto& row : rows) labels.emplace_back(row.size(), static_cast<std::int32_t>(kIgnoreIndex));
    const Batch batch = make_batch(rows, labels).to(model.input_embeddings().weight.device());
    nn::ForwardContext context;
    context.all_hidden = true;
    ModelOutput output = model.forward(batch, context);
    output.all_hidden.back() = output.hidden;  // The last layer counts after the final norm.
    parts.resize(output.all_hidden.size());
    for (std::size_t layer = 0; layer < parts.size(); ++layer)
      parts[layer].push_back(pool(output.all_hidden[layer], batch, options.tokens == "weighted"));
    rows.clear();
    tokens = 0;
  };
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    std::vector<std::int32_t> ids = ids_of(tokenizer, sentences[i], i);
    const auto length = static_cast<std::int64_t>(ids.size());
    if (tokens + length > options.batch_tokens) flush();
    tokens += length;
    rows.push_back(std::move(ids));
  }
  flush();
  std::vector<at::Tensor> layers;
  layers.reserve(parts.size());
  for (const std::vector<at::Tensor>& part : parts) {
    layers.push_back(at::cat(part, 0));
    check_finite(layers.back(), "hidden states of sentences");
  }
  return layers;
}

double mexa_alignment(const at::Tensor& pivot, const at::Tensor& other) {
  const at::NoGradGuard no_grad;
  if (pivot.dim() != 2 || pivot.sizes() != other.sizes())
    throw StateError("MEXA: ", pivot.sizes(), " and ", other.sizes(), " are not pairs of rows");
  const std::int64_t n = pivot.size(0);
  refuse_few(n);
  const at::Tensor cosines = at::matmul(unit_rows(pivot), unit_rows(other).t());
  const at::Tensor own = cosines.diagonal().clone();
  // The pair itself is out of the comparison: below any cosine.
  const at::Tensor others = cosines + kTie - 4 * at::eye(n, cosines.options());
  const at::Tensor wins = own.gt(others.amax(1)).logical_and(own.gt(others.amax(0)));
  return static_cast<double>(wins.sum().item<std::int64_t>()) / static_cast<double>(n);
}

MexaScores mexa(models::LanguageModel& model, const text::Tokenizer& tokenizer,
                const std::vector<std::string>& pivot, const std::vector<std::string>& other,
                const MexaOptions& options) {
  if (pivot.size() != other.size())
    throw StateError("MEXA: ", pivot.size(), " and ", other.size(), " sentences are not pairs");
  refuse_few(static_cast<std::int64_t>(pivot.size()));
  const std::vector<at::Tensor> left = layer_embeddings(model, tokenizer, pivot, options);
  const std::vector<at::Tensor> right = layer_embeddings(model, tokenizer, other, options);
  MexaScores scores;
  for (std::size_t layer = 0; layer < left.size(); ++layer)
    scores.layers.push_back(mexa_alignment(left[layer], right[layer]));
  scores.mean = std::accumulate(scores.layers.begin(), scores.layers.end(), 0.0) /
                static_cast<double>(scores.layers.size());
  scores.max = *std::max_element(scores.layers.begin(), scores.layers.end());
  return scores;
}

}  // namespace bitrain::eval
