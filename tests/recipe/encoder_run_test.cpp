#include <cmath>
#include <fstream>
#include <map>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/error.h>
#include <bitrain/eval/encode.h>
#include <bitrain/eval/retrieval.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/peft.h>
#include <bitrain/hub/sentence_transformers.h>
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

/// A sentence encoder of 26 letters, and a recipe that teaches it a hundred made-up pairs.
class EncoderRun : public ::testing::Test {
 protected:
  void SetUp() override {
    write_base();
    std::ofstream pairs(directory_.path() / "pairs.tsv");
    for (int i = 0; i < 130; ++i) {
      std::string number;
      for (int rest = i + 26; rest > 0; rest /= 26) number += static_cast<char>('a' + rest % 26);
      pairs << i << "\tcat " << number << " saw dog " << number << "\tgato " << number << " vio perro "
            << number << "\n";
    }
    std::ofstream(directory_.path() / "recipe.yaml") << R"(schema: 1
name: tiny_encoder
threads: 1
dtype: float32
source: {path: pairs.tsv, format: tsv, column: 2, language: en}
target: {path: pairs.tsv, format: tsv, column: 3, language: es}
held_out: {every: 10}
stages:
  before: {recipe: evaluate_encoder, from: base, retrieval: {matrix: 4}}
  extend: {recipe: extend_encoder, from: base, vocab: {pieces: 12}}
  align:
    recipe: contrastive
    teacher: base
    objective: {distill_text: 1.0}
    loader: {rows_per_step: 12, micro_batch_rows: 5}
    train: {max_steps: 40, learning_rate: 5e-3, eval_every: 20, schedule: {warmup_steps: 4}}
)";
  }

  void write_base() const {
    const fs::path folder = directory_.path() / "vocabulary";
    fs::create_directories(folder);
    std::ofstream vocabulary(folder / "vocab.txt");
    for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) vocabulary << special << "\n";
    for (char c = 'a'; c <= 'z'; ++c) vocabulary << c << "\n##" << c << "\n";
    vocabulary.close();
    std::ofstream(folder / "tokenizer_config.json") << R"({"tokenizer_class": "BertTokenizer"})";
    const auto tokenizer = text::open_hf_tokenizer(folder);
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    models::SentenceEncoder model(testing::tiny_bert(at::kFloat, config), {{nn::Pooling::kMean}, true});
    hub::save_sentence_encoder(base(), model, tokenizer.get(), {});
  }

  [[nodiscard]] fs::path base() const { return directory_.path() / "base"; }
  [[nodiscard]] fs::path dir() const { return directory_.path() / "run"; }
  [[nodiscard]] std::vector<std::string> with_folders(std::vector<std::string> overrides) const {
    overrides.push_back("dir=" + dir().string());
    overrides.push_back("base=" + base().string());
    return overrides;
  }
  [[nodiscard]] RunResult run_with(const std::vector<std::string>& overrides = {}) const {
    return run(load_recipe(directory_.path() / "recipe.yaml", with_folders(overrides)));
  }
  /// What `validate` says, all problems.
  [[nodiscard]] std::string problems_with(const std::vector<std::string>& overrides) const {
    Validation validation = validate(directory_.path() / "recipe.yaml", with_folders(overrides));
    try {
      validation.problems.raise();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }

  test::TemporaryDirectory directory_;
};

