#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/run.h>
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
using ::testing::ThrowsMessage;

std::string name_of_number(int i) {
  return {static_cast<char>('a' + i % 26), static_cast<char>('a' + i / 26)};
}

/// Of every name there are two texts, "no NAME" and "yes NAME", and the latter answers "is NAME": by words
/// they are alike. T2Ranking's and BEIR-PL's recipe in miniature: negatives by words, a dual encoder, its
/// negatives, another, a cross-encoder.
class RerankingRun : public ::testing::Test {
 protected:
  static constexpr int kNames = 60;
  static constexpr int kTrained = 40;

  void SetUp() override {
    write_base();
    eval::RetrievalSet set;
    std::ofstream pairs(path("pairs.jsonl"));
    for (int i = 0; i < kNames; ++i) {
      const std::string name = name_of_number(i);
      set.corpus.push_back({"no-" + name, "", "no " + name});
      set.corpus.push_back({"yes-" + name, "yes", name});
      if (i < kTrained) {
        pairs << io::Json{{"query", "is " + name}, {"positive", "yes " + name}}.dump() << "\n";
      } else {
        set.queries.push_back({"q-" + name, "", "is " + name});
        set.qrels["q-" + name]["yes-" + name] = 1;
      }
    }
    set.corpus.push_back({"empty", "", ""});  // Found by nobody, mined by nobody.
    eval::write_beir(path("set"), set);
    std::ofstream(path("recipe.yaml")) << R"(schema: 1
name: reranking
threads: 1
dtype: float32
source: {language: en}
target: {language: es}
stages:
  words:
    recipe: mine_negatives
    from: base
    pairs: {path: pairs.jsonl}
    corpus: set/corpus.jsonl
    bm25: true
    mining: {negatives: 2, fill: true}
  dual:
    recipe: contrastive
    from: base
    pairs: false
    files: [{stage: words}]
    loader: {rows_per_step: 8}
    train: {max_steps: 4, learning_rate: 1e-3}
  mine:
    recipe: mine_negatives
    from: dual
    pairs: {stage: words}
    corpus: set/corpus.jsonl
    mining: {negatives: 3, rank_to: 20}
  cross:
    recipe: cross_encoder
    from: dual
    files: [{stage: words}, {stage: mine}]
    objective: {max_length: 16}
    loader: {rows_per_step: 8, micro_batch_rows: 3}
    train: {max_steps: 60, learning_rate: 1e-2, schedule: {warmup_steps: 5}}
  search:
    recipe: evaluate_retrieval
    from: dual
    encoder: false
    rerank: cross
    rerank_depth: 2
    collections: [{path: set}]
)";
  }

  void write_base() const {
    fs::create_directories(path("vocabulary"));
    std::ofstream vocabulary(path("vocabulary/vocab.txt"));
    for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "is"})
      vocabulary << special << "\n";
    for (char c = 'a'; c <= 'z'; ++c) vocabulary << c << "\n##" << c << "\n";
    vocabulary.close();
    std::ofstream(path("vocabulary/tokenizer_config.json")) << R"({"tokenizer_class": "BertTokenizer"})";
    const auto tokenizer = text::open_hf_tokenizer(path("vocabulary"));
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    models::SentenceEncoder model(testing::tiny_bert(at::kFloat, config), {{nn::Pooling::kMean}, true});
    hub::save_sentence_encoder(path("base"), model, tokenizer.get(), {});
  }

  [[nodiscard]] fs::path path(const std::string& name) const { return directory_.path() / name; }
  [[nodiscard]] Recipe recipe_with(std::vector<std::string> overrides) const {
    overrides.push_back("dir=" + path("run").string());
    overrides.push_back("base=" + path("base").string());
    return load_recipe(path("recipe.yaml"), overrides);
  }
  [[nodiscard]] io::Json stages_of_run(const std::vector<std::string>& overrides = {}) const {
    return run(recipe_with(overrides)).summary["stages"];
  }
  [[nodiscard]] std::string problems_with(std::vector<std::string> overrides) const {
    overrides.push_back("dir=" + path("run").string());
    overrides.push_back("base=" + path("base").string());
    Validation validation = validate(path("recipe.yaml"), overrides);
    try {
      validation.problems.raise();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }

  test::TemporaryDirectory directory_;
};

