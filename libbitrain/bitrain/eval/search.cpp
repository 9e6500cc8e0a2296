#include <bitrain/eval/search.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/base/matmul.h>
#include <bitrain/eval/best_rows.h>
#include <bitrain/fields/check.h>

namespace bitrain::eval {
namespace {

constexpr std::int64_t kQueries = 256;         ///< Queries in a block of scores.
constexpr std::int64_t kCandidates = 4096;     ///< Candidates in a block of scores.
constexpr std::int64_t kDeviceQueries = 1024;  ///< The same on a GPU.
constexpr std::int64_t kDeviceCandidates = 65536;

/// The first row with `bad` set, or -1.
std::int64_t first_of(const at::Tensor& bad) {
  if (!bad.any().item<bool>()) return -1;
  return bad.to(at::kByte).argmax().item<std::int64_t>();
}

/// Checked, detached, and of length 1 for cosine.
at::Tensor prepared(const at::Tensor& embeddings, const char* what, bool unit) {
  const at::Tensor rows = embeddings.detach();
  if (const std::int64_t row = first_of(at::isfinite(rows).all(1).logical_not()); row >= 0)
    throw DataError("search: ", what, " ", row, " has NaN or infinity in its embedding");
  if (!unit) return rows.contiguous();
  const at::Tensor norms = at::linalg_vector_norm(rows, 2, {1}, true, at::kFloat);
  if (const std::int64_t row = first_of(norms.squeeze(1).eq(0)); row >= 0)
    throw DataError("search: the embedding of ", what, " ", row, " is all zero: it has no direction");
  return (rows / norms).to(rows.scalar_type()).contiguous();
}

Neighbours search_cpu(const at::Tensor& queries, const at::Tensor& candidates, std::int64_t k,
                      const at::Tensor& offsets) {
  Neighbours found{at::empty({queries.size(0), k}, at::TensorOptions().dtype(at::kLong)),
                   at::empty({queries.size(0), k}, at::TensorOptions().dtype(at::kFloat))};
  for (std::int64_t first = 0; first < queries.size(0); first += kQueries) {
    const at::Tensor block = queries.narrow(0, first, std::min(kQueries, queries.size(0) - first));
    BestRows best(block.size(0), k);
    for (std::int64_t row = 0; row < candidates.size(0); row += kCandidates) {
      const std::int64_t n = std::min(kCandidates, candidates.size(0) - row);
      at::Tensor scores = product(block, candidates.narrow(0, row, n).t()).to(at::kFloat);
      if (offsets.defined()) scores.add_(offsets.narrow(0, row, n));
      best.take(scores.contiguous(), row);
    }
    best.write(found.scores.mutable_data_ptr<float>() + first * k,
               found.rows.mutable_data_ptr<std::int64_t>() + first * k);
  }
  return found;
}

/// Products in float32 whatever the inputs: rounded ones would tie.
at::Tensor device_scores(const at::Tensor& queries, const at::Tensor& candidates) {
  if (queries.scalar_type() == at::kFloat) return at::mm(queries, candidates.t());
  return at::mm(queries, candidates.t(), at::kFloat);
}

/// The k best of each row of scores [Q, n], best first and of equal ones the lower column first.
Neighbours best_columns(const at::Tensor& scores, std::int64_t k) {
  // topk takes any of equal scores: rows whose next score ties with the last are sorted, stably.
  const auto [most, places_of_most] = at::topk(scores, std::min(k + 1, scores.size(1)), 1);
  at::Tensor best = most.narrow(1, 0, k).contiguous();
  at::Tensor columns = places_of_most.narrow(1, 0, k).contiguous();
  if (most.size(1) > k) {
    const at::Tensor tied = most.select(1, k - 1).eq(most.select(1, k)).nonzero().squeeze(1);
    if (tied.size(0) > 0) {
      const auto [sorted, order] =
          scores.index_select(0, tied).sort(std::optional<bool>(true), 1, /*descending=*/true);
      best.index_copy_(0, tied, sorted.narrow(1, 0, k));
      columns.index_copy_(0, tied, order.narrow(1, 0, k));
    }
  }
  const at::Tensor order = std::get<1>(columns.sort(1));
  best = best.gather(1, order);
  columns = columns.gather(1, order);
  at::Tensor places;
  std::tie(best, places) = best.sort(std::optional<bool>(true), 1, /*descending=*/true);
  return {columns.gather(1, places), best};
}

Neighbours search_device(const at::Tensor& queries, const at::Tensor& candidates, std::int64_t k,
                         const at::Tensor& offsets) {
  std::vector<at::Tensor> rows;
  std::vector<at::Tensor> scores;
  for (std::int64_t first = 0; first < queries.size(0); first += kDeviceQueries) {
    const at::Tensor block = queries.narrow(0, first, std::min(kDeviceQueries, queries.size(0) - first));
    Neighbours best;
    for (std::int64_t row = 0; row < candidates.size(0); row += kDeviceCandidates) {
      const std::int64_t n = std::min(kDeviceCandidates, candidates.size(0) - row);
      at::Tensor some = device_scores(block, candidates.narrow(0, row, n));
      if (offsets.defined()) some.add_(offsets.narrow(0, row, n));
      Neighbours found = best_columns(some, std::min(k, n));
      found.rows.add_(row);
      if (best.rows.defined()) {  // Both are in order, and the rows of the second are higher.
        const at::Tensor both = at::cat({best.rows, found.rows}, 1);
        found = best_columns(at::cat({best.scores, found.scores}, 1), std::min(k, both.size(1)));
        found.rows = both.gather(1, found.rows);
      }
      best = std::move(found);
    }
    rows.push_back(best.rows);
    scores.push_back(best.scores);
  }
  return {at::cat(rows, 0), at::cat(scores, 0)};
}

/// Similarity plus an offset for each candidate.
Neighbours best_of(const at::Tensor& queries, const at::Tensor& candidates, std::int64_t k,
                   const at::Tensor& offsets = {}) {
  k = std::min(k, candidates.size(0));
  return queries.is_cpu() ? search_cpu(queries, candidates, k, offsets)
                          : search_device(queries, candidates, k, offsets);
}

}  // namespace

Neighbours search(const at::Tensor& queries, const at::Tensor& candidates, const SearchOptions& options) {
  const at::NoGradGuard no_grad;
  if (queries.dim() != 2 || candidates.dim() != 2 || queries.size(1) != candidates.size(1))
    throw StateError("search: queries ", queries.sizes(), " and candidates ", candidates.sizes(),
                     " are not [Q, D] and [N, D]");
  if (queries.scalar_type() != candidates.scalar_type() || queries.device() != candidates.device() ||
      (queries.scalar_type() != at::kFloat && queries.scalar_type() != at::kBFloat16))
    throw StateError("search: queries are ", queries.scalar_type(), " on ", queries.device().str(),
                     ", candidates ", candidates.scalar_type(), " on ", candidates.device().str(),
                     "; both must be float32 or bfloat16 on one device");
  if (candidates.size(0) == 0) throw StateError("search: there are no candidates");
  check_fields(options, "search: ");
  if (queries.size(0) == 0)
    return {at::empty({0, std::min(options.k, candidates.size(0))}, queries.options().dtype(at::kLong)),
            at::empty({0, std::min(options.k, candidates.size(0))}, queries.options().dtype(at::kFloat))};
  const bool unit = options.similarity == "cosine";
  const at::Tensor left = prepared(queries, "query", unit);
  const at::Tensor right = prepared(candidates, "candidate", unit);
  if (options.csls_neighbours == 0) return best_of(left, right, options.k);
  // 2 s(q, c) - r(q) - r(c), r the mean similarity to the nearest of the other side. r(q) moves no rank.
  const at::Tensor of_candidates = best_of(right, left, options.csls_neighbours).scores.mean(1);
  const at::Tensor of_queries = best_of(left, right, options.csls_neighbours).scores.mean(1, true);
  Neighbours found = best_of(left, right, options.k, of_candidates * -0.5);
  found.scores = found.scores * 2 - of_queries;
  return found;
}

}  // namespace bitrain::eval