TEST_F(EncoderRun, LearnsPairsAndWritesAnEncoder) {
  const RunResult result = run_with();
  const io::Json& stages = result.summary["stages"];
  EXPECT_EQ(stages["before"]["pairs"], 13);
  EXPECT_EQ(stages["before"]["agreement"]["en"], 1.0);
  EXPECT_EQ(stages["before"]["similarities"].size(), 4U);
  const auto added = stages["extend"]["added"].get<std::int64_t>();
  EXPECT_GT(added, 0);
  EXPECT_EQ(stages["extend"]["vocab_size"].get<std::int64_t>(),
            stages["extend"]["old_vocab_size"].get<std::int64_t>() + added);
  EXPECT_LT(stages["extend"]["fertility"]["es"]["after"]["tokens_per_word"].get<double>(),
            stages["extend"]["fertility"]["es"]["before"]["tokens_per_word"].get<double>());
  const io::Json& align = stages["align"];
  EXPECT_EQ(align["steps"], 40);
  EXPECT_EQ(align["evaluations"].size(), 2U);
  // Steps of 12 pairs differ among themselves: the mean of the last ten counts.
  const auto losses = align["curve"]["loss"].get<std::vector<double>>();
  EXPECT_GT(losses.front(), 1.4 * std::accumulate(losses.end() - 10, losses.end(), 0.0) / 10);
  EXPECT_GT(align["retrieval"]["es-en"]["accuracy_at_1"].get<double>(),
            stages["before"]["retrieval"]["es-en"]["accuracy_at_1"].get<double>());
  EXPECT_TRUE(fs::exists(dir() / "report.html"));

  // The folder is the model that was scored last.
  const hub::OpenedSentenceEncoder opened = hub::open_sentence_encoder(dir() / "align");
  EXPECT_EQ(opened.tokenizer->vocab_size(), stages["extend"]["vocab_size"]);
  const at::Tensor rows =
      eval::encode_texts(*opened.model, *opened.tokenizer, {"cat b saw dog b", "gato b vio perro b"});
  EXPECT_EQ(rows.size(1), 16);
  // Once more: nothing is done again.
  EXPECT_EQ(run_with().summary["stages"], result.summary["stages"]);
}

TEST_F(EncoderRun, TrainsOnFilesWithHardNegativesToo) {
  std::ofstream file(directory_.path() / "hard.jsonl");
  for (int i = 0; i < 26; ++i) {
    const std::string letter(1, static_cast<char>('a' + i));
    file << R"({"query": "bird )" << letter << R"(", "positive": "ave )" << letter
         << R"(", "negatives": ["ave )" << letter << letter << R"("]})"
         << "\n";
  }
  file.close();
  const RunResult result = run_with(
      {"stages.align.files=[{path: " + (directory_.path() / "hard.jsonl").string() + "}]",
       "stages.align.loader.mixture.weights.pairs=0.5", "stages.align.loader.mixture.weights.hard=0.5",
       "stages.align.loader.single_source_steps=true", "stages.align.train.max_steps=6"});
  EXPECT_EQ(result.summary["stages"]["align"]["steps"], 6);
}

/// Documents are what the pairs say in Spanish, queries the same in English.
void write_collection(const fs::path& folder) {
  eval::RetrievalSet set;
  for (int i = 0; i < 20; ++i) {
    const std::string letter(1, static_cast<char>('a' + i));
    set.corpus.push_back({"d" + letter, i % 2 == 0 ? "gato " + letter : "", "vio perro " + letter});
    set.queries.push_back({"q" + letter, "", "cat saw dog " + letter});
    set.qrels["q" + letter]["d" + letter] = 1;
  }
  eval::write_beir(folder, set);
}

TEST_F(EncoderRun, SearchesRetrievalSets) {
  write_collection(directory_.path() / "set");
  const std::string set = (directory_.path() / "set").string();
  const std::string stage = "{recipe: evaluate_retrieval, from: base, depth: 5, collections: [{path: " + set +
                            "/}, {path: " + set + ", name: again}]}";
  const RunResult result = run_with({"stages={search: " + stage + "}"});
  const io::Json& search = result.summary["stages"]["search"]["search"];
  EXPECT_EQ(search["set"]["queries"], 20);
  EXPECT_EQ(search["set"], search["again"]);
  // The letter is a word of its own: BM25 finds every document first, whose length alone differs.
  EXPECT_EQ(search["set"]["bm25"]["accuracy@1"], 1.0);
  for (const char* metric : {"ndcg@10", "mrr@10", "accuracy@1", "recall@100"}) {
    EXPECT_GE(search["set"]["encoder"][metric].get<double>(), 0) << metric;
    EXPECT_LE(search["set"]["encoder"][metric].get<double>(), 1) << metric;
  }
  const eval::RetrievalRun run = eval::read_trec_run(dir() / "search" / "set.encoder.trec");
  EXPECT_EQ(run.size(), 20U);
  EXPECT_EQ(run.at("qa").size(), 5U);
  const eval::RetrievalSet read = eval::read_beir(set);
  EXPECT_NEAR(eval::evaluate_run(run, read.qrels).at("ndcg@10"),
              search["set"]["encoder"]["ndcg@10"].get<double>(), 1e-12);
}

