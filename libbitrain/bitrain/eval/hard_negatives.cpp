#include <bitrain/eval/hard_negatives.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/eval/search.h>
#include <bitrain/fields/check.h>

namespace bitrain::eval {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

std::size_t at_row(std::int64_t row) {
  return static_cast<std::size_t>(row);
}

bool has_margin(const HardNegativeOptions& options) {
  return options.margin.has_value() || options.relative_margin.has_value();
}

/// What may not be a negative of a pair.
class Known {
 public:
  Known(const MiningSet& set, std::int64_t pair)
      : answers_(set.answers[at_row(set.query_of[at_row(pair)])]),
        own_row_(set.own_row[at_row(set.query_of[at_row(pair)])]) {}

  [[nodiscard]] const std::vector<std::int64_t>& answers() const { return answers_; }
  [[nodiscard]] bool has(std::int64_t row) const {
    return row == own_row_ || std::binary_search(answers_.begin(), answers_.end(), row);
  }
  [[nodiscard]] std::int64_t size() const {
    return static_cast<std::int64_t>(answers_.size()) + (own_row_ >= 0 ? 1 : 0);
  }

 private:
  const std::vector<std::int64_t>& answers_;
  std::int64_t own_row_;
};

/// With `fill`, candidates at random behind the negatives that were found, until there are as many as asked
/// for: none known, none twice.
std::vector<std::int64_t> filled(std::vector<std::int64_t> rows, const MiningSet& set, std::int64_t pair,
                                 const HardNegativeOptions& options) {
  const Known known(set, pair);
  const std::vector<std::int64_t>& answers = known.answers();
  const auto answering = std::lower_bound(answers.begin(), answers.end(), set.candidates) - answers.begin();
  const std::int64_t own = set.own_row[at_row(set.query_of[at_row(pair)])];
  const bool asks_itself =
      own >= 0 && own < set.candidates && !std::binary_search(answers.begin(), answers.end(), own);
  const auto wanted = at_row(std::min(options.negatives, set.candidates - answering - (asks_itself ? 1 : 0)));
  if (!options.fill || rows.size() >= wanted) return rows;
  RandomStream random(static_cast<std::uint64_t>(options.seed), "fill_negatives",
                      static_cast<std::uint64_t>(pair));
  while (rows.size() < wanted) {
    const auto row = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(set.candidates)));
    if (!known.has(row) && std::find(rows.begin(), rows.end(), row) == rows.end()) rows.push_back(row);
  }
  return rows;
}

/// The lowest score among the positives of each of the queries' pairs.
std::vector<double> lowest_positives(const MiningSet& set, std::int64_t first, const at::Tensor& queries,
                                     const at::Tensor& texts, bool cosine) {
  std::vector<double> lowest;
  const at::TensorOptions longs = at::TensorOptions().dtype(at::kLong);
  for (std::int64_t i = 0; i < queries.size(0); ++i) {
    const std::vector<std::int64_t>& answers = Known(set, first + i).answers();
    at::Tensor rows = at::empty({static_cast<std::int64_t>(answers.size())}, longs);
    std::copy(answers.begin(), answers.end(), rows.mutable_data_ptr<std::int64_t>());
    const at::Tensor positives = texts.index_select(0, rows.to(texts.device())).to(at::kDouble);  // [P, D]
    const at::Tensor query = queries.select(0, i).to(at::kDouble);
    at::Tensor scores = positives.mv(query);
    if (cosine) {
      scores = scores / (at::linalg_vector_norm(positives, 2, {1}) * at::linalg_vector_norm(query));
    }
    lowest.push_back(scores.min().item<double>());
  }
  return lowest;
}

}  // namespace

void check_options(const HardNegativeOptions& o) {
  check_fields(o, "hard negatives: ");
  if (o.rank_to - o.rank_from < o.negatives)
    throw ConfigError("hard negatives: the ranks from ", o.rank_from, " up to ", o.rank_to,
                      " hold fewer than ", o.negatives,
                      " candidates; raise rank_to or ask for fewer negatives");
}

double highest_negative_score(double positive, const HardNegativeOptions& options) {
  double highest = options.max_score.value_or(kNoLimit);
  if (options.margin) highest = std::min(highest, positive - *options.margin);
  if (options.relative_margin) {
    const double share = positive < 0 ? -*options.relative_margin : *options.relative_margin;
    highest = std::min(highest, positive * (1 - share));
  }
  return highest;
}

std::vector<std::int64_t> choose_negatives(const std::vector<RankedText>& ranked, double highest_score,
                                           std::int64_t pair, const HardNegativeOptions& options) {
  const auto count = static_cast<std::int64_t>(ranked.size());
  std::vector<std::int64_t> left;
  for (std::int64_t rank = options.rank_from; rank < std::min(options.rank_to, count); ++rank)
    if (ranked[at_row(rank)].score <= highest_score) left.push_back(ranked[at_row(rank)].row);
  const auto wanted = at_row(options.negatives);
  if (left.size() <= wanted) return left;
  if (options.sampling == "random") {
    // Selection sampling (Knuth's algorithm S) draws without replacement and keeps the order.
    RandomStream random(static_cast<std::uint64_t>(options.seed), "hard_negatives",
                        static_cast<std::uint64_t>(pair));
    std::size_t taken = 0;
    for (std::size_t seen = 0; taken < wanted; ++seen)
      if (random.below(left.size() - seen) < wanted - taken) left[taken++] = left[seen];
  }
  left.resize(wanted);
  return left;
}

