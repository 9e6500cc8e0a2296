#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/late_interaction_dir.h>
#include <bitrain/io/json.h>
#include <bitrain/models/bert/config.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/validate.h>

#include "recipe/several_ranks.h"
#include "support/letter_tokenizer.h"
#include "support/temporary_directory.h"
#include "support/tiny_bert.h"

namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// ColBERT-XM in miniature: adapters for two languages, training on English queries alone, search in both.
class LateInteractionRun : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto tokenizer = test::letter_tokenizer();
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    const auto encoder = testing::tiny_bert(at::kFloat, config);
    hub::save_encoder(path("base"), *encoder, tokenizer.get());
    std::ofstream lines(path("lines.tsv"));
    for (int i = 0; i < 40; ++i) lines << i << "\tcat " << word(i) << "\tgato " << word(i) << "\n";
    lines.close();
    std::ofstream pairs(path("hard.jsonl"));
    for (int i = 0; i < 40; ++i)
      pairs << R"({"query": "cat )" << word(i) << R"(", "positive": "has )" << word(i)
            << R"(.", "negatives": ["has )" << word(i + 1) << R"(."]})"
            << "\n";
    pairs.close();
    write_set("en", "cat ", "has ");
    write_set("es", "gato ", "tiene ");
    std::ofstream(path("recipe.yaml")) << R"(schema: 1
name: tiny_colbert
threads: 1
dtype: float32
source: {path: lines.tsv, format: tsv, column: 2, language: en}
target: {path: lines.tsv, format: tsv, column: 3, language: es}
held_out: {every: 10}
stages:
  xmod: {recipe: language_adapters, from: base, reduction_factor: 4}
  untrained: {recipe: late_interaction, from: xmod, dimension: 8, model: {query_length: 16, document_length: 30}}
  train:
    recipe: late_interaction
    from: untrained
    files: [{path: hard.jsonl, language: en, pair_language: en}]
    freeze: [word_embeddings, adapter_modules]
    loader: {rows_per_step: 8, micro_batch_rows: 3}
    dropout: 0
    train: {max_steps: 80, learning_rate: 3e-3, schedule: {warmup_steps: 4}}
  search:
    recipe: evaluate_retrieval
    from: train
    depth: 5
    collections: [{path: en, query_language: en, language: en}, {path: es, query_language: es, language: es}]
)";
  }

  static std::string word(int i) {
    return std::string() + static_cast<char>('a' + i % 7) + static_cast<char>('a' + (i / 7 * 5) % 26) +
           static_cast<char>('a' + (i * 3) % 26);
  }
  void write_set(const std::string& name, const std::string& query, const std::string& document) const {
    eval::RetrievalSet set;
    for (int i = 50; i < 70; ++i) {
      set.corpus.push_back({"d" + std::to_string(i), "", document + word(i) + "."});
      set.queries.push_back({"q" + std::to_string(i), "", query + word(i)});
      set.qrels["q" + std::to_string(i)]["d" + std::to_string(i)] = 1;
    }
    eval::write_beir(path(name), set);
  }
  [[nodiscard]] fs::path path(const std::string& name) const { return directory_.path() / name; }
  [[nodiscard]] fs::path dir() const { return path("run"); }
  [[nodiscard]] std::vector<std::string> with_folders(std::vector<std::string> overrides) const {
    overrides.insert(overrides.begin(), {"dir=" + dir().string(), "base=" + path("base").string()});
    return overrides;
  }
  [[nodiscard]] RunResult run_with(const std::vector<std::string>& overrides = {}) const {
    return run(load_recipe(path("recipe.yaml"), with_folders(overrides)));
  }
  [[nodiscard]] std::string problems_with(const std::vector<std::string>& overrides) const {
    Validation validation = validate(path("recipe.yaml"), with_folders(overrides));
    try {
      validation.problems.raise();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }

  test::TemporaryDirectory directory_;
};

TEST_F(LateInteractionRun, TrainsInOneLanguageAndSearchesInBoth) {
  const RunResult result = run_with();
  const io::Json& stages = result.summary["stages"];
  EXPECT_EQ(stages["xmod"]["languages"], io::Json::array({"en", "es"}));
  EXPECT_EQ(stages["xmod"]["added_parameters"], 2 * 2 * (16 * 4 + 4 + 4 * 16 + 16) + 16)
      << "two maps for two languages in two layers, and a row before the first position";
  EXPECT_EQ(stages["untrained"]["dimension"], 8);
  EXPECT_FALSE(stages["untrained"].contains("steps"));
  EXPECT_EQ(stages["train"]["steps"], 80);
  EXPECT_GT(stages["train"]["curve"]["loss"].front().get<double>(),
            2 * stages["train"]["curve"]["loss"].back().get<double>());
  for (const char* set : {"en", "es"}) {
    const io::Json& found = stages["search"]["search"][set];
    for (const char* system : {"bm25", "late_interaction"})
      EXPECT_GE(found[system]["ndcg@10"].get<double>(), 0) << system;
    EXPECT_FALSE(found.contains("encoder"));
    EXPECT_GT(found["index"]["vectors"].get<std::int64_t>(), 20 * 5);
    EXPECT_GT(found["index"]["bytes"].get<std::int64_t>(),
              found["index"]["vectors"].get<std::int64_t>() * 16);
    EXPECT_TRUE(fs::exists(dir() / "search" / (std::string(set) + ".late_interaction.trec")));
  }
  EXPECT_GT(stages["search"]["search"]["en"]["late_interaction"]["accuracy@1"].get<double>(), 0.5);

  // What is frozen is as it was; the shared layers and the projection learned.
  const auto weights = [&](const char* folder) {
    const hub::OpenedLateInteraction opened = hub::open_late_interaction(dir() / folder);
    std::map<std::string, at::Tensor> all;
    opened.model->visit_tensors([&](const std::string& name, at::Tensor& tensor) { all[name] = tensor; });
    return all;
  };
  const auto before = weights("untrained");
  for (const auto& [name, now] : weights("train")) {
    const bool frozen = name.find("word_embeddings") != std::string::npos ||
                        name.find("adapter_modules") != std::string::npos;
    EXPECT_EQ(at::equal(now, before.at(name)), frozen) << name;
  }
  EXPECT_EQ(run_with().summary["stages"], result.summary["stages"]) << "nothing is done again";
}

