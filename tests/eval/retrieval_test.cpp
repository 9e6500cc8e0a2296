#include <bitrain/eval/retrieval.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <support/temporary_directory.h>

namespace bitrain::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

at::Tensor draw(std::int64_t rows, std::int64_t dim, const std::string& purpose) {
  at::Tensor values = at::empty({rows, dim}, at::TensorOptions().dtype(at::kFloat));
  RandomStream stream(1, purpose);
  auto* to = values.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) to[i] = static_cast<float>(stream.normal());
  return values;
}

at::Tensor unit(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, {1}, true);
}

template <class E, class Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no such error";
  return "";
}

TEST(Search, IsTheSortedMatrixAcrossBlocks) {
  const at::Tensor queries = draw(300, 16, "queries");  // More than a block of either.
  const at::Tensor candidates = draw(9000, 16, "candidates");
  for (const char* similarity : {"cosine", "dot"}) {
    const bool cosine = std::string(similarity) == "cosine";
    const at::Tensor scores =
        cosine ? at::matmul(unit(queries), unit(candidates).t()) : at::matmul(queries, candidates.t());
    const auto [best, rows] = scores.topk(7, 1);
    const Neighbours found = search(queries, candidates, {.k = 7, .similarity = similarity});
    EXPECT_LT((found.scores - best).abs().max().item<double>(), 1e-5);
    EXPECT_LT((scores.gather(1, found.rows) - best).abs().max().item<double>(), 1e-5);
  }
}

TEST(Search, EqualScoresComeInOrderAndKIsCut) {
  const at::Tensor candidates = draw(1, 8, "one").expand({5000, 8}).contiguous();
  const Neighbours found = search(candidates.narrow(0, 0, 2), candidates, {.k = 3});
  for (std::int64_t i = 0; i < 2; ++i)
    for (std::int64_t j = 0; j < 3; ++j) EXPECT_EQ(found.rows[i][j].item<std::int64_t>(), j);
  EXPECT_EQ(search(candidates, candidates.narrow(0, 0, 2), {.k = 9}).rows.size(1), 2);
  EXPECT_EQ(search(candidates.narrow(0, 0, 0), candidates, {.k = 2}).rows.sizes(), (at::IntArrayRef{0, 2}));
}

TEST(Search, Bfloat16FindsWhatItsRoundedSelfFinds) {
  const at::Tensor queries = draw(20, 64, "queries").to(at::kBFloat16);
  const at::Tensor candidates = draw(500, 64, "candidates").to(at::kBFloat16);
  const Neighbours found = search(queries, candidates, {.k = 1, .similarity = "dot"});
  const at::Tensor scores = at::matmul(queries.to(at::kFloat), candidates.to(at::kFloat).t());
  const at::Tensor reached = scores.gather(1, found.rows).squeeze(1);
  EXPECT_LT((std::get<0>(scores.max(1)) - reached).abs().max().item<double>(),
            0.2);  // A rounding of 20 or so.
}

TEST(Search, CslsIsItsFormulaAndPassesOverHubs) {
  const at::Tensor queries = unit(draw(40, 8, "queries"));
  const at::Tensor candidates = unit(draw(60, 8, "candidates"));
  const at::Tensor similarity = at::matmul(queries, candidates.t());
  const at::Tensor of_queries = std::get<0>(similarity.topk(5, 1)).mean(1, true);
  const at::Tensor of_candidates = std::get<0>(similarity.topk(5, 0)).mean(0, true);
  const at::Tensor csls = 2 * similarity - of_queries - of_candidates;
  const Neighbours found = search(queries, candidates, {.k = 4, .csls_neighbours = 5});
  EXPECT_LT((found.scores - std::get<0>(csls.topk(4, 1))).abs().max().item<double>(), 1e-5);

  // Directions in degrees: each query's partner lies 35 away, and a hub 30 from both.
  const auto directions = [](const std::vector<double>& degrees) {
    at::Tensor rows =
        at::empty({static_cast<std::int64_t>(degrees.size()), 2}, at::TensorOptions().dtype(at::kFloat));
    for (std::size_t i = 0; i < degrees.size(); ++i) {
      rows[static_cast<std::int64_t>(i)][0] = std::cos(degrees[i] * M_PI / 180);
      rows[static_cast<std::int64_t>(i)][1] = std::sin(degrees[i] * M_PI / 180);
    }
    return rows;
  };
  const at::Tensor left = directions({0, 60});
  const at::Tensor right = directions({-35, 95, 30});
  const auto nearest = [&](std::int64_t neighbours) {
    const at::Tensor rows = search(left, right, {.k = 1, .csls_neighbours = neighbours}).rows;
    return std::vector<std::int64_t>{rows[0][0].item<std::int64_t>(), rows[1][0].item<std::int64_t>()};
  };
  EXPECT_THAT(nearest(0), ElementsAre(2, 2));
  EXPECT_THAT(nearest(2), ElementsAre(0, 1));
}

