#include <bitrain/eval/bitext_mining.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/check_embeddings.h>
#include <bitrain/eval/search.h>
#include <bitrain/fields/check.h>

namespace bitrain::eval {
namespace {

void check(const at::Tensor& left, const at::Tensor& right, const MiningOptions& options) {
  check_embeddings(left, "mining: the left side");
  check_embeddings(right, "mining: the right side");
  if (left.size(1) != right.size(1))
    throw StateError("mining: widths ", left.size(1), " and ", right.size(1), " differ");
  check_fields(options, "mining: ");
}

bool better(const MinedPair& a, const MinedPair& b) {
  return std::tuple(-a.score, a.left, a.right) < std::tuple(-b.score, b.left, b.right);
}

double margin_of(const std::string& margin, double cosine, double around) {
  if (margin == "absolute") return cosine;
  if (margin == "distance") return cosine - around;
  return around > 0 ? cosine / around : -std::numeric_limits<double>::infinity();
}

/// The best pair of each row of one side, in order of rows; rows without one are left out. `own` are its
/// neighbours, `other` those of the other side's rows.
std::vector<MinedPair> best_of_rows(const Neighbours& own, const Neighbours& other,
                                    const std::string& margin) {
  const at::Tensor own_mean = own.scores.mean(1, false, at::kDouble);
  const at::Tensor other_mean = other.scores.mean(1, false, at::kDouble);
  const auto* near = own_mean.const_data_ptr<double>();
  const auto* far = other_mean.const_data_ptr<double>();
  const auto* rows = own.rows.const_data_ptr<std::int64_t>();
  const auto* cosines = own.scores.const_data_ptr<float>();
  const std::int64_t k = own.rows.size(1);
  std::vector<MinedPair> pairs;
  for (std::int64_t row = 0; row < own.rows.size(0); ++row) {
    MinedPair best{row, -1, -std::numeric_limits<double>::infinity()};
    for (std::int64_t i = row * k; i < (row + 1) * k; ++i) {
      const double score = margin_of(margin, static_cast<double>(cosines[i]), (near[row] + far[rows[i]]) / 2);
      if (score > best.score) best = {row, rows[i], score};
    }
    if (best.right >= 0) pairs.push_back(best);
  }
  return pairs;
}

struct BestPairs {
  std::vector<MinedPair> forward;   ///< Of left rows.
  std::vector<MinedPair> backward;  ///< Of right rows.
};

BestPairs best_pairs(const at::Tensor& left, const at::Tensor& right, const MiningOptions& options) {
  const at::NoGradGuard no_grad;
  const auto nearest = [&](const at::Tensor& from, const at::Tensor& to) {
    const Neighbours found = search(from, to, {.k = options.neighbours});
    return Neighbours{found.rows.cpu().contiguous(), found.scores.cpu().contiguous()};
  };
  const Neighbours of_left = nearest(left, right);
  const Neighbours of_right = nearest(right, left);
  BestPairs best{best_of_rows(of_left, of_right, options.margin),
                 best_of_rows(of_right, of_left, options.margin)};
  for (MinedPair& pair : best.backward) std::swap(pair.left, pair.right);
  return best;
}

std::vector<MinedPair> in_both(const std::vector<MinedPair>& forward,
                               const std::vector<MinedPair>& backward) {
  GoldPairs known;
  for (const MinedPair& pair : backward) known.emplace(pair.left, pair.right);
  std::vector<MinedPair> pairs;
  for (const MinedPair& pair : forward)
    if (known.count({pair.left, pair.right}) > 0) pairs.push_back(pair);
  return pairs;
}

/// Of sorted pairs those neither of whose rows stands in a better one.
std::vector<MinedPair> each_row_once(const std::vector<MinedPair>& sorted, std::int64_t lefts,
                                     std::int64_t rights) {
  std::vector<bool> left_used(static_cast<std::size_t>(lefts));
  std::vector<bool> right_used(static_cast<std::size_t>(rights));
  std::vector<MinedPair> pairs;
  for (const MinedPair& pair : sorted) {
    const auto left = static_cast<std::size_t>(pair.left);
    const auto right = static_cast<std::size_t>(pair.right);
    if (left_used[left] || right_used[right]) continue;
    left_used[left] = true;
    right_used[right] = true;
    pairs.push_back(pair);
  }
  return pairs;
}

/// Best first. Throws as score_mined.
std::vector<MinedPair> checked(std::vector<MinedPair> mined, const GoldPairs& gold) {
  if (gold.empty()) throw DataError("mining: there are no gold pairs to score against");
  GoldPairs seen;
  for (const MinedPair& pair : mined) {
    if (std::isnan(pair.score))
      throw DataError("mining: the score of rows ", pair.left, " and ", pair.right, " is NaN");
    if (!seen.emplace(pair.left, pair.right).second)
      throw DataError("mining: rows ", pair.left, " and ", pair.right, " are mined twice");
  }
  std::sort(mined.begin(), mined.end(), better);
  return mined;
}

MiningScores scores_of(std::int64_t mined, std::int64_t correct, std::size_t gold) {
  MiningScores scores;
  scores.mined = mined;
  scores.correct = correct;
  const auto right = static_cast<double>(correct);
  if (mined > 0) scores.precision = right / static_cast<double>(mined);
  scores.recall = right / static_cast<double>(gold);
  scores.f1 = 2 * right / static_cast<double>(mined + static_cast<std::int64_t>(gold));
  return scores;
}

}  // namespace

std::vector<MinedPair> mine_bitext(const at::Tensor& left, const at::Tensor& right,
                                   const MiningOptions& options) {
  check(left, right, options);
  auto [forward, backward] = best_pairs(left, right, options);
  std::vector<MinedPair> pairs;
  if (options.strategy == "forward") {
    pairs = std::move(forward);
  } else if (options.strategy == "backward") {
    pairs = std::move(backward);
  } else if (options.strategy == "intersection") {
    pairs = in_both(forward, backward);
  } else {
    pairs = std::move(forward);
    pairs.insert(pairs.end(), backward.begin(), backward.end());
  }
  std::sort(pairs.begin(), pairs.end(), better);
  return options.strategy == "max" ? each_row_once(pairs, left.size(0), right.size(0)) : pairs;
}

AlignmentAccuracy score_alignment(const at::Tensor& left, const at::Tensor& right,
                                  const MiningOptions& options) {
  check(left, right, options);
  if (left.size(0) != right.size(0))
    throw StateError("mining: ", left.size(0), " and ", right.size(0), " rows are not as many on both sides");
  const auto [forward, backward] = best_pairs(left, right, options);
  const auto share = [&](const std::vector<MinedPair>& pairs) {
    const auto own = std::count_if(pairs.begin(), pairs.end(),
                                   [](const MinedPair& pair) { return pair.left == pair.right; });
    return static_cast<double>(own) / static_cast<double>(left.size(0));
  };
  return {share(forward), share(backward)};
}

MiningScores score_mined(const std::vector<MinedPair>& mined, const GoldPairs& gold, double threshold) {
  std::int64_t kept = 0;
  std::int64_t correct = 0;
  for (const MinedPair& pair : checked(mined, gold)) {
    if (!(pair.score >= threshold)) break;
    ++kept;
    correct += gold.count({pair.left, pair.right}) > 0 ? 1 : 0;
  }
  return scores_of(kept, correct, gold.size());
}

double choose_threshold(const std::vector<MinedPair>& mined, const GoldPairs& gold) {
  const std::vector<MinedPair> sorted = checked(mined, gold);
  double best = 0;
  double threshold = 0;
  std::int64_t correct = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    correct += gold.count({sorted[i].left, sorted[i].right}) > 0 ? 1 : 0;
    // Equal scores lie on one side of any threshold.
    const bool last = i + 1 == sorted.size();
    if (!last && sorted[i + 1].score == sorted[i].score) continue;
    const double f1 = scores_of(static_cast<std::int64_t>(i + 1), correct, gold.size()).f1;
    if (f1 <= best) continue;
    best = f1;
    const double middle = last ? sorted[i].score : std::midpoint(sorted[i].score, sorted[i + 1].score);
    threshold = middle > (last ? middle : sorted[i + 1].score) ? middle : sorted[i].score;
  }
  if (best == 0) throw DataError("mining: none of ", sorted.size(), " mined pairs is of gold");
  return threshold;
}

}  // namespace bitrain::eval
