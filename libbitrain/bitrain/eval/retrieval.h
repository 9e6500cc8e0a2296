#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/eval/search.h>

/// Retrieval sets in BEIR's layout, runs in TREC's, and how well the one answers the other.
namespace bitrain::eval {

/// How relevant documents are to a query, by the document's id; 0 and below: judged, and not relevant.
using Judgements = std::map<std::string, std::int64_t>;
/// Judgements by the query's id.
using Qrels = std::map<std::string, Judgements>;

/// A document that a system found.
struct Hit {
  std::string document;
  double score = 0;
};
/// Hits of each query, best first.
using RetrievalRun = std::map<std::string, std::vector<Hit>>;

struct Document {
  std::string id;
  std::string title;
  std::string text;
};

/// The title before the text, as BEIR's systems read a document.
[[nodiscard]] std::string text_of(const Document& document);

struct RetrievalSet {
  std::vector<Document> corpus;
  std::vector<Document> queries;  ///< Without titles.
  Qrels qrels;
};

/// Reads one corpus.jsonl or queries.jsonl, also as .gz or .zst. Throws as read_beir.
[[nodiscard]] std::vector<Document> read_documents(const std::filesystem::path& path);

/// Reads corpus.jsonl ({"_id", "title", "text"}), queries.jsonl and qrels/<split>.tsv (a heading, then
/// query-id, corpus-id, score), each also as .gz or .zst. Throws IoError for a file that is missing,
/// DataError with file and line for a broken row, an id used twice, and judgements that name a query or a
/// document that is not there.
[[nodiscard]] RetrievalSet read_beir(const std::filesystem::path& directory,
                                     const std::string& split = "test");
/// Writes the same layout; the folder appears whole. Throws IoError.
void write_beir(const std::filesystem::path& directory, const RetrievalSet& set,
                const std::string& split = "test");

/// A TREC run: lines "query Q0 document rank score tag". Hits are sorted by score, best first, those of equal
/// score as they stand. Throws DataError with file and line for a broken row, or a document found twice.
[[nodiscard]] RetrievalRun read_trec_run(const std::filesystem::path& path);
void write_trec_run(const std::filesystem::path& path, const RetrievalRun& run, const std::string& tag);

/// Metrics of one query, all within the first k hits; 0 where nothing is relevant.
/// 1 / rank of the first relevant hit.
[[nodiscard]] double reciprocal_rank(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k);
/// Whether any is relevant (Hits@k, accuracy@k).
[[nodiscard]] double hit_rate(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k);
/// Share of all relevant documents that are found.
[[nodiscard]] double recall(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k);
/// Discounted gain over that of the best order. The gain of a grade is the grade, as in trec_eval and BEIR,
/// or with `exponential` 2^grade - 1 (Burges et al. 2005).
[[nodiscard]] double ndcg(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k,
                          bool exponential = false);

/// Means over all judged queries that have a relevant document; a query without hits counts as 0. Names are
/// "mrr@10", "accuracy@1", "recall@100", "ndcg@10". Throws DataError when no query has one, or a document is
/// found twice for one; ConfigError for a cutoff below 1.
[[nodiscard]] std::map<std::string, double> evaluate_run(const RetrievalRun& run, const Qrels& qrels,
                                                         const std::vector<std::int64_t>& cutoffs = {1, 10,
                                                                                                     100});

/// Recall within a budget of tokens (XOR-Retrieve's R@2kt and R@5kt): whether any answer stands in the first
/// `budget` white-space tokens of the passages, best first; the passage at the limit is cut. Case is ignored
/// in ASCII.
[[nodiscard]] bool answer_within_tokens(const std::vector<std::string>& passages,
                                        const std::vector<std::string>& answers, std::int64_t budget);

/// Row i of one side and row i of the other are translations of each other.
struct PairScores {
  double forward_accuracy = 0;   ///< Left rows whose nearest right row is their own: accuracy@1.
  double backward_accuracy = 0;  ///< The same from right to left.
  double forward_mrr = 0;        ///< Within the first 10.
  double backward_mrr = 0;
};
/// Tatoeba-style retrieval over [N, D] and [N, D]. Throws as search, and DataError for no pairs, or a side
/// whose embeddings are all equal.
[[nodiscard]] PairScores score_pairs(const at::Tensor& left, const at::Tensor& right,
                                     const SearchOptions& options = {});

/// Spearman's rank correlation, equal values sharing their mean rank (STS). Throws DataError for fewer than
/// two values, sizes that differ, NaN, or a side whose values are all equal.
[[nodiscard]] double spearman(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace bitrain::eval