TEST_F(EncoderRun, AStageRunsAnewWhenAFileThatItNamesHasChanged) {
  const fs::path set = directory_.path() / "set";
  write_collection(set);
  const std::vector<std::string> overrides = {
      "source.path=", "target.path=",
      "stages={search: {recipe: evaluate_retrieval, from: base, encoder: false, collections: [{path: " +
          set.string() + "}]}}",
      "claims=[{says: all are found, that: search/search/set/bm25/accuracy@1, at_least: 1},"
      "{says: there are more, that: search/search/set/queries, above: 20}]"};
  const io::Json first = run_with(overrides).summary;
  EXPECT_EQ(first["stages"]["search"]["search"]["set"]["queries"], 20);
  EXPECT_EQ(first["claims"][0]["held"], true);
  EXPECT_EQ(first["claims"][1]["held"], false);
  EXPECT_EQ(run_with(overrides).summary["stages"],
            first["stages"]);  // Skipped: also its seconds are the same.

  eval::RetrievalSet fewer = eval::read_beir(set);
  fewer.qrels.erase("qa");
  eval::write_beir(set, fewer);
  const io::Json second = run_with(overrides).summary;
  EXPECT_NE(second["stages"]["search"]["seconds"], first["stages"]["search"]["seconds"]);
}

TEST_F(EncoderRun, StagesThatReadLinesNeedThem) {
  EXPECT_THAT(problems_with({"source.path=", "target.path="}),
              HasSubstr("stages.before: reads lines of text: set source.path and target.path"));
  EXPECT_THAT(problems_with({"source.path="}), HasSubstr("source.path: is missing: the other side has one"));
  EXPECT_THAT(problems_with({"stages.align.teacher=nobody"}),
              HasSubstr("stages.align.teacher: no earlier stage is called 'nobody'"));
}

TEST_F(EncoderRun, SetsOfOneCorpusAndOfOthersKeepTheirOwnFigures) {
  write_collection(directory_.path() / "set");
  eval::RetrievalSet other = eval::read_beir(directory_.path() / "set");
  for (eval::Document& document : other.corpus) document.text = "nada";
  other.corpus.front().text = "vio perro";
  eval::write_beir(directory_.path() / "other", other);
  const auto path = [&](const char* name) { return (directory_.path() / name).string(); };
  const RunResult result = run_with(
      {"stages={search: {recipe: evaluate_retrieval, from: base, collections: [{path: " + path("set") +
       "}, {path: " + path("other") + "}, {path: " + path("set") + ", name: again}]}}"});
  const io::Json& stage = result.summary["stages"]["search"];
  const io::Json& search = stage["search"];
  EXPECT_EQ(search["set"], search["again"]);
  EXPECT_NE(search["set"]["encoder"], search["other"]["encoder"]);
  const auto figure = [&](const char* set) { return search[set]["encoder"]["ndcg@10"].get<double>(); };
  EXPECT_NEAR(stage["mean"]["encoder"]["ndcg@10"].get<double>(), (2 * figure("set") + figure("other")) / 3,
              1e-12);
}

TEST_F(EncoderRun, ProblemsOfRetrievalSetsAreNamed) {
  const auto problems = [&](const std::string& options) {
    return problems_with({"stages={search: {recipe: evaluate_retrieval, from: base, " + options + "}}"});
  };
  EXPECT_THAT(problems("collections: [{path: nowhere}]"), HasSubstr("there is no folder nowhere"));
  EXPECT_THAT(problems("collections: []"), HasSubstr("there are none to search"));
  EXPECT_THAT(problems("encoder: false, bm25: false, collections: [{path: a/b}, {path: c/b/}]"),
              AllOf(HasSubstr("nothing searches"), HasSubstr("two are called 'b'")));
}

