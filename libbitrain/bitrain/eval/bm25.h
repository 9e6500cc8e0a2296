#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <bitrain/fields/rule.h>

namespace bitrain::eval {

struct Bm25Options {
  double k1 = 0.9;
  double b = 0.4;
};
template <class Visitor>
void visit_fields(Visitor& v, Bm25Options& o) {
  v.field("k1", o.k1, at_least(0), "How soon more occurrences of a word stop counting.");
  v.field("b", o.b, in_range(0, 1), "How much longer documents are held back.");
}

/// Okapi BM25 (Robertson and Zaragoza 2009) with Lucene's idf, log(1 + (N - n + 0.5) / (n + 0.5)), over an
/// inverted index in memory of text::lexical_words.
class Bm25 {
 public:
  /// Throws DataError for no documents.
  explicit Bm25(const std::vector<std::string>& documents, Bm25Options options = {});

  struct Found {
    std::int64_t document = 0;  ///< Its place in the list.
    double score = 0;
  };
  /// At most k documents that share a word with the query, best first; of equal scores the earlier one. A
  /// word that the query has twice counts twice.
  [[nodiscard]] std::vector<Found> search(std::string_view query, std::int64_t k) const;

 private:
  struct Posting {
    std::int32_t document;
    float weight;  ///< Score of one occurrence in a query.
  };

  std::unordered_map<std::string, std::vector<Posting>> postings_;
  std::int64_t documents_ = 0;
};

}  // namespace bitrain::eval