TEST(Search, BadInput) {
  at::Tensor queries = draw(3, 4, "q");
  const at::Tensor candidates = draw(5, 4, "c");
  queries[1][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message_of<DataError>([&] { (void)search(queries, candidates); }),
              HasSubstr("query 1 has NaN or infinity"));
  EXPECT_THAT(message_of<DataError>([&] { (void)search(candidates, queries); }), HasSubstr("candidate 1"));
  queries[1] = 0.0;
  EXPECT_THAT(message_of<DataError>([&] { (void)search(queries, candidates); }),
              HasSubstr("query 1 is all zero"));
  EXPECT_NO_THROW((void)search(queries, candidates, {.similarity = "dot"}));
  EXPECT_THROW((void)search(queries, draw(5, 3, "c")), StateError);
  EXPECT_THROW((void)search(queries, candidates.to(at::kBFloat16)), StateError);
  EXPECT_THROW((void)search(queries, candidates.narrow(0, 0, 0)), StateError);
  EXPECT_THROW((void)search(queries, candidates, {.k = 0}), ConfigError);
  EXPECT_THROW((void)search(queries, candidates, {.similarity = "euclid"}), ConfigError);
}

// Hits a b c d; a is judged and irrelevant, b has grade 1, d grade 3, e grade 2 and is not found.
const std::vector<Hit> kHits = {{"a", 4}, {"b", 3}, {"c", 2}, {"d", 1}};
const Judgements kJudged = {{"a", 0}, {"b", 1}, {"d", 3}, {"e", 2}};

TEST(RetrievalMetrics, ByHand) {
  EXPECT_DOUBLE_EQ(reciprocal_rank(kHits, kJudged, 10), 0.5);
  EXPECT_DOUBLE_EQ(reciprocal_rank(kHits, kJudged, 1), 0);
  EXPECT_DOUBLE_EQ(hit_rate(kHits, kJudged, 1), 0);
  EXPECT_DOUBLE_EQ(hit_rate(kHits, kJudged, 2), 1);
  EXPECT_DOUBLE_EQ(recall(kHits, kJudged, 2), 1.0 / 3);
  EXPECT_DOUBLE_EQ(recall(kHits, kJudged, 4), 2.0 / 3);
  const double ideal = 3 + 2 / std::log2(3.0) + 1 / 2.0;
  EXPECT_DOUBLE_EQ(ndcg(kHits, kJudged, 10), (1 / std::log2(3.0) + 3 / std::log2(5.0)) / ideal);
  const double steep = 7 + 3 / std::log2(3.0) + 1 / 2.0;
  EXPECT_DOUBLE_EQ(ndcg(kHits, kJudged, 10, true), (1 / std::log2(3.0) + 7 / std::log2(5.0)) / steep);
  EXPECT_DOUBLE_EQ(ndcg(kHits, kJudged, 2), (1 / std::log2(3.0)) / (3 + 2 / std::log2(3.0)));
  EXPECT_DOUBLE_EQ(recall(kHits, {{"a", 0}}, 4), 0);
  EXPECT_DOUBLE_EQ(ndcg(kHits, {{"a", 0}}, 4), 0);
}

