#include <bitrain/eval/query_fusion.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <vector>

#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <eval/random_rows.h>
#include <support/temporary_directory.h>

namespace bitrain::eval {
namespace {

using ::testing::HasSubstr;

at::Tensor ids(const std::vector<std::int64_t>& rows) {
  return at::tensor(rows);
}

TEST(QueryFusion, IsItsFormula) {
  const at::Tensor passages = draw(4, 8, "passages");
  const at::Tensor queries = draw(5, 8, "queries");
  const at::Tensor fused = fuse_queries(passages, queries, ids({3, 0, 3, 1, 3}), {.weight = 0.2});
  EXPECT_LT(distance(fused[0], 0.8 * passages[0] + 0.2 * queries[1]), 1e-6);
  EXPECT_LT(distance(fused[1], 0.8 * passages[1] + 0.2 * queries[3]), 1e-6);
  EXPECT_LT(distance(fused[2], 0.8 * passages[2]), 1e-6);  // No queries.
  EXPECT_LT(distance(fused[3], 0.8 * passages[3] + 0.2 * (queries[0] + queries[2] + queries[4])), 1e-6);
}

TEST(QueryFusion, OfWeightZeroIsTheIdentity) {
  const at::Tensor passages = draw(50, 8, "passages");
  const at::Tensor queries = draw(50, 8, "queries");
  std::vector<std::int64_t> owners;
  for (std::int64_t i = 0; i < 50; ++i) owners.push_back(i * 7 % 50);
  const at::Tensor before = passages.clone();
  EXPECT_TRUE(fuse_queries(passages, queries, ids(owners), {.weight = 0}).equal(passages));
  (void)fuse_queries(passages, queries, ids(owners));
  EXPECT_TRUE(passages.equal(before));
}

TEST(QueryFusion, CommutesWithDotProducts) {
  const at::Tensor passages = draw(20, 32, "passages");
  const at::Tensor queries = draw(700, 32, "queries");  // 35 a passage, as the paper has.
  std::vector<std::int64_t> owners;
  for (std::int64_t i = 0; i < 700; ++i) owners.push_back(i % 20);
  const at::Tensor asked = draw(9, 32, "asked");
  const at::Tensor of_fused = at::matmul(asked, fuse_queries(passages, queries, ids(owners)).t());
  const at::Tensor of_queries = at::matmul(asked, queries.t()).view({9, 35, 20}).sum(1);
  EXPECT_LT(distance(of_fused, 0.99 * at::matmul(asked, passages.t()) + 0.01 * of_queries), 1e-4);
}

TEST(GeneratedQueries, BelongToTheirDocumentsInAnyOrder) {
  const test::TemporaryDirectory directory;
  const std::vector<Document> corpus = {{"a", "", "one"}, {"b", "", "two"}, {"c", "", "three"}};
  const auto path = directory.path() / "queries.jsonl";
  const auto read = [&](const std::string& rows) {
    std::ofstream(path) << rows;
    return read_generated_queries(path, corpus);
  };
  const GeneratedQueries queries = read(
      "{\"document\": \"c\", \"query\": \"drei\"}\n\n{\"query\": \"eins\", \"document\": \"a\"}\n"
      "{\"document\": \"c\", \"query\": \"tres\"}\n");
  EXPECT_THAT(queries.texts, ::testing::ElementsAre("drei", "eins", "tres"));
  EXPECT_TRUE(queries.owners.equal(ids({2, 0, 2})));
  const auto problem = [&](const std::string& rows) {
    return message_of<DataError>([&] { (void)read(rows); });
  };
  const std::string good = "{\"document\": \"a\", \"query\": \"x\"}\n";
  EXPECT_THAT(problem(good + "{\"document\": \"d\", \"query\": \"x\"}\n"),
              ::testing::AllOf(HasSubstr("queries.jsonl:2"), HasSubstr("'d' is not in the corpus")));
  EXPECT_THAT(problem(good + "{\"document\": \"a\"}\n"),
              HasSubstr("queries.jsonl:2: the key 'query' is missing"));
  EXPECT_THAT(problem("{\"document\": \"a\", \"query\": \" \"}\n"), HasSubstr("empty"));
  EXPECT_THAT(problem("[]\n"), HasSubstr("not a JSON object"));
  EXPECT_THAT(problem("\n"), HasSubstr("there are no queries"));
  EXPECT_THROW((void)read("{\"document\"\n"), FormatError);
  EXPECT_THROW((void)read_generated_queries(directory.path() / "none.jsonl", corpus), IoError);
}

TEST(QueryFusion, RefusesWhatDoesNotFit) {
  const at::Tensor passages = draw(3, 4, "passages");
  const at::Tensor queries = draw(2, 4, "queries");
  EXPECT_THROW((void)fuse_queries(passages, draw(2, 5, "wide"), ids({0, 1})), StateError);
  EXPECT_THROW((void)fuse_queries(passages, queries, ids({0})), StateError);
  EXPECT_THROW((void)fuse_queries(passages, queries, ids({0, 1}).to(at::kInt)), StateError);
  EXPECT_THROW((void)fuse_queries(passages.to(at::kDouble), queries, ids({0, 1})), StateError);
  EXPECT_THROW((void)fuse_queries(passages.narrow(0, 0, 0), queries, ids({0, 1})), DataError);
  EXPECT_THROW((void)fuse_queries(passages, queries.narrow(0, 0, 0), ids({})), DataError);
  EXPECT_THROW((void)fuse_queries(passages, queries, ids({0, 1}), {.weight = 1.5}), ConfigError);
  EXPECT_THROW((void)fuse_queries(passages, queries, ids({0, 1}), {.weight = std::nan("")}), ConfigError);
  EXPECT_THAT(message_of<DataError>([&] {
                (void)fuse_queries(passages, queries, ids({0, 3}));
              }),
              HasSubstr("owners 0 to 3 of 3 passages"));
  EXPECT_THROW((void)fuse_queries(passages, queries, ids({-1, 0})), DataError);
  at::Tensor broken = queries.clone();
  broken[1][2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message_of<DataError>([&] {
                (void)fuse_queries(passages, broken, ids({0, 1}));
              }),
              HasSubstr("the queries have NaN"));
}

}  // namespace
}  // namespace bitrain::eval
