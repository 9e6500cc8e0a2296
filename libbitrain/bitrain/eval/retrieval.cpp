#include <bitrain/eval/retrieval.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>
#include <unordered_set>

#include <bitrain/base/error.h>
#include <bitrain/base/format.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/line_reader.h>

namespace bitrain::eval {
namespace fs = std::filesystem;
namespace {

/// The file, plain or compressed.
fs::path find_file(const fs::path& plain) {
  std::error_code ignored;
  for (const char* ending : {"", ".gz", ".zst"}) {
    fs::path path = plain;
    path += ending;
    if (fs::exists(path, ignored)) return path;
  }
  throw IoError("there is no file ", plain.string(), " (nor with .gz or .zst)");
}

std::string text_at(const io::Json& row, const char* key, bool needed, const std::string& where) {
  const auto found = row.find(key);
  if (found == row.end() || found->is_null()) {
    if (!needed) return "";
    throw DataError(where, ": the key '", key, "' is missing");
  }
  if (found->is_string()) return found->get<std::string>();
  if (found->is_number_integer()) return found->dump();  // Ids are written as numbers in some sets.
  throw DataError(where, ": '", key, "' is no text");
}

template <class Number>
std::optional<Number> number_of(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::set<std::string> ids_of(const std::vector<Document>& documents) {
  std::set<std::string> ids;
  for (const Document& document : documents) ids.insert(document.id);
  return ids;
}

Qrels read_qrels(const fs::path& plain, const RetrievalSet& set) {
  const std::set<std::string> queries = ids_of(set.queries);
  const std::set<std::string> documents = ids_of(set.corpus);
  io::LineReader reader(find_file(plain));
  Qrels qrels;
  for (std::string line; reader.next(line);) {
    if (trim(line).empty()) continue;
    const std::vector<std::string> columns = split(line, '\t');
    const std::optional<std::int64_t> grade =
        columns.size() == 3 ? number_of<std::int64_t>(trim(columns[2])) : std::nullopt;
    if (!grade) {
      if (reader.line_number() == 1 && columns.size() == 3) continue;  // The heading.
      throw DataError(reader.where(), ": not a query, a document and a whole number, parted by tabs");
    }
    if (queries.count(columns[0]) == 0)
      throw DataError(reader.where(), ": the query '", columns[0], "' is not in queries.jsonl");
    if (documents.count(columns[1]) == 0)
      throw DataError(reader.where(), ": the document '", columns[1], "' is not in corpus.jsonl");
    if (!qrels[columns[0]].emplace(columns[1], *grade).second)
      throw DataError(reader.where(), ": '", columns[1], "' is judged twice for '", columns[0], "'");
  }
  return qrels;
}

/// Grades of the first k hits; 0 for what is not judged.
std::vector<std::int64_t> grades_of(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k) {
  std::vector<std::int64_t> grades;
  for (std::size_t i = 0; i < hits.size() && static_cast<std::int64_t>(i) < k; ++i) {
    const auto found = judged.find(hits[i].document);
    grades.push_back(found == judged.end() ? 0 : std::max<std::int64_t>(0, found->second));
  }
  return grades;
}

double discounted_gain(const std::vector<std::int64_t>& grades, bool exponential) {
  double sum = 0;
  for (std::size_t i = 0; i < grades.size(); ++i) {
    const auto grade = static_cast<double>(grades[i]);
    sum += (exponential ? std::exp2(grade) - 1 : grade) / std::log2(static_cast<double>(i) + 2);
  }
  return sum;
}

/// Mean ranks, from 1.
std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) ranks[order[i]] = 0.5 * static_cast<double>(begin + end + 1);
    begin = end;
  }
  return ranks;
}

double pearson(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xy = 0;
  double xx = 0;
  double yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean_x) * (y[i] - mean_y);
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
  }
  if (xx == 0 || yy == 0) throw DataError("rank correlation: all values of one side are equal");
  return xy / std::sqrt(xx * yy);
}

}  // namespace

std::string text_of(const Document& document) {
  return document.title.empty() ? document.text : document.title + " " + document.text;
}

std::vector<Document> read_documents(const fs::path& plain) {
  io::LineReader reader(find_file(plain));
  std::vector<Document> documents;
  std::unordered_set<std::string> ids;
  for (std::string line; reader.next(line);) {
    if (trim(line).empty()) continue;
    io::Json row;
    try {
      row = io::parse_json(line, reader.where());
    } catch (const FormatError& error) {
      throw DataError(error.what());
    }
    if (!row.is_object()) throw DataError(reader.where(), ": the row is no JSON object");
    documents.push_back({text_at(row, "_id", true, reader.where()),
                         text_at(row, "title", false, reader.where()),
                         text_at(row, "text", true, reader.where())});
    if (!ids.insert(documents.back().id).second)
      throw DataError(reader.where(), ": the id '", documents.back().id, "' is used twice");
  }
  return documents;
}