TEST_F(RerankingRun, FromNegativesByWordsToACrossEncoderThatKnowsBetter) {
  const io::Json stages = stages_of_run();
  EXPECT_EQ(stages["words"]["pairs"], kTrained);
  EXPECT_EQ(stages["words"]["negatives"], 2 * kTrained);  // One by its words, one drawn.
  EXPECT_EQ(stages["words"]["candidates"], 2 * kNames);
  EXPECT_EQ(stages["mine"]["negatives"], 3 * kTrained);
  EXPECT_EQ(stages["cross"]["shares"].size(), 2U);
  EXPECT_LT(stages["cross"]["curve"]["loss"].back().get<double>(),
            0.3 * stages["cross"]["curve"]["loss"].front().get<double>());
  // Names that nobody trained on: by words the wrong text comes first, read beside the query the right one.
  const io::Json& found = stages["search"]["search"]["set"];
  EXPECT_EQ(found["queries"], kNames - kTrained);
  EXPECT_EQ(found["bm25"]["accuracy@1"], 0.0);
  EXPECT_EQ(found["bm25"]["mrr@10"], 0.5);
  EXPECT_GT(found["reranked"]["accuracy@1"].get<double>(), 0.9);
  EXPECT_EQ(found["reranked"]["recall@50"], found["bm25"]["recall@50"]);
  EXPECT_TRUE(fs::exists(path("run/search/set.reranked.trec")));
  EXPECT_THAT(io::read_file(path("run/report.html")), HasSubstr("search, reranked"));
  EXPECT_NO_THROW((void)hub::open_cross_encoder(path("run/cross")));
  const io::Json row = io::parse_json(
      [&] {
        const std::string text = io::read_file(path("run/words/mined.jsonl"));
        return text.substr(0, text.find('\n'));
      }(),
      "mined.jsonl");
  EXPECT_EQ(row["query"], "is aa");
  EXPECT_EQ(row["positive"], "yes aa");
  EXPECT_EQ(row["negatives"][0], "no aa");
  EXPECT_EQ(stages_of_run(), stages);  // Nothing is done again.
}

TEST_F(RerankingRun, AStageIsDoneAgainWhenAFileItReadsIsMinedAnew) {
  const std::vector<std::string> shortened = {"stages.cross.train.max_steps=8",
                                              "stages.dual.train.max_steps=1"};
  const io::Json before = stages_of_run(shortened);
  std::vector<std::string> other = shortened;
  other.emplace_back("stages.mine.mining.negatives=1");
  const io::Json after = stages_of_run(other);
  EXPECT_EQ(after["dual"], before["dual"]);
  EXPECT_EQ(after["mine"]["negatives"], kTrained);
  EXPECT_NE(after["cross"]["curve"]["loss"], before["cross"]["curve"]["loss"]);
  EXPECT_NE(after["search"]["seconds"], before["search"]["seconds"]);
}

TEST_F(RerankingRun, AQueryWithoutNegativesStopsTheRunAndIsNamed) {
  // No text has a word of the query: BM25 finds nothing, and nothing is drawn.
  std::ofstream(path("pairs.jsonl"), std::ios::app) << R"({"query": "zz zz", "positive": "yes bb"})"
                                                    << "\n";
  EXPECT_THAT([&] { (void)stages_of_run({"stages.words.mining.fill=false"}); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("stage cross"), HasSubstr("mined.jsonl:41"),
                                             HasSubstr("has no negatives"))));
}

TEST_F(RerankingRun, ProblemsAreNamedBeforeAnythingRuns) {
  EXPECT_EQ(problems_with({}), "none");
  EXPECT_THAT(problems_with({"stages.cross.files=[{stage: mined}]"}),
              AllOf(HasSubstr("no earlier stage is called 'mined'"), HasSubstr("mine")));
  EXPECT_THAT(
      problems_with({"stages.cross.files=[{stage: dual}]"}),
      HasSubstr("which leaves a sentence encoder; wanted is hard negatives: there is 'words', 'mine'"));
  EXPECT_THAT(problems_with({"stages.cross.files=[{stage: mine, path: pairs.jsonl}]"}),
              HasSubstr("either a path or a stage"));
  EXPECT_THAT(problems_with({"stages.dual.files=[{language: en}]"}), HasSubstr("either a path or a stage"));
  EXPECT_THAT(problems_with({"stages.cross.files=[]"}), HasSubstr("none to learn from"));
  EXPECT_THAT(problems_with({"stages.cross.files=[{path: none.jsonl}]"}),
              HasSubstr("there is no file none.jsonl"));
  EXPECT_THAT(problems_with({"stages.words.pairs={path: none.jsonl}", "stages.words.corpus=none"}),
              AllOf(HasSubstr("there is no file none.jsonl"), HasSubstr("there is no file none")));
  EXPECT_THAT(problems_with({"stages.words.mining.rank_to=1"}), HasSubstr("hold fewer candidates"));
  EXPECT_THAT(problems_with({"stages.search.rerank=dual"}),
              HasSubstr("which leaves a sentence encoder; wanted is a cross-encoder: there is 'cross'"));
  EXPECT_THAT(problems_with({"stages.cross.loader.packing=cut"}), HasSubstr("need packing whole"));
  EXPECT_THAT(problems_with({"stages.cross.loader.mixture.weights.pairs=1"}),
              HasSubstr("there is no source 'pairs'"));
  EXPECT_THAT(problems_with({"stages.cross.train.max_steps=0"}), HasSubstr("set max_steps"));
}

TEST_F(RerankingRun, SeveralRanksAreTheSameRun) {
  expect_same_on_three_ranks(path("recipe.yaml"),
                             {"base=" + path("base").string(), "stages.dual.train.max_steps=4",
                              "stages.dual.train.schedule.warmup_steps=1", "stages.cross.train.max_steps=6"},
                             path("ranks"), {"dual", "cross"});
}

}  // namespace
}  // namespace bitrain::recipe