TEST_F(EncoderRun, FrozenWeightsStayAsTheyWere) {
  const RunResult result =
      run_with({"stages.align.freeze=[word_embeddings, layer.0]", "stages.align.train.max_steps=3",
                "stages.align.train.schedule.warmup_steps=0", "stages.align.train.eval_every=0"});
  const auto weights = [&](const fs::path& folder) {
    const hub::OpenedSentenceEncoder opened = hub::open_sentence_encoder(folder);
    std::map<std::string, at::Tensor> all;
    opened.model->visit_tensors([&](const std::string& name, at::Tensor& tensor) { all[name] = tensor; });
    return all;
  };
  const auto before = weights(dir() / "extend");
  for (const auto& [name, now] : weights(dir() / "align")) {
    const bool frozen =
        name.find("word_embeddings") != std::string::npos || name.find("layer.0") != std::string::npos;
    EXPECT_EQ(at::equal(now, before.at(name)), frozen) << name;
  }
  EXPECT_THAT(
      [&] {
        (void)run_with({"dir=" + (directory_.path() / "other").string(), "stages.align.freeze=[no_such]"});
      },
      ::testing::ThrowsMessage<Error>(HasSubstr("'no_such' names no weight")));
}

TEST_F(EncoderRun, TrainsAdaptersAndMergesThem) {
  const std::vector<std::string> options = {
      "stages.align.lora={r: 2, lora_alpha: 8, target_modules: [query, value]}",
      "stages.align.train.learning_rate=2e-2", "stages.align.train.max_steps=60", "dtype=bfloat16"};
  const RunResult result = run_with(options);
  const io::Json& align = result.summary["stages"]["align"];
  EXPECT_EQ(align["adapted_modules"], 4);
  EXPECT_EQ(align["trainable_parameters"], 4 * 2 * (16 + 16));
  EXPECT_LT(align["curve"]["loss"].back().get<double>(), align["curve"]["loss"].front().get<double>() - 0.2);
  // The folder is the float32 base with the adapter of adapter/ merged into it.
  hub::OpenOptions exact;
  exact.dtype = at::kFloat;
  hub::OpenedSentenceEncoder base = hub::open_sentence_encoder(dir() / "extend", exact);
  const hub::OpenedSentenceEncoder merged = hub::open_sentence_encoder(dir() / "align", exact);
  const std::vector<std::string> texts = {"cat b saw dog b", "gato b vio perro b"};
  const auto embed = [&](const hub::OpenedSentenceEncoder& opened) {
    return eval::encode_texts(*opened.model, *opened.tokenizer, texts);
  };
  const at::Tensor before = embed(base);
  const adapters::LoraOptions read = hub::load_adapter(dir() / "align" / "adapter", base.model->encoder());
  EXPECT_EQ(read.r, 2);
  EXPECT_LT((embed(base) - embed(merged)).abs().max().item<double>(), 1e-5);
  EXPECT_GT((embed(base) - before).abs().max().item<double>(), 1e-2);
  EXPECT_THAT(problems_with({"stages.align.lora.target_modules=[query]", "stages.align.freeze=[layer.0]"}),
              HasSubstr("with lora all other weights are frozen anyway"));
  EXPECT_THAT(problems_with({"stages.align.lora.target_modules=[q_proj]"}),
              AllOf(HasSubstr("'q_proj' matches no module"), HasSubstr("query")));
}

TEST_F(EncoderRun, LearnsHiddenWordsOfTextsAndPairs) {
  const std::string stage =
      "{recipe: masked_lm, from: base, pairs: true, objective: {masking: {share: 0.3}}, loader: "
      "{rows_per_step: 24, "
      "micro_batch_rows: 7}, train: {max_steps: 60, learning_rate: 1e-2, eval_every: 30, schedule: "
      "{warmup_steps: 4}}}";
  const RunResult result = run_with({"stages={tlm: " + stage + ", search: {recipe: evaluate_encoder}}"});
  const io::Json& tlm = result.summary["stages"]["tlm"];
  EXPECT_EQ(tlm["evaluations"].size(), 2U);
  for (const char* language : {"en", "es"}) {
    const io::Json& before = tlm["before"][language];
    const io::Json& after = tlm["masked"][language];
    EXPECT_LT(after["masked_loss"].get<double>(), before["masked_loss"].get<double>() - 0.5) << language;
    EXPECT_GT(after["masked_accuracy"].get<double>(), before["masked_accuracy"].get<double>()) << language;
    EXPECT_TRUE(after.contains("translated_accuracy")) << language;
  }
  EXPECT_EQ(tlm["shares"].size(), 3U);
  // What it wrote opens with its heads; the next stage read it as an encoder with mean pooling.
  EXPECT_NO_THROW((void)hub::open_masked_lm(dir() / "tlm"));
  EXPECT_EQ(result.summary["stages"]["search"]["pairs"], 13);
  // The masks do not depend on the split into micro-batches.
  const RunResult whole =
      run(load_recipe(directory_.path() / "recipe.yaml",
                      {"dir=" + (directory_.path() / "whole").string(), "base=" + base().string(),
                       "stages={tlm: " + stage + "}", "stages.tlm.loader.micro_batch_rows=0"}));
  EXPECT_NEAR(whole.summary["stages"]["tlm"]["masked"]["es"]["masked_loss"].get<double>(),
              tlm["masked"]["es"]["masked_loss"].get<double>(), 2e-2);
  EXPECT_NEAR(whole.summary["stages"]["tlm"]["curve"]["loss"].front().get<double>(),
              tlm["curve"]["loss"].front().get<double>(), 1e-5);
}

