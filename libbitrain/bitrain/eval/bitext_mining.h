#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/fields/rule.h>

/// Mining of translations among the sentences of two languages by the margin of their embeddings (Artetxe and
/// Schwenk 2019, "Margin-based parallel corpus mining"), and how well it finds those that are known.
namespace bitrain::eval {

struct MiningOptions {
  std::string margin = "ratio";
  std::string strategy = "max";
  std::int64_t neighbours = 4;
};
template <class Visitor>
void visit_fields(Visitor& v, MiningOptions& o) {
  v.field(
      "margin", o.margin, one_of({"absolute", "distance", "ratio"}),
      "Score of a pair: its cosine a; a - b; or a / b, b the mean cosine of the two to their neighbours.");
  v.field(
      "strategy", o.strategy, one_of({"forward", "backward", "intersection", "max"}),
      "The best right row of each left one; the best left of each right; pairs that are both; or pairs of "
      "either by their score, every row once.");
  v.field("neighbours", o.neighbours, at_least(1), "Nearest of the other side: the candidates, and b's.");
}

struct MinedPair {
  std::int64_t left = 0;   ///< Row.
  std::int64_t right = 0;  ///< Row.
  double score = 0;
};

/// Pairs of rows of left [N, D] and right [M, D], float32, best first; equal scores by left row, then right.
/// Under "ratio" a pair whose b is not above 0 is none. Exact, in blocks. Throws StateError for shapes or
/// types that do not fit, DataError as check_embeddings.
[[nodiscard]] std::vector<MinedPair> mine_bitext(const at::Tensor& left, const at::Tensor& right,
                                                 const MiningOptions& options = {});

/// Row i of one side translates row i of the other (Tatoeba): the share of rows whose best pair is their own.
struct AlignmentAccuracy {
  double forward = 0;   ///< From left to right.
  double backward = 0;  ///< From right to left.
};
/// The strategy of the options is not looked at. Throws as mine_bitext; StateError for sides that are not as
/// many.
[[nodiscard]] AlignmentAccuracy score_alignment(const at::Tensor& left, const at::Tensor& right,
                                                const MiningOptions& options = {});

/// Pairs (left row, right row) that are known to be translations.
using GoldPairs = std::set<std::pair<std::int64_t, std::int64_t>>;

struct MiningScores {
  double precision = 0;  ///< 0 where nothing is mined.
  double recall = 0;
  double f1 = 0;
  std::int64_t mined = 0;
  std::int64_t correct = 0;
};
/// Of the pairs scored `threshold` or more. Throws DataError for no gold pairs, a pair mined twice or a score
/// that is NaN.
[[nodiscard]] MiningScores score_mined(const std::vector<MinedPair>& mined, const GoldPairs& gold,
                                       double threshold);

/// The threshold of the highest F1 on a development set, between the two scores it parts; of several the
/// highest. To be used on other pairs than it was chosen on. Throws as score_mined; DataError when no pair is
/// mined, or none of gold.
[[nodiscard]] double choose_threshold(const std::vector<MinedPair>& mined, const GoldPairs& gold);

}  // namespace bitrain::eval