TEST(RetrievalMetrics, MeansOverQueriesThatHaveAnAnswer) {
  const Qrels qrels = {{"1", kJudged}, {"2", {{"x", 1}}}, {"3", {{"x", 0}}}};
  const auto scores = evaluate_run({{"1", kHits}}, qrels, {10});
  EXPECT_DOUBLE_EQ(scores.at("mrr@10"), 0.25);  // Query 2 has no hits, 3 no answer.
  EXPECT_DOUBLE_EQ(scores.at("accuracy@10"), 0.5);
  EXPECT_DOUBLE_EQ(scores.at("recall@10"), 1.0 / 3);
  EXPECT_THROW((void)evaluate_run({}, {{"3", {{"x", 0}}}}), DataError);
}

TEST(RetrievalMetrics, AnswersWithinABudgetOfTokens) {
  const std::vector<std::string> passages = {"one two three", "The  Answer is\nhere"};
  EXPECT_TRUE(answer_within_tokens(passages, {"the answer"}, 5));
  EXPECT_FALSE(answer_within_tokens(passages, {"the answer"}, 4));
  EXPECT_TRUE(answer_within_tokens(passages, {"nothing", "TWO"}, 2));
  EXPECT_FALSE(answer_within_tokens(passages, {""}, 100));
  EXPECT_FALSE(answer_within_tokens({}, {"x"}, 100));
}

TEST(Pairs, CountBothDirections) {
  at::Tensor left = at::zeros({3, 3}, at::TensorOptions().dtype(at::kFloat));
  for (std::int64_t i = 0; i < 3; ++i) left[i][i] = 1.0;
  at::Tensor right = left.clone();
  right[2] = left[1] + 0.1 * left[2];  // Its nearest left row is 1; left row 2 still finds it.
  const PairScores scores = score_pairs(left, right);
  EXPECT_DOUBLE_EQ(scores.forward_accuracy, 1);
  EXPECT_DOUBLE_EQ(scores.backward_accuracy, 2.0 / 3);
  EXPECT_DOUBLE_EQ(scores.backward_mrr, (1 + 1 + 0.5) / 3);
  EXPECT_THROW((void)score_pairs(left, right.narrow(0, 0, 2)), StateError);
  EXPECT_THROW((void)score_pairs(left.narrow(0, 0, 0), right.narrow(0, 0, 0)), DataError);
  const at::Tensor collapsed = left.narrow(0, 0, 1).expand({3, 3}).contiguous();
  EXPECT_THAT(message_of<DataError>([&] { (void)score_pairs(left, collapsed); }),
              HasSubstr("all 3 embeddings of a side are equal"));
  EXPECT_DOUBLE_EQ(score_pairs(left.narrow(0, 0, 1), collapsed.narrow(0, 0, 1)).forward_accuracy, 1);
}

TEST(Spearman, SharesRanksOfEqualValues) {
  EXPECT_DOUBLE_EQ(spearman({1, 2, 3, 4}, {10, 20, 30, 1000}), 1);
  EXPECT_DOUBLE_EQ(spearman({1, 2, 3, 4}, {4, 3, 2, 1}), -1);
  // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 over the root of 4.5 and 5.
  EXPECT_NEAR(spearman({1, 2, 2, 3}, {1, 2, 3, 4}), 4.5 / std::sqrt(4.5 * 5.0), 1e-12);
  EXPECT_THROW((void)spearman({1}, {1}), DataError);
  EXPECT_THROW((void)spearman({1, 2}, {1, 2, 3}), DataError);
  EXPECT_THROW((void)spearman({1, std::nan("")}, {1, 2}), DataError);
  EXPECT_THROW((void)spearman({1, 1}, {1, 2}), DataError);
}

class BeirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    set_.corpus = {{"d1", "Título", "uno \"dos\"\n"}, {"d2", "", "tres"}};
    set_.queries = {{"q1", "", "¿qué?"}};
    set_.qrels = {{"q1", {{"d1", 2}, {"d2", 0}}}};
    write_beir(folder_, set_);
  }
  void append(const std::string& file, const std::string& text) const {
    std::ofstream(folder_ / file, std::ios::app) << text;
  }
  std::string refusal() const {
    return message_of<DataError>([&] { (void)read_beir(folder_); });
  }

  test::TemporaryDirectory directory_;
  std::filesystem::path folder_ = directory_.path() / "set";
  RetrievalSet set_;
};