TEST_F(LateInteractionRun, MicroBatchesDoNotChangeTraining) {
  const auto losses_with = [&](const std::string& folder, const std::string& rows) {
    const RunResult result =
        run_with({"dir=" + path(folder).string(), "stages.train.train.max_steps=3",
                  "stages.train.train.schedule.warmup_steps=0", "stages.train.dropout=0.1",
                  "stages.train.loader.micro_batch_rows=" + rows});
    return result.summary["stages"]["train"]["curve"]["loss"].get<std::vector<double>>();
  };
  const std::vector<double> parts = losses_with("parts", "3");
  const std::vector<double> whole = losses_with("whole", "0");
  ASSERT_EQ(parts.size(), 3U);
  for (std::size_t i = 0; i < parts.size(); ++i) EXPECT_NEAR(parts[i], whole[i], 1e-3) << i;
}

TEST_F(LateInteractionRun, LanguagesWithoutAdapterAreNamed) {
  EXPECT_THAT([&] { (void)run_with({"stages.search.collections=[{path: en, language: fr}]"}); },
              ThrowsMessage<Error>(AllOf(HasSubstr("language 'fr' has no adapter"), HasSubstr("en, es"))));
  EXPECT_THAT(
      [&] {
        (void)run_with({"dir=" + path("other").string(),
                        "stages.train.files=[{path: hard.jsonl, language: en, pair_language: fr}]"});
      },
      ThrowsMessage<Error>(HasSubstr("language 'fr' has no adapter")));
}

TEST_F(LateInteractionRun, IndexesThatDoNotFitAreRefused) {
  EXPECT_THAT(
      [&] {
        (void)run_with({"stages.train.train.max_steps=1", "stages.train.train.schedule.warmup_steps=0",
                        "stages.search.index.max_gib=1e-6"});
      },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("above max_gib"), HasSubstr("storage int8"))));
}

TEST_F(LateInteractionRun, AnEncoderWithoutProjectionIsSearchedByItsEmbeddings) {
  const RunResult result =
      run_with({"stages={search: {recipe: evaluate_retrieval, from: base, collections: [{path: en, "
                "language: en}]}}"});
  const io::Json& found = result.summary["stages"]["search"]["search"]["en"];
  EXPECT_TRUE(found.contains("encoder"));
  EXPECT_FALSE(found.contains("late_interaction"));
}

TEST_F(LateInteractionRun, AnXmodDoesNotGetAdaptersTwice) {
  EXPECT_THAT(
      [&] {
        (void)run_with(
            {"stages={a: {recipe: language_adapters, from: base}, b: {recipe: language_adapters}}"});
      },
      ThrowsMessage<Error>(HasSubstr("it has adapters for en, es already")));
}

TEST_F(LateInteractionRun, ProblemsAreNamedBeforeAnythingRuns) {
  EXPECT_EQ(problems_with({}), "none");
  EXPECT_THAT(problems_with({"stages.train.files=[]"}), HasSubstr("name files, or set max_steps: 0"));
  EXPECT_THAT(problems_with({"stages.train.files=[{path: none.jsonl}]"}),
              HasSubstr("there is no file none.jsonl"));
  EXPECT_THAT(problems_with({"stages.train.loader.packing=cut"}), HasSubstr("need packing whole"));
  EXPECT_THAT(problems_with({"stages.train.loader.rows_per_step=1", "stages.train.objective.negatives=0"}),
              HasSubstr("nothing to be told from"));
  EXPECT_THAT(problems_with({"stages.train.train.eval_every=5"}),
              HasSubstr("put a stage evaluate_retrieval behind it"));
  EXPECT_THAT(problems_with({"stages.train.loader.mixture.weights.source=1"}),
              HasSubstr("there is no source"));
}

TEST_F(LateInteractionRun, SeveralRanksAreTheSameRun) {
  expect_same_on_three_ranks(path("recipe.yaml"),
                             with_folders({"stages.train.train.max_steps=6", "stages.train.dropout=0.1",
                                           "stages.train.train.schedule.warmup_steps=1"}),
                             path("ranks"), {"train"});
}

}  // namespace
}  // namespace bitrain::recipe
