#include <bitrain/eval/best_rows.h>

#include <algorithm>
#include <limits>

#include <ATen/Parallel.h>

namespace bitrain::eval {
namespace {

constexpr std::int64_t kGrain = 4;  ///< Queries a task.

}  // namespace

BestRows::BestRows(std::int64_t queries, std::int64_t k)
    : k_(k),
      scores_(static_cast<std::size_t>(queries * k), -std::numeric_limits<float>::infinity()),
      rows_(static_cast<std::size_t>(queries * k), -1) {}

void BestRows::take(const at::Tensor& block, std::int64_t first) {
  const auto* scores = block.const_data_ptr<float>();
  const std::int64_t n = block.size(1);
  at::parallel_for(0, block.size(0), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t query = begin; query < end; ++query) take_row(query, scores + query * n, n, first);
  });
}

void BestRows::write(float* scores, std::int64_t* rows) const {
  std::copy(scores_.begin(), scores_.end(), scores);
  std::copy(rows_.begin(), rows_.end(), rows);
}

void BestRows::take_row(std::int64_t query, const float* scores, std::int64_t n, std::int64_t first) {
  float* best = scores_.data() + query * k_;
  std::int64_t* rows = rows_.data() + query * k_;
  for (std::int64_t i = 0; i < n; ++i) {
    // Rows come in order, so an equal score never moves an earlier one. A place without a row is free.
    if (!(scores[i] > best[k_ - 1]) && rows[k_ - 1] >= 0) continue;
    std::int64_t place = k_ - 1;
    for (; place > 0 && (rows[place - 1] < 0 || scores[i] > best[place - 1]); --place) {
      best[place] = best[place - 1];
      rows[place] = rows[place - 1];
    }
    best[place] = scores[i];
    rows[place] = first + i;
  }
}

}  // namespace bitrain::eval
