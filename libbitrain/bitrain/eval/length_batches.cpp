#include <bitrain/eval/length_batches.h>

#include <algorithm>
#include <numeric>

namespace bitrain::eval {
namespace {

Batch batch_of(const std::vector<std::vector<text::TokenId>>& ids, const std::vector<std::int64_t>& chosen,
               std::int32_t language) {
  std::vector<std::vector<std::int32_t>> rows;
  std::vector<std::vector<std::int32_t>> labels;
  for (const std::int64_t i : chosen) {
    rows.push_back(ids[static_cast<std::size_t>(i)]);
    labels.emplace_back(rows.back().size(), static_cast<std::int32_t>(kIgnoreIndex));
  }
  return make_batch(rows, labels, std::vector<std::int32_t>(language < 0 ? 0 : chosen.size(), language));
}

}  // namespace

void run_by_length(
    const std::vector<std::vector<text::TokenId>>& ids, std::int64_t tokens_per_batch, std::int32_t language,
    const std::function<void(const std::vector<std::int64_t>& chosen, const Batch& batch)>& run) {
  std::vector<std::size_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return ids[a].size() > ids[b].size(); });
  std::vector<std::int64_t> chosen;
  std::int64_t tokens = 0;
  for (const std::size_t i : order) {
    const auto size = static_cast<std::int64_t>(ids[i].size());
    if (!chosen.empty() && tokens + size > tokens_per_batch) {
      run(chosen, batch_of(ids, chosen, language));
      chosen.clear();
      tokens = 0;
    }
    chosen.push_back(static_cast<std::int64_t>(i));
    tokens += size;
  }
  if (!chosen.empty()) run(chosen, batch_of(ids, chosen, language));
}

}  // namespace bitrain::eval