TEST_F(EncoderRun, LearnsWhetherASentenceFollows) {
  // Documents of two lines, of which only the second has the second verb: what begins like a first line
  // follows on none, so three of four pairs can be told by that alone.
  std::ofstream documents(directory_.path() / "documents.tsv");
  for (int i = 0; i < 200; ++i) {
    const std::string word = {static_cast<char>('a' + i % 26), static_cast<char>('a' + i / 26)};
    documents << "ax " << word << "\tuno " << word << "\nthen " << word << " ran\tdespues " << word
              << " corre\n";
  }
  documents.close();
  const std::string file = (directory_.path() / "documents.tsv").string();
  const std::string stage =
      "{recipe: masked_lm, from: base, next_sentence: true, lines_per_document: 2, loader: {rows_per_step: "
      "32}, "
      "train: {max_steps: 60, learning_rate: 1e-2, eval_every: 60, schedule: {warmup_steps: 4}}}";
  const std::vector<std::string> options = {
      "stages={nsp: " + stage + "}", "source={path: " + file + ", format: tsv, column: 1, language: en}",
      "target={path: " + file + ", format: tsv, column: 2, language: es}"};
  std::vector<std::string> last = options;
  last.emplace_back("held_out={last: 120}");
  const RunResult result = run_with(last);
  for (const char* language : {"en", "es"}) {
    const io::Json& nsp = result.summary["stages"]["nsp"];
    EXPECT_NEAR(nsp["before"][language]["next_sentence_accuracy"].get<double>(), 0.5, 0.2) << language;
    EXPECT_GT(nsp["masked"][language]["next_sentence_accuracy"].get<double>(), 0.65) << language;
  }
  const hub::OpenedMaskedLm written = hub::open_masked_lm(dir() / "nsp");
  EXPECT_TRUE(written.model->has_next_sentence());
  EXPECT_THAT(problems_with(options), HasSubstr("leaves no line beside its next"));
  EXPECT_THAT(
      problems_with({"stages={nsp: {recipe: masked_lm, from: base, next_sentence: true, texts: false, "
                     "pairs: true, train: {max_steps: 1}}}"}),
      HasSubstr("reads texts: set texts to true"));
}

TEST_F(EncoderRun, ShowsTheFirstStepOfItsStages) {
  const Recipe recipe = load_recipe(
      directory_.path() / "recipe.yaml",
      with_folders({"stages={align: {recipe: contrastive, teacher: base, objective: {distill_text: 1}, "
                    "loader: {rows_per_step: "
                    "3}, train: {max_steps: 1}}, tlm: {recipe: masked_lm, from: base, pairs: true, texts: "
                    "false, objective: "
                    "{masking: {share: 0.3}}, loader: {rows_per_step: 2}, train: {max_steps: 1}}}"}));
  const std::string pairs = inspect_stage(recipe, "align", {});
  for (const char* part : {"segment 0 · en", "example 0", "segment 5 · es", "example 2", "[CLS] c ##a ##t",
                           "[SEP]", "g ##a ##t ##o"})
    EXPECT_THAT(pairs, HasSubstr(part));
  EXPECT_THAT(pairs, ::testing::Not(HasSubstr("segment 6"))) << "what the teacher reads is its own";
  const std::string masked = inspect_stage(recipe, "tlm", {});
  for (const char* part : {"segment 1", "supervised", "[[MASK]->", "[SEP] g"})
    EXPECT_THAT(masked, HasSubstr(part));
  EXPECT_THAT(masked, ::testing::Not(HasSubstr("segment 2")));
}

