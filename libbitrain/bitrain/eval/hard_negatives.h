#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/eval/bm25.h>
#include <bitrain/fields/rule.h>

/// Hard negatives: texts that a retriever takes for the answer of a query and that are not it.
namespace bitrain::eval {

struct HardNegativeOptions {
  std::int64_t negatives = 4;
  std::int64_t rank_from = 0;
  std::int64_t rank_to = 100;
  std::optional<double> max_score = std::nullopt;
  std::optional<double> margin = std::nullopt;
  std::optional<double> relative_margin = std::nullopt;
  std::string sampling = "top";
  bool fill = false;
  std::string similarity = "cosine";
  std::int64_t seed = 42;
};

template <class Visitor>
void visit_fields(Visitor& v, HardNegativeOptions& o) {
  v.field("negatives", o.negatives, at_least(1), "Negatives of each pair, where so many are left.");
  v.field("rank_from", o.rank_from, at_least(0),
          "Candidates passed over at the top, where answers that nobody marked gather; the known answers do "
          "not count.");
  v.field("rank_to", o.rank_to, at_least(1), "Ranks from here on are not looked at.");
  v.field("max_score", o.max_score, any(), "Highest score of a negative.");
  v.field("margin", o.margin, at_least(0),
          "A negative scores at most what the query's lowest positive does, less this.");
  v.field("relative_margin", o.relative_margin, in_range(0, 1),
          "A negative scores at most what the query's lowest positive does, less this share of it.");
  v.field("sampling", o.sampling, one_of({"top", "random"}),
          "Which of the candidates that are left: the best, or any.");
  v.field(
      "fill", o.fill, any(),
      "Where fewer are left, draw others at random: every pair gets as many as there are candidates for.");
  v.field("similarity", o.similarity, one_of({"cosine", "dot"}), "How embeddings are compared; not BM25's.");
  v.field("seed", o.seed, any(), "Seed of sampling: random, and of fill.");
}

/// Throws ConfigError for values that visit_fields does not allow, and for ranks that hold fewer candidates
/// than negatives are asked for.
void check_options(const HardNegativeOptions& options);

struct RankedText {
  std::int64_t row = 0;
  double score = 0;
};

/// The highest score that a negative may have, infinity when there is none, for a query whose positives score
/// `positive` at least (ColBERT-XM's rule, Louis et al. 2024: min positive - margin; a negative just there
/// stays). The relative margin goes down from negative scores too.
[[nodiscard]] double highest_negative_score(double positive, const HardNegativeOptions& options);

/// Rows of the negatives among `ranked`, the candidates best first without the query's positives, in that
/// order. A pure function; draws depend on the seed and `pair`, the number of the pair, alone.
[[nodiscard]] std::vector<std::int64_t> choose_negatives(const std::vector<RankedText>& ranked,
                                                         double highest_score, std::int64_t pair,
                                                         const HardNegativeOptions& options);

struct MiningPair {
  std::string query;
  std::string positive;
};

/// Pairs and what they are told from, every text once.
struct MiningSet {
  std::vector<MiningPair> pairs;
  std::vector<std::string> texts;                  ///< The candidates, then positives that are none.
  std::int64_t candidates = 0;                     ///< Texts that may be negatives.
  std::vector<std::int64_t> query_of;              ///< [pairs]: number of its query; equal texts share one.
  std::vector<std::vector<std::int64_t>> answers;  ///< Of each query: rows of its positives, rising.
  std::vector<std::int64_t> own_row;               ///< Of each query: the row that is the same text, or -1.
};

/// Candidates are all positives, or `corpus` where it is given; a text that stands twice is one. Throws
/// DataError for no pairs, an empty text, a pair whose sides are the same text, or an empty corpus.
[[nodiscard]] MiningSet make_mining_set(std::vector<MiningPair> pairs,
                                        const std::optional<std::vector<std::string>>& corpus = {});

/// The negatives, as rows of texts, of pairs first, first + 1, ...: never a positive of the query nor a text
/// that is the query, and fewer than asked for where no more are left; with `fill` others at random, which do
/// not keep to ranks and scores.
using HardNegatives = std::vector<std::vector<std::int64_t>>;

/// By exact search. `queries` [n, D]: of pairs first to first + n; `texts` [T, D]: of all texts; types and
/// errors as eval::search.
[[nodiscard]] HardNegatives mine_dense(const MiningSet& set, std::int64_t first, const at::Tensor& queries,
                                       const at::Tensor& texts, const HardNegativeOptions& options);

/// By words. `index` is over all texts, so that every positive has a score.
[[nodiscard]] HardNegatives mine_bm25(const MiningSet& set, std::int64_t first, std::int64_t count,
                                      const Bm25& index, const HardNegativeOptions& options);

}  // namespace bitrain::eval