TEST_F(BeirTest, RoundTrip) {
  const RetrievalSet read = read_beir(folder_);
  ASSERT_EQ(read.corpus.size(), 2U);
  EXPECT_EQ(read.corpus[0].title, "Título");
  EXPECT_EQ(read.corpus[0].text, "uno \"dos\"\n");
  EXPECT_EQ(read.queries.at(0).text, "¿qué?");
  EXPECT_EQ(read.qrels, set_.qrels);
}

TEST_F(BeirTest, BadRowsAreNamed) {
  append("qrels/test.tsv", "q1\td3\t1\n");
  EXPECT_THAT(refusal(), HasSubstr("test.tsv:4: the document 'd3' is not in corpus.jsonl"));
}

TEST_F(BeirTest, UnknownQueriesAreNamed) {
  append("qrels/test.tsv", "q2\td1\t1\n");
  EXPECT_THAT(refusal(), HasSubstr("test.tsv:4: the query 'q2' is not in queries.jsonl"));
}

TEST_F(BeirTest, BrokenJudgementsAreNamed) {
  append("qrels/test.tsv", "q1 d1 1\n");
  EXPECT_THAT(refusal(), HasSubstr("test.tsv:4: not a query, a document and a whole number"));
}

TEST_F(BeirTest, DocumentsTwiceAreNamed) {
  append("corpus.jsonl", "{\"_id\": \"d1\", \"text\": \"\"}\n");
  EXPECT_THAT(refusal(), HasSubstr("corpus.jsonl:3: the id 'd1' is used twice"));
}

TEST_F(BeirTest, BrokenDocumentsAreNamed) {
  append("corpus.jsonl", "{\"_id\": \"d1\"\n");
  EXPECT_THAT(refusal(), HasSubstr("corpus.jsonl:3"));
}

TEST_F(BeirTest, DocumentsWithoutTextAreNamed) {
  append("queries.jsonl", "{\"_id\": \"q7\"}\n");
  EXPECT_THAT(refusal(), HasSubstr("queries.jsonl:2: the key 'text' is missing"));
}

TEST_F(BeirTest, MissingFiles) {
  std::filesystem::remove(folder_ / "queries.jsonl");
  EXPECT_THAT(message_of<IoError>([&] { (void)read_beir(folder_); }), HasSubstr("queries.jsonl"));
}

TEST(TrecRun, RoundTripAndBadRows) {
  const test::TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "run.txt";
  write_trec_run(path, {{"q1", {{"d2", 0.5}, {"d1", -1.25}}}}, "bitrain");
  const RetrievalRun run = read_trec_run(path);
  ASSERT_EQ(run.at("q1").size(), 2U);
  EXPECT_EQ(run.at("q1")[0].document, "d2");
  EXPECT_DOUBLE_EQ(run.at("q1")[1].score, -1.25);
  std::ofstream(path, std::ios::app) << "q1 Q0 d3 1 9 t\n";
  EXPECT_EQ(read_trec_run(path).at("q1")[0].document, "d3");  // By score.
  std::ofstream(path, std::ios::app) << "q1 Q0 d3 1 8 t\n";
  EXPECT_THAT(message_of<DataError>([&] { (void)read_trec_run(path); }),
              HasSubstr("run.txt:4: 'd3' is found twice"));
  std::ofstream(path) << "q1 Q0 d3 1 high t\n";
  EXPECT_THAT(message_of<DataError>([&] { (void)read_trec_run(path); }), HasSubstr("run.txt:1"));
}

TEST(RetrievalMetrics, RefuseADocumentFoundTwiceAndCutoffsBelowOne) {
  const Qrels qrels = {{"q", {{"d", 1}}}};
  EXPECT_THROW((void)evaluate_run({{"q", {{"d", 2.0}, {"d", 1.0}}}}, qrels), DataError);
  EXPECT_THROW((void)evaluate_run({{"q", {{"d", 2.0}}}}, qrels, {10, 0}), ConfigError);
}

}  // namespace
}  // namespace bitrain::eval