MiningSet make_mining_set(std::vector<MiningPair> pairs,
                          const std::optional<std::vector<std::string>>& corpus) {
  if (pairs.empty()) throw DataError("hard negatives: there are no pairs");
  if (corpus && corpus->empty()) throw DataError("hard negatives: the corpus has no texts");
  MiningSet set;
  std::unordered_map<std::string, std::int64_t> rows;
  const auto row_of = [&](const std::string& text) {
    const auto [place, added] = rows.try_emplace(text, static_cast<std::int64_t>(set.texts.size()));
    if (added) set.texts.push_back(text);
    return place->second;
  };
  if (corpus) {
    for (std::size_t i = 0; i < corpus->size(); ++i) {
      if ((*corpus)[i].empty()) throw DataError("hard negatives: text ", i, " of the corpus is empty");
      row_of((*corpus)[i]);
    }
    set.candidates = static_cast<std::int64_t>(set.texts.size());
  }
  std::unordered_map<std::string, std::int64_t> queries;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto& [query, positive] = pairs[i];
    if (query.empty() || positive.empty()) throw DataError("hard negatives: pair ", i, " has an empty side");
    if (query == positive) throw DataError("hard negatives: both sides of pair ", i, " are the same text");
    const auto number =
        queries.try_emplace(query, static_cast<std::int64_t>(set.answers.size())).first->second;
    if (at_row(number) == set.answers.size()) set.answers.emplace_back();
    set.query_of.push_back(number);
    set.answers[at_row(number)].push_back(row_of(positive));
  }
  if (!corpus) set.candidates = static_cast<std::int64_t>(set.texts.size());
  for (std::vector<std::int64_t>& answers : set.answers) {
    std::sort(answers.begin(), answers.end());
    answers.erase(std::unique(answers.begin(), answers.end()), answers.end());
  }
  set.own_row.assign(set.answers.size(), -1);
  for (const auto& [query, number] : queries)
    if (const auto found = rows.find(query); found != rows.end()) set.own_row[at_row(number)] = found->second;
  set.pairs = std::move(pairs);
  return set;
}

HardNegatives mine_dense(const MiningSet& set, std::int64_t first, const at::Tensor& queries,
                         const at::Tensor& texts, const HardNegativeOptions& options) {
  const at::NoGradGuard no_grad;
  check_options(options);
  if (texts.dim() != 2 || texts.size(0) != static_cast<std::int64_t>(set.texts.size()))
    throw StateError("hard negatives: embeddings ", texts.sizes(), " are not those of ", set.texts.size(),
                     " texts");
  if (queries.dim() != 2 || first < 0 ||
      first + queries.size(0) > static_cast<std::int64_t>(set.pairs.size()))
    throw StateError("hard negatives: embeddings ", queries.sizes(), " are not those of queries from ", first,
                     " on, of ", set.pairs.size());
  std::int64_t most_known = 0;
  for (std::int64_t i = 0; i < queries.size(0); ++i)
    most_known = std::max(most_known, Known(set, first + i).size());
  const Neighbours found = search(queries, texts.narrow(0, 0, set.candidates),
                                  {options.rank_to + most_known, options.similarity, 0});
  const std::vector<double> lowest =
      has_margin(options) ? lowest_positives(set, first, queries, texts, options.similarity == "cosine")
                          : std::vector<double>(at_row(queries.size(0)), 0);
  const at::Tensor all_rows = found.rows.cpu();
  const at::Tensor all_scores = found.scores.cpu();
  const auto* rows = all_rows.const_data_ptr<std::int64_t>();
  const auto* scores = all_scores.const_data_ptr<float>();
  const std::int64_t k = all_rows.size(1);
  HardNegatives negatives;
  for (std::int64_t i = 0; i < queries.size(0); ++i) {
    const Known known(set, first + i);
    std::vector<RankedText> ranked;
    for (std::int64_t j = i * k; j < (i + 1) * k; ++j)
      if (!known.has(rows[j])) ranked.push_back({rows[j], scores[j]});
    negatives.push_back(filled(
        choose_negatives(ranked, highest_negative_score(lowest[at_row(i)], options), first + i, options), set,
        first + i, options));
  }
  return negatives;
}

HardNegatives mine_bm25(const MiningSet& set, std::int64_t first, std::int64_t count, const Bm25& index,
                        const HardNegativeOptions& options) {
  check_options(options);
  if (first < 0 || count < 0 || first + count > static_cast<std::int64_t>(set.pairs.size()))
    throw StateError("hard negatives: there are no pairs ", first, " to ", first + count, ", but ",
                     set.pairs.size());
  const auto all = static_cast<std::int64_t>(set.texts.size());
  HardNegatives negatives(at_row(count));
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Known known(set, first + i);
      // A margin needs the scores of the positives, wherever they rank.
      const std::int64_t k =
          has_margin(options) ? all : options.rank_to + known.size() + all - set.candidates;
      std::vector<RankedText> ranked;
      std::int64_t answers = 0;
      double lowest = kNoLimit;
      for (const Bm25::Found& hit : index.search(set.pairs[at_row(first + i)].query, k)) {
        if (!known.has(hit.document)) {
          if (hit.document < set.candidates) ranked.push_back({hit.document, hit.score});
        } else if (std::binary_search(known.answers().begin(), known.answers().end(), hit.document)) {
          ++answers;
          lowest = std::min(lowest, hit.score);
        }
      }
      // A positive without a word of the query scores 0.
      if (answers < static_cast<std::int64_t>(known.answers().size())) lowest = std::min(lowest, 0.0);
      negatives[at_row(i)] =
          filled(choose_negatives(ranked, highest_negative_score(lowest, options), first + i, options), set,
                 first + i, options);
    }
  });
  return negatives;
}

}  // namespace bitrain::eval