RetrievalSet read_beir(const fs::path& directory, const std::string& split) {
  RetrievalSet set;
  set.corpus = read_documents(directory / "corpus.jsonl");
  set.queries = read_documents(directory / "queries.jsonl");
  set.qrels = read_qrels(directory / "qrels" / (split + ".tsv"), set);
  return set;
}

void write_beir(const fs::path& directory, const RetrievalSet& set, const std::string& split) {
  io::AtomicDirectory folder(directory);
  const auto write_documents = [&](const char* name, const std::vector<Document>& documents, bool titles) {
    std::string text;
    for (const Document& document : documents) {
      io::Json row = {{"_id", document.id}};
      if (titles) row["title"] = document.title;
      row["text"] = document.text;
      text += row.dump() + "\n";
    }
    io::write_file_atomic(folder.path() / name, text);
  };
  write_documents("corpus.jsonl", set.corpus, true);
  write_documents("queries.jsonl", set.queries, false);
  std::string text = "query-id\tcorpus-id\tscore\n";
  for (const auto& [query, judged] : set.qrels)
    for (const auto& [document, grade] : judged)
      text.append(query)
          .append("\t")
          .append(document)
          .append("\t")
          .append(std::to_string(grade))
          .append("\n");
  io::make_directories(folder.path() / "qrels");
  io::write_file_atomic(folder.path() / "qrels" / (split + ".tsv"), text);
  folder.commit();
}

RetrievalRun read_trec_run(const fs::path& path) {
  io::LineReader reader(path);
  RetrievalRun run;
  std::set<std::pair<std::string, std::string>> seen;
  for (std::string line; reader.next(line);) {
    if (trim(line).empty()) continue;
    std::istringstream words(line);
    words.imbue(std::locale::classic());  // Which bytes are spaces must not depend on the program's locale.
    std::string query;
    std::string zero;
    std::string document;
    std::string rank;
    std::string score;
    std::string tag;
    words >> query >> zero >> document >> rank >> score >> tag;
    const std::optional<double> value = number_of<double>(score);
    if (tag.empty() || !value || !std::isfinite(*value))
      throw DataError(reader.where(), ": not 'query Q0 document rank score tag'");
    if (!seen.emplace(query, document).second)
      throw DataError(reader.where(), ": '", document, "' is found twice for '", query, "'");
    run[query].push_back({document, *value});
  }
  for (auto& [query, hits] : run)
    std::stable_sort(hits.begin(), hits.end(), [](const Hit& a, const Hit& b) { return a.score > b.score; });
  return run;
}

void write_trec_run(const fs::path& path, const RetrievalRun& run, const std::string& tag) {
  std::string text;
  for (const auto& [query, hits] : run) {
    for (std::size_t i = 0; i < hits.size(); ++i) {
      const std::string numbers = format(" %zu %.9g ", i + 1, hits[i].score);
      text.append(query).append(" Q0 ").append(hits[i].document).append(numbers).append(tag).append("\n");
    }
  }
  io::write_file_atomic(path, text);
}

double reciprocal_rank(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k) {
  const std::vector<std::int64_t> grades = grades_of(hits, judged, k);
  for (std::size_t i = 0; i < grades.size(); ++i)
    if (grades[i] > 0) return 1 / static_cast<double>(i + 1);
  return 0;
}

double hit_rate(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k) {
  return reciprocal_rank(hits, judged, k) > 0 ? 1 : 0;
}

double recall(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k) {
  const auto relevant =
      std::count_if(judged.begin(), judged.end(), [](const auto& j) { return j.second > 0; });
  if (relevant == 0) return 0;
  const std::vector<std::int64_t> grades = grades_of(hits, judged, k);
  const auto found =
      std::count_if(grades.begin(), grades.end(), [](std::int64_t grade) { return grade > 0; });
  return static_cast<double>(found) / static_cast<double>(relevant);
}

double ndcg(const std::vector<Hit>& hits, const Judgements& judged, std::int64_t k, bool exponential) {
  std::vector<std::int64_t> best;
  for (const auto& [document, grade] : judged) best.push_back(std::max<std::int64_t>(0, grade));
  std::sort(best.rbegin(), best.rend());
  best.resize(static_cast<std::size_t>(std::min<std::int64_t>(k, static_cast<std::int64_t>(best.size()))));
  const double ideal = discounted_gain(best, exponential);
  return ideal > 0 ? discounted_gain(grades_of(hits, judged, k), exponential) / ideal : 0;
}