TEST_F(EncoderRun, PairFilesWithEmptyOrEqualSides) {
  const auto write = [&](const std::string& rows) { std::ofstream(directory_.path() / "odd.jsonl") << rows; };
  const std::vector<std::string> options = {
      "stages.align.files=[{path: " + (directory_.path() / "odd.jsonl").string() + "}]",
      "stages.align.pairs=false",
      "stages.align.train.max_steps=3",
      "stages.align.train.eval_every=0",
      "stages.align.loader.rows_per_step=4",
      "stages.align.loader.micro_batch_rows=0",
      "stages.align.train.schedule.warmup_steps=0"};
  std::string rows =
      "{\"query\": \"a\", \"positive\": \"\"}\n{\"query\": \" \", \"positive\": \"b\"}\n"
      "{\"query\": \"same\", \"positive\": \"same\"}\n";
  write(rows);  // Nothing is left.
  EXPECT_THAT([&] { (void)run_with(options); }, ::testing::ThrowsMessage<Error>(HasSubstr("odd")));
  for (char c = 'a'; c < 'k'; ++c)
    rows += std::string("{\"query\": \"cat ") + c + "\", \"positive\": \"gato " + c +
            "\", \"negatives\": [\"\", \"gato " + c + "\"]}\n";
  write(rows);
  EXPECT_EQ(run_with(options).summary["stages"]["align"]["steps"], 3);
}

TEST_F(EncoderRun, LanguagesWithoutAnAdapterAreNamedBeforeTheRun) {
  models::BertConfig config = testing::tiny_bert_config("xmod");
  config.vocab_size = text::open_hf_tokenizer(base())->vocab_size();
  const auto tokenizer = text::open_hf_tokenizer(base());
  hub::save_encoder(base(), *testing::tiny_bert(at::kFloat, config), tokenizer.get());
  EXPECT_EQ(problems_with({}), "none");
  EXPECT_THAT(
      problems_with({"target.language=ko"}),
      AllOf(HasSubstr("base"), HasSubstr("language 'ko' has no adapter; there are: en_XX, es_XX, sw_KE")));
}

TEST_F(EncoderRun, AFreshModelForgetsAndProblemsOfMaskedStagesAreNamed) {
  const RunResult result =
      run_with({"stages={mlm: {recipe: masked_lm, from: base, fresh: true, train: {max_steps: 1, "
                "learning_rate: 1e-9}}}"});
  EXPECT_NEAR(result.summary["stages"]["mlm"]["before"]["en"]["masked_loss"].get<double>(), std::log(57.0),
              1.0);
  const auto problems = [&](const std::string& options) {
    return problems_with({"stages={mlm: {recipe: masked_lm, from: base, " + options + "}}"});
  };
  EXPECT_THAT(problems("texts: false"), AllOf(HasSubstr("there is no text"), HasSubstr("set max_steps")));
  EXPECT_THAT(problems("loader: {packing: cut}, train: {max_steps: 1}"), HasSubstr("need packing whole"));
  EXPECT_THAT(problems("loader: {mixture: {weights: {pairs: 1}}}, train: {max_steps: 1}"),
              HasSubstr("there is no source 'pairs'"));
}

