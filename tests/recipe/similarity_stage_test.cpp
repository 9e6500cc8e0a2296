#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/search_means.h>
#include <bitrain/recipe/validate.h>
#include <bitrain/text/hf_tokenizer.h>

#include "recipe/several_ranks.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"

namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// A sentence encoder of 26 letters, and scored pairs: IndicSBERT's second step in miniature.
class SimilarityRun : public ::testing::Test {
 protected:
  void SetUp() override {
    write_base();
    write_pairs("train.jsonl", 0, 60);
    write_pairs("test.jsonl", 60, 90);
    std::ofstream(directory_.path() / "recipe.yaml") << R"(schema: 1
name: tiny_similarity
threads: 1
dtype: float32
source: {language: en}
target: {language: es}
stages:
  before: {recipe: evaluate_similarity, from: base, files: [{path: test.jsonl, name: en}]}
  sts:
    recipe: similarity
    from: base
    files: [{path: train.jsonl}]
    loader: {rows_per_step: 16, micro_batch_rows: 5}
    train: {max_steps: 60, learning_rate: 5e-3, schedule: {warmup_steps: 4}}
  after: {recipe: evaluate_similarity, files: [{path: test.jsonl, name: en}, {path: test.jsonl, pair_language: es}]}
claims:
  - {says: "scored pairs help", that: after/similarity/en/spearman, above: before/similarity/en/spearman}
)";
  }

  /// Three words of which some are shared: the score is 5/3 of their number. The words are few and the
  /// encoder knows none of them.
  void write_pairs(const std::string& name, int first, int last) const {
    std::ofstream file(directory_.path() / name);
    const std::vector<std::string> words = {"kiwi", "fox", "lamp", "moon", "crab", "jet", "wolf", "yarn"};
    for (int i = first; i < last; ++i) {
      const int shared = i % 4;
      std::string text;
      std::string pair;
      for (int slot = 0; slot < 3; ++slot) {
        const int word = (i + slot * 3) % 8;
        text += words[static_cast<std::size_t>(word)] + " ";
        pair += words[static_cast<std::size_t>(slot < shared ? word : (word + 1 + i % 3) % 8)] + " ";
      }
      file << R"({"text": ")" << text << R"(.", "pair": ")" << pair << R"(!", "score": )" << shared * 5 / 3.0
           << "}\n";
    }
  }

  void write_base() const {
    const fs::path folder = directory_.path() / "vocabulary";
    fs::create_directories(folder);
    std::ofstream vocabulary(folder / "vocab.txt");
    for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "!"})
      vocabulary << special << "\n";
    for (char c = 'a'; c <= 'z'; ++c) vocabulary << c << "\n##" << c << "\n";
    vocabulary.close();
    std::ofstream(folder / "tokenizer_config.json") << R"({"tokenizer_class": "BertTokenizer"})";
    const auto tokenizer = text::open_hf_tokenizer(folder);
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    models::SentenceEncoder model(testing::tiny_bert(at::kFloat, config), {{nn::Pooling::kMean}, true});
    hub::save_sentence_encoder(directory_.path() / "base", model, tokenizer.get(), {});
  }

  [[nodiscard]] std::vector<std::string> with_folders(std::vector<std::string> overrides) const {
    overrides.push_back("dir=" + (directory_.path() / "run").string());
    overrides.push_back("base=" + (directory_.path() / "base").string());
    return overrides;
  }
  [[nodiscard]] RunResult run_with(const std::vector<std::string>& overrides = {}) const {
    return run(load_recipe(directory_.path() / "recipe.yaml", with_folders(overrides)));
  }
  /// What `validate` or the run says.
  [[nodiscard]] std::string problems_with(const std::vector<std::string>& overrides) const {
    try {
      validate(directory_.path() / "recipe.yaml", with_folders(overrides)).problems.raise();
      (void)run_with(overrides);
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_.path() / name) << text;
  }

  test::TemporaryDirectory directory_;
};

TEST_F(SimilarityRun, LearnsScores) {
  const RunResult result = run_with();
  const io::Json& stages = result.summary["stages"];
  const auto before = stages["before"]["similarity"]["en"]["spearman"].get<double>();
  const auto after = stages["after"]["similarity"]["en"]["spearman"].get<double>();
  EXPECT_EQ(stages["before"]["similarity"]["en"]["pairs"], 30);
  EXPECT_GT(after, before + 0.1);
  EXPECT_GT(after, 0.8);
  EXPECT_EQ(stages["after"]["similarity"]["test"]["spearman"], after);
  EXPECT_NEAR(stages["after"]["mean"]["spearman"].get<double>(), after, 1e-12);
  EXPECT_EQ(stages["after"]["tables"][0]["rows"].size(), 3U);
  EXPECT_EQ(stages["sts"]["steps"], 60);
  EXPECT_TRUE(result.summary["claims"][0]["held"].get<bool>());
  EXPECT_NO_THROW((void)hub::open_sentence_encoder(directory_.path() / "run" / "sts"));
}

