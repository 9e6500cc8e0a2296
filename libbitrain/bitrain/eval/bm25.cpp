#include <bitrain/eval/bm25.h>

#include <algorithm>
#include <cmath>
#include <map>

#include <bitrain/base/error.h>
#include <bitrain/text/lexical_words.h>

namespace bitrain::eval {

Bm25::Bm25(const std::vector<std::string>& documents, Bm25Options options)
    : documents_(static_cast<std::int64_t>(documents.size())) {
  if (documents.empty()) throw DataError("BM25: there are no documents to index");
  std::vector<double> lengths;
  double total = 0;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const std::vector<std::string> words = text::lexical_words(documents[i]);
    lengths.push_back(static_cast<double>(words.size()));
    total += lengths.back();
    std::map<std::string_view, std::int64_t> counts;
    for (const std::string& word : words) ++counts[word];
    for (const auto& [word, count] : counts)
      postings_[std::string(word)].push_back({static_cast<std::int32_t>(i), static_cast<float>(count)});
  }
  const auto n = static_cast<double>(documents.size());
  const double mean = std::max(total / n, 1e-9);
  for (auto& [word, postings] : postings_) {
    const auto having = static_cast<double>(postings.size());
    const double idf = std::log1p((n - having + 0.5) / (having + 0.5));
    for (Posting& posting : postings) {
      const double count = posting.weight;
      const double length = lengths[static_cast<std::size_t>(posting.document)];
      const double norm = options.k1 * (1 - options.b + options.b * length / mean);
      posting.weight = static_cast<float>(idf * count * (options.k1 + 1) / (count + norm));
    }
  }
}

std::vector<Bm25::Found> Bm25::search(std::string_view query, std::int64_t k) const {
  std::unordered_map<std::int32_t, double> scores;
  for (const std::string& word : text::lexical_words(query)) {
    const auto found = postings_.find(word);
    if (found == postings_.end()) continue;
    for (const Posting& posting : found->second) scores[posting.document] += posting.weight;
  }
  std::vector<Found> ranked;
  ranked.reserve(scores.size());
  for (const auto& [document, score] : scores) ranked.push_back({document, score});
  const auto better = [](const Found& a, const Found& b) {
    return a.score != b.score ? a.score > b.score : a.document < b.document;
  };
  const auto kept =
      std::min<std::size_t>(ranked.size(), static_cast<std::size_t>(std::max<std::int64_t>(0, k)));
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(kept), ranked.end(), better);
  ranked.resize(kept);
  return ranked;
}

}  // namespace bitrain::eval