TEST_F(EncoderRun, ProblemsAreNamedBeforeAnythingRuns) {
  EXPECT_EQ(problems_with({}), "none");
  EXPECT_THAT(problems_with({"stages.align.teacher="}), HasSubstr("distillation needs one"));
  EXPECT_THAT(problems_with({"stages.align.teacher=extnd"}),
              AllOf(HasSubstr("no earlier stage is called 'extnd'"), HasSubstr("extend")));
  EXPECT_THAT(problems_with({"stages.align.loader.rows_per_step=1"}), HasSubstr("one pair has no negatives"));
  EXPECT_THAT(problems_with({"stages.align.pairs=false"}), HasSubstr("no pairs: set pairs to true"));
  EXPECT_THAT(problems_with({"stages.align.files=[{path: none.jsonl}]"}),
              HasSubstr("there is no file none.jsonl"));
  EXPECT_THAT(problems_with({"stages.align.loader.packing=cut"}), HasSubstr("pairs need packing whole"));
  EXPECT_THAT(problems_with({"stages.align.objective.contrast=0", "stages.align.objective.distill_text=0"}),
              HasSubstr("every weight is 0"));
  std::ofstream(directory_.path() / "other.tsv") << "1\ta\tb\n";
  EXPECT_THAT(problems_with({"target.path=" + (directory_.path() / "other.tsv").string()}),
              HasSubstr("pairs need source and target in one TSV file"));
  EXPECT_THAT(problems_with({"stages.align.loader.mixture.weights.source=1"}),
              HasSubstr("there is no source"));
}

TEST_F(EncoderRun, ABaseOfAnotherKindIsAProblem) {
  std::ofstream(base() / "config.json") << R"({"model_type": "llama", "hidden_size": 8})";
  EXPECT_THAT(problems_with({}), HasSubstr("llama"));
}

TEST_F(EncoderRun, SeveralRanksAreTheSameRun) {
  const auto on_ranks = [&](const std::string& name, const std::vector<std::string>& overrides) {
    SCOPED_TRACE(name);
    std::vector<std::string> all = with_folders(overrides);
    const std::string stage = "stages." + name;
    for (const char* one : {".train.max_steps=6", ".train.eval_every=3", ".train.schedule.warmup_steps=2"})
      all.push_back(stage + one);
    all.push_back(stage + ".dropout=0.1");
    expect_same_on_three_ranks(directory_.path() / "recipe.yaml", all, directory_.path() / name, {name});
  };
  on_ranks("align", {});
  on_ranks("align", {"dir=x", "stages.align.objective.loss=nt_xent", "stages.align.loader.micro_batch_rows=0",
                     "name=other"});
  on_ranks("align", {"dir=y", "stages.align.lora={r: 2, target_modules: [query, value]}", "name=adapted"});
  on_ranks("tlm", {"stages={tlm: {recipe: masked_lm, from: base, pairs: true, loader: {rows_per_step: 24, "
                   "micro_batch_rows: 7}, train: {learning_rate: 1e-2}}}"});
}

TEST_F(EncoderRun, GroupsOfRanksAreAnotherLossAndLessTraffic) {
  const auto on_four = [&](int group) {
    io::Json align;
    dist::run_ranks(4, [&](dist::Communicator& world) {
      const RunResult result =
          run(load_recipe(directory_.path() / "recipe.yaml",
                          with_folders({"stages.align.train.max_steps=3", "stages.align.train.eval_every=0",
                                        "stages.align.train.schedule.warmup_steps=1",
                                        "stages.align.objective.distill_text=0",
                                        "stages.align.group_ranks=" + std::to_string(group)})),
              {&world, [](dist::Communicator*) {}});
      if (world.rank() == 0) align = result.summary["stages"]["align"];
    });
    return align;
  };
  const auto loss = [](const io::Json& align) { return align["curve"]["loss"][0].get<double>(); };
  const auto bytes = [](const io::Json& align) {
    std::int64_t sum = 0;
    for (const auto& [collective, moved] : align["group_traffic"].items())
      sum += moved["bytes"].get<std::int64_t>();
    return sum;
  };
  const io::Json all = on_four(4);
  const io::Json pairs = on_four(2);
  const io::Json alone = on_four(1);
  EXPECT_EQ(loss(all), loss(on_four(0)));
  EXPECT_LT(loss(pairs), loss(all) - 0.1) << "fewer texts to tell it from";
  EXPECT_LT(loss(alone), loss(pairs) - 0.1);
  EXPECT_GT(bytes(all), 0);
  EXPECT_EQ(bytes(pairs), bytes(all) / 2);
  EXPECT_EQ(bytes(alone), 0) << "nobody to give anything to";
  EXPECT_THROW((void)on_four(3), ConfigError);
}

}  // namespace
}  // namespace bitrain::recipe