TEST_F(SimilarityRun, BadScoresAndTextsAreNamed) {
  const std::string good = R"({"text": "kiwi", "pair": "fox", "score": 1})"
                           "\n";
  write("missing.jsonl", good + R"({"text": "kiwi", "pair": "fox"})");
  write("high.jsonl", good + R"({"text": "kiwi", "pair": "fox", "score": 7.5})");
  write("same.jsonl", R"({"text": "kiwi", "pair": "kiwi", "score": 1})");
  write("empty.jsonl", R"({"text": "", "pair": "fox", "score": 1})");
  const auto training_on = [&](const std::string& file) {
    return problems_with({"stages.sts.files=[{path: " + (directory_.path() / file).string() + "}]"});
  };
  EXPECT_THAT(training_on("missing.jsonl"),
              AllOf(HasSubstr("missing.jsonl:2"), HasSubstr("'score' is missing or not a number")));
  EXPECT_THAT(training_on("high.jsonl"),
              AllOf(HasSubstr("high.jsonl:2"), HasSubstr("score 7.5 is not between 0 and 5")));
  // Nothing else to learn from: the loader says so instead of turning for ever.
  EXPECT_THAT(training_on("same.jsonl"), HasSubstr("same"));
  EXPECT_THAT(training_on("empty.jsonl"), HasSubstr("empty"));
}

TEST_F(SimilarityRun, CorrelationsThatAreNotDefinedAreErrors) {
  const auto scoring = [&](const std::string& rows) {
    write("set.jsonl", rows);
    return problems_with({"stages={s: {recipe: evaluate_similarity, from: base, files: [{path: " +
                              (directory_.path() / "set.jsonl").string() + ", name: odd}]}}",
                          "claims=[]"});
  };
  EXPECT_THAT(scoring(R"({"text": "kiwi", "pair": "fox", "score": 1})"
                      "\n"
                      R"({"text": "kiwi", "pair": "fox", "score": 2})"
                      "\n"),
              AllOf(HasSubstr("odd"), HasSubstr("all 2 rows are equal")));
  EXPECT_THAT(scoring(R"({"text": "kiwi", "pair": "fox", "score": 1})"
                      "\n"
                      R"({"text": "moon", "pair": "jet", "score": 1})"
                      "\n"),
              AllOf(HasSubstr("odd"), HasSubstr("all values of one side are equal")));
  EXPECT_THAT(scoring(R"({"text": "kiwi", "pair": "fox", "score": 1})"
                      "\n"),
              AllOf(HasSubstr("odd"), HasSubstr("at least two")));
}

TEST_F(SimilarityRun, ProblemsAreNamedBeforeAnythingRuns) {
  EXPECT_THAT(problems_with({"stages.sts.files=[]"}), HasSubstr("there are no scored pairs"));
  EXPECT_THAT(problems_with({"stages.sts.files=[{path: none.jsonl}]"}),
              HasSubstr("there is no file none.jsonl"));
  EXPECT_THAT(problems_with({"stages.after.files=[{path: a/x.jsonl}, {path: b/x.jsonl}]"}),
              HasSubstr("two are called 'x'"));
  EXPECT_THAT(problems_with({"stages.sts.loader.packing=cut"}), HasSubstr("pairs need packing whole"));
  EXPECT_THAT(problems_with({"stages.sts.train.max_steps=0"}), HasSubstr("set max_steps"));
  EXPECT_THAT(problems_with({"stages.sts.train.eval_every=3"}),
              HasSubstr("put a stage evaluate_similarity behind it"));
  EXPECT_THAT(problems_with({"stages.sts.loader.mixture.weights.trian=1"}), HasSubstr("no source 'trian'"));
}

TEST(SearchMeans, AreOverAllSetsOfSystemsThatSearchedThem) {
  io::Json result;
  const auto figures = [](double value) {
    return io::Json{{"ndcg@10", value}, {"mrr@10", 2 * value}, {"accuracy@1", 0}, {"recall@100", 1}};
  };
  result["search"]["a"] = {{"queries", 3}, {"bm25", figures(0.2)}, {"encoder", figures(0.3)}};
  add_search_means(result);
  EXPECT_FALSE(result.contains("mean"));  // One set is its own mean.
  result["search"]["b"] = {{"queries", 9}, {"bm25", figures(0.4)}};
  add_search_means(result);
  EXPECT_NEAR(result["mean"]["bm25"]["ndcg@10"].get<double>(), 0.3, 1e-12);
  EXPECT_NEAR(result["mean"]["bm25"]["mrr@10"].get<double>(), 0.6, 1e-12);
  EXPECT_FALSE(result["mean"].contains("encoder"));
  ASSERT_EQ(result["tables"].size(), 1U);
  EXPECT_EQ(result["tables"][0]["rows"][0][0], "bm25");
}

TEST_F(SimilarityRun, SeveralRanksAreTheSameRun) {
  expect_same_on_three_ranks(directory_.path() / "recipe.yaml",
                             with_folders({"stages.sts.train.max_steps=6", "stages.sts.dropout=0.1"}),
                             directory_.path() / "ranks", {"sts"});
}

}  // namespace
}  // namespace bitrain::recipe
