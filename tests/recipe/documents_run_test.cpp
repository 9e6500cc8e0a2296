#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/encode_documents.h>
#include <bitrain/hub/document_encoder.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/memory_plan.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/validate.h>

#include "recipe/several_ranks.h"
#include "support/letters_encoder.h"
#include "support/temporary_directory.h"

// Stages that read documents of consecutive lines: context_prediction (CCP), document_encoder (HMDE),
// calibration.
namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Forty documents of four lines each, in two languages, and a tiny encoder of letters.
class DocumentsRun : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_letters_encoder(directory_.path() / "base");
    std::ofstream pairs(directory_.path() / "pairs.tsv");
    for (int document = 0; document < 40; ++document) {
      const std::string name = {static_cast<char>('a' + document % 26),
                                static_cast<char>('a' + document / 2)};
      for (int line = 0; line < 4; ++line) {
        const std::string word(2, static_cast<char>('p' + line));
        pairs << "x\t" << name << " saw " << word << "\t" << word << " vio " << name << "\n";
      }
    }
    pairs.close();
    std::ofstream(directory_.path() / "recipe.yaml") << R"(schema: 1
name: documents
threads: 1
dtype: float32
source: {path: pairs.tsv, format: tsv, column: 2, language: en}
target: {path: pairs.tsv, format: tsv, column: 3, language: es}
held_out: {last: 32}
stages:
  context:
    recipe: context_prediction
    from: base
    lines_per_document: 4
    window: 2
    objective: {bank_size: 40}
    loader: {rows_per_step: 16, micro_batch_rows: 6}
    train: {max_steps: 30, learning_rate: 5e-3, eval_every: 15}
  judge: {recipe: evaluate_encoder, calibrate: [shift_scale, rotation, procrustes], calibration_lines: 60}
  documents:
    recipe: document_encoder
    from: context
    lines_per_document: 4
    neighbourhood: 3
    model: {heads: 4, intermediate_size: 24, max_sentences: 5}
    loader: {rows_per_step: 8, micro_batch_rows: 3}
    train: {max_steps: 40, learning_rate: 5e-3, eval_every: 20}
)";
  }

  [[nodiscard]] fs::path dir() const { return directory_.path() / "run"; }
  [[nodiscard]] std::vector<std::string> with_folders(std::vector<std::string> overrides) const {
    overrides.push_back("dir=" + dir().string());
    overrides.push_back("base=" + (directory_.path() / "base").string());
    return overrides;
  }
  [[nodiscard]] RunResult run_with(const std::vector<std::string>& overrides = {}) const {
    return run(load_recipe(directory_.path() / "recipe.yaml", with_folders(overrides)));
  }
  [[nodiscard]] std::string problems_with(const std::vector<std::string>& overrides) const {
    Validation validation = validate(directory_.path() / "recipe.yaml", with_folders(overrides));
    try {
      validation.problems.raise();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }
  [[nodiscard]] std::string error_of(const std::vector<std::string>& overrides) const {
    try {
      (void)run_with(overrides);
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }

  test::TemporaryDirectory directory_;
};

TEST_F(DocumentsRun, PredictsContextsCalibratesAndEncodesDocuments) {
  const RunResult result = run_with();
  const io::Json& stages = result.summary["stages"];
  const io::Json& context = stages["context"];
  EXPECT_EQ(context["steps"], 30);
  EXPECT_EQ(context["evaluations"].size(), 2U);
  EXPECT_EQ(context["shares"].size(), 2U);
  EXPECT_LT(context["curve"]["loss"].back().get<double>(), context["curve"]["loss"][4].get<double>());
  for (const char* language : {"en", "es"}) {
    EXPECT_GT(context["spaces"][language]["context_mrr_at_10"].get<double>(),
              context["before"]["spaces"][language]["context_mrr_at_10"].get<double>());
    EXPECT_LT(context["spaces"][language]["uniformity"].get<double>(), -0.2);
  }
  EXPECT_EQ(context["tables"][0]["rows"].size(), 2U);
  // The folder is a plain sentence encoder: the head is not in it.
  const hub::OpenedSentenceEncoder encoder = hub::open_sentence_encoder(dir() / "context");
  EXPECT_EQ(encoder.model->dimension(), 16);
  EXPECT_TRUE(encoder.model->dense().empty());

  const io::Json& calibration = stages["judge"]["calibration"];
  EXPECT_EQ(calibration["none"], stages["judge"]["retrieval"]);
  EXPECT_EQ(calibration["none"], context["retrieval"]);  // What was scored last is what was saved.
  for (const char* method : {"shift_scale", "procrustes"})
    EXPECT_TRUE(calibration[method]["en-es"].contains("mrr_at_10")) << method;
  EXPECT_EQ(stages["judge"]["tables"][0]["rows"].size(), 4U);

  const io::Json& documents = stages["documents"];
  EXPECT_EQ(documents["documents"], 8);
  EXPECT_EQ(documents["steps"], 40);
  const std::vector<MemoryPlan> plans =
      memory_plan(load_recipe(directory_.path() / "recipe.yaml", with_folders({})));
  EXPECT_EQ(plans.back().trained, documents["trainable_parameters"].get<std::int64_t>());
  EXPECT_EQ(documents["segment_average"]["before"].size(), 2U);
  // Eight documents are too few to compare accuracies; what is learned shows in the loss.
  EXPECT_LT(documents["curve"]["loss"].back().get<double>(),
            0.7 * documents["curve"]["loss"][0].get<double>());
  EXPECT_EQ(documents["tables"][0]["rows"].size(), 4U);
  const hub::OpenedDocumentEncoder opened = hub::open_document_encoder(dir() / "documents");
  EXPECT_EQ(opened.model->max_sentences(), 5);
  EXPECT_EQ(eval::encode_documents(*opened.model, *opened.tokenizer, {{"ab saw pp", "ab saw qq"}}).size(1),
            16);
}

TEST_F(DocumentsRun, AFrozenLowerEncoderIsThatOfTheStageBefore) {
  const std::vector<std::string> frozen = {
      "stages.documents.freeze_sentences=true", "stages.documents.neighbourhood=0",
      "stages.documents.train.max_steps=4",     "stages.documents.train.eval_every=0",
      "stages.context.train.max_steps=1",       "stages.context.train.eval_every=0"};
  const io::Json documents = run_with(frozen).summary["stages"]["documents"];
  EXPECT_EQ(documents["segment_average"]["before"], documents["segment_average"]["after"]);
  const auto weights = [](const fs::path& folder) {
    const hub::OpenedSentenceEncoder opened = hub::open_sentence_encoder(folder);
    std::map<std::string, at::Tensor> all;
    opened.model->visit_tensors([&](const std::string& name, at::Tensor& tensor) { all[name] = tensor; });
    return all;
  };
  const auto before = weights(dir() / "context");
  for (const auto& [name, now] : weights(dir() / "documents"))
    EXPECT_TRUE(at::equal(now, before.at(name))) << name;
}

TEST_F(DocumentsRun, ADocumentEncoderGoesOn) {
  const std::string stage =
      "{recipe: document_encoder, lines_per_document: 4, model: {heads: 4, max_sentences: 5}, loader: "
      "{rows_per_step: "
      "4}, train: {max_steps: 2}}";
  const RunResult result =
      run_with({"stages={first: {recipe: document_encoder, from: base, lines_per_document: 4, "
                "model: {heads: 4, max_sentences: 5}, loader: {rows_per_step: 4}, train: "
                "{max_steps: 2}}, again: " +
                stage + "}"});
  const io::Json& stages = result.summary["stages"];
  EXPECT_EQ(stages["again"]["before"], stages["first"]["retrieval"]);
}

TEST_F(DocumentsRun, LanguagesMayComeFromTwoFiles) {
  std::ofstream other(directory_.path() / "other.txt");
  for (int line = 0; line < 100; ++line) other << "una frase " << static_cast<char>('a' + line % 26) << "\n";
  other.close();
  const RunResult result =
      run_with({"target={path: " + (directory_.path() / "other.txt").string() + ", language: es}",
                "stages={context: {recipe: context_prediction, from: base, loader: "
                "{rows_per_step: 8}, train: {max_steps: 2}}}"});
  const io::Json& context = result.summary["stages"]["context"];
  EXPECT_FALSE(context.contains("retrieval"));
  EXPECT_TRUE(context["spaces"]["es"].contains("uniformity"));
}

TEST_F(DocumentsRun, ProblemsAreNamedBeforeAnythingRuns) {
  EXPECT_EQ(problems_with({}), "none");
  EXPECT_THAT(problems_with({"stages.context.loader.rows_per_step=1", "stages.context.loader.packing=cut",
                             "stages.context.train.max_steps=0"}),
              AllOf(HasSubstr("have no negatives"), HasSubstr("contexts need packing whole"),
                    HasSubstr("set max_steps")));
  EXPECT_THAT(problems_with({"stages.context.objective.bank=mixed"}), HasSubstr("per_language"));
  EXPECT_THAT(problems_with({"stages.context.loader.mixture.weights.pairs=1"}),
              HasSubstr("there is no source 'pairs'"));
  EXPECT_THAT(problems_with({"stages.judge.calibrate=[rotate]"}), HasSubstr("rotation"));
  EXPECT_THAT(problems_with({"stages.documents.loader.rows_per_step=1", "stages.documents.loader.packing=cut",
                             "stages.documents.train.max_steps=0", "stages.documents.lines_per_document=6"}),
              AllOf(HasSubstr("one pair has no negatives"), HasSubstr("documents need packing whole"),
                    HasSubstr("set max_steps"), HasSubstr("must not be above model.max_sentences, 5")));
  std::ofstream(directory_.path() / "other.tsv") << "1\ta\tb\n";
  EXPECT_THAT(problems_with({"target.path=" + (directory_.path() / "other.tsv").string()}),
              HasSubstr("pairs of documents need source and target in one TSV file"));
}

TEST_F(DocumentsRun, WhatTheDataLacksIsSaid) {
  const std::vector<std::string> quick = {"stages.context.train.max_steps=1",
                                          "stages.context.train.eval_every=0"};
  const auto with = [&](std::vector<std::string> overrides) {
    overrides.insert(overrides.end(), quick.begin(), quick.end());
    return overrides;
  };
  EXPECT_THAT(error_of(with({"stages.context.lines_per_document=1"})), HasSubstr("no document has two"));
  EXPECT_THAT(error_of(with({"held_out={last: 3}"})), HasSubstr("two held-out documents or more are needed"));
}

TEST_F(DocumentsRun, SeveralRanksAreTheSameRun) {
  expect_same_on_three_ranks(
      directory_.path() / "recipe.yaml",
      with_folders({"stages.context.train.max_steps=6", "stages.context.train.eval_every=0",
                    "stages.documents.train.max_steps=6", "stages.documents.train.eval_every=0"}),
      directory_.path() / "ranks", {"context", "documents"});
}

}  // namespace
}  // namespace bitrain::recipe