std::map<std::string, double> evaluate_run(const RetrievalRun& run, const Qrels& qrels,
                                           const std::vector<std::int64_t>& cutoffs) {
  for (const std::int64_t k : cutoffs)
    if (k < 1) throw ConfigError("a cutoff must be 1 or more, not ", k);
  std::map<std::string, double> sums;
  std::int64_t queries = 0;
  static const std::vector<Hit> kNone;
  for (const auto& [query, judged] : qrels) {
    if (std::none_of(judged.begin(), judged.end(), [](const auto& j) { return j.second > 0; })) continue;
    ++queries;
    const auto found = run.find(query);
    const std::vector<Hit>& hits = found == run.end() ? kNone : found->second;
    std::set<std::string_view> seen;
    for (const Hit& hit : hits)
      if (!seen.insert(hit.document).second)
        throw DataError("'", hit.document, "' is found twice for '", query, "'");
    for (const std::int64_t k : cutoffs) {
      const std::string at = "@" + std::to_string(k);
      sums["mrr" + at] += reciprocal_rank(hits, judged, k);
      sums["accuracy" + at] += hit_rate(hits, judged, k);
      sums["recall" + at] += recall(hits, judged, k);
      sums["ndcg" + at] += ndcg(hits, judged, k);
    }
  }
  if (queries == 0) throw DataError("no query has a relevant document: there is nothing to measure");
  for (auto& [name, sum] : sums) sum /= static_cast<double>(queries);
  return sums;
}

bool answer_within_tokens(const std::vector<std::string>& passages, const std::vector<std::string>& answers,
                          std::int64_t budget) {
  for (const std::string& passage : passages) {
    std::istringstream words(lower_ascii(passage));
    words.imbue(std::locale::classic());
    std::string text;
    for (std::string word; budget > 0 && words >> word; --budget) {
      if (!text.empty()) text += ' ';
      text += word;
    }
    for (const std::string& answer : answers)
      if (!answer.empty() && text.find(lower_ascii(answer)) != std::string::npos) return true;
    if (budget == 0) return false;
  }
  return false;
}

PairScores score_pairs(const at::Tensor& left, const at::Tensor& right, const SearchOptions& options) {
  if (left.dim() != 2 || right.dim() != 2 || left.size(0) != right.size(0))
    throw StateError("pairs: ", left.sizes(), " and ", right.sizes(), " are not as many on both sides");
  if (left.size(0) == 0) throw DataError("pairs: there are none");
  for (const at::Tensor& side : {left, right})
    if (side.size(0) > 1 && side.eq(side.narrow(0, 0, 1)).all().item<bool>())
      throw DataError("pairs: all ", side.size(0),
                      " embeddings of a side are equal: the model tells no text from another");
  constexpr std::int64_t kCutoff = 10;
  SearchOptions search_options = options;
  search_options.k = kCutoff;
  const auto direction = [&](const at::Tensor& from, const at::Tensor& to, double& accuracy, double& mrr) {
    const at::Tensor rows = search(from, to, search_options).rows.cpu().contiguous();
    const auto* found = rows.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < rows.size(0); ++i) {
      for (std::int64_t rank = 0; rank < rows.size(1); ++rank) {
        if (found[i * rows.size(1) + rank] != i) continue;
        accuracy += rank == 0 ? 1 : 0;
        mrr += 1 / static_cast<double>(rank + 1);
      }
    }
    accuracy /= static_cast<double>(rows.size(0));
    mrr /= static_cast<double>(rows.size(0));
  };
  PairScores scores;
  direction(left, right, scores.forward_accuracy, scores.forward_mrr);
  direction(right, left, scores.backward_accuracy, scores.backward_mrr);
  return scores;
}

double spearman(const std::vector<double>& x, const std::vector<double>& y) {
  if (x.size() != y.size() || x.size() < 2)
    throw DataError("rank correlation: ", x.size(), " and ", y.size(),
                    " values; there must be as many on both sides, at least two");
  const auto not_finite = [](double value) { return std::isnan(value); };
  if (std::any_of(x.begin(), x.end(), not_finite) || std::any_of(y.begin(), y.end(), not_finite))
    throw DataError("rank correlation: a value is NaN");
  return pearson(ranks_of(x), ranks_of(y));
}

}  // namespace bitrain::eval
