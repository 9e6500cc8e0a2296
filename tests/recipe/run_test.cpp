#include <bitrain/recipe/run.h>
#include <bitrain/recipe/sources.h>

#include <fstream>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/stage_folders.h>
#include <bitrain/recipe/validate.h>

#include "support/temporary_directory.h"
#include "support/tiny_recipe.h"

namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A recipe of every cheap stage on three hundred made-up rows.
class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_rows(300);
    std::ofstream(directory_.path() / "recipe.yaml")
        << test::tiny_recipe("bfloat16") << R"(  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {sequence_length: 64, rows_per_step: 2, mixture: {weights: {source: 0.75, target: 0.25}}}}
    train: {max_steps: 4}
  score: {recipe: evaluate}
)";
  }

  void write_rows(int count) const { test::write_pairs(directory_.path() / "pairs.tsv", count); }

  [[nodiscard]] RunResult run_with(std::vector<std::string> overrides = {}) const {
    overrides.push_back("dir=" + dir().string());
    return run(load_recipe(directory_.path() / "recipe.yaml", overrides));
  }

  [[nodiscard]] fs::path dir() const { return directory_.path() / "run"; }

  /// Puts a mark into every finished stage; a stage that runs again loses it, for its folder is replaced.
  void mark_stages() const {
    for (const char* stage : {"tok", "first", "score"}) std::ofstream(dir() / stage / "mark") << "x";
  }
  [[nodiscard]] std::vector<std::string> stages_run_again() const {
    std::vector<std::string> again;
    for (const char* stage : {"tok", "first", "score"})
      if (!fs::exists(dir() / stage / "mark")) again.emplace_back(stage);
    return again;
  }

  test::TemporaryDirectory directory_;
};

TEST_F(RunTest, StagesRunAndLeaveTheirFigures) {
  const RunResult result = run_with();
  EXPECT_EQ(result.signal, 0);
  EXPECT_EQ(result.dir, dir());
  const io::Json summary = io::read_json(dir() / "summary.json");
  EXPECT_EQ(summary, result.summary);
  EXPECT_EQ(summary["schema"], 1);
  EXPECT_EQ(summary["name"], "tiny");
  EXPECT_EQ(summary["machine"]["threads"], 1);
  EXPECT_EQ(summary["languages"]["target"], "es");
  EXPECT_GT(summary["seconds"].get<double>(), 0);
  EXPECT_GT(summary["peak_memory_bytes"].get<std::uint64_t>(), 0U);
  const io::Json& stages = summary["stages"];
  EXPECT_EQ(stages["tok"]["type"], "tokenizer");
  EXPECT_EQ(stages["tok"]["vocab_size"], 320);
  const io::Json& first = stages["first"];
  EXPECT_EQ(first["steps"], 4);
  // Four steps of two rows of 64, less what whole documents leave free.
  EXPECT_GT(first["tokens"].get<std::int64_t>(), 4 * 2 * 64 / 2);
  EXPECT_LE(first["tokens"].get<std::int64_t>(), 4 * 2 * 64);
  EXPECT_EQ(first["parameters"], 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32 + 2 * 320 * 32);
  EXPECT_EQ(first["trainable_parameters"], first["parameters"]);
  EXPECT_DOUBLE_EQ(first["shares"]["es"]["asked"].get<double>(), 0.25);
  EXPECT_FALSE(first["curve"]["loss"].empty());
  for (const char* language : {"en", "es"}) {
    const io::Json& figures = stages["score"]["languages"][language];
    EXPECT_GT(figures["loss_per_token"].get<double>(), 0) << language;
    EXPECT_GT(figures["bits_per_byte"].get<double>(), 0) << language;
  }
  EXPECT_TRUE(fs::exists(dir() / "report.html"));
  EXPECT_TRUE(fs::exists(dir() / "first" / "model.safetensors"));
  for (const auto& entry : fs::directory_iterator(dir())) {
    EXPECT_NE(entry.path().extension(), ".work") << entry.path();
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }

  // Once more: nothing is done again.
  mark_stages();
  const RunResult again = run_with();
  EXPECT_THAT(stages_run_again(), IsEmpty());
  EXPECT_EQ(again.summary["stages"], result.summary["stages"]);
}

TEST_F(RunTest, AChangeRunsItsStageAndThoseAfter) {
  (void)run_with();
  mark_stages();
  (void)run_with({"stages.first.train.max_steps=3"});
  EXPECT_THAT(stages_run_again(), ElementsAre("first", "score"));
  mark_stages();
  (void)run_with({"stages.first.train.max_steps=3", "stages.tok.tokenizer.vocab_size=310"});
  EXPECT_THAT(stages_run_again(), ElementsAre("tok", "first", "score"));
  mark_stages();
  write_rows(290);  // Other text, other everything.
  (void)run_with({"stages.first.train.max_steps=3", "stages.tok.tokenizer.vocab_size=310"});
  EXPECT_THAT(stages_run_again(), ElementsAre("tok", "first", "score"));
}

TEST_F(RunTest, AFinishedStageWithOtherFilesIsRefusedAndKept) {
  (void)run_with();
  mark_stages();
  const auto refusal = [&] {
    try {
      (void)run_with();
    } catch (const StateError& error) {
      return std::string(error.what());
    }
    return std::string("it ran");
  };
  const auto content = [](const fs::path& file) { return io::read_file(file); };
  for (const std::string file : {"tok/tokenizer.json", "first/model.safetensors", "first/config.json"}) {
    const std::string whole = content(dir() / file);
    std::string other = whole;
    other[other.size() / 2] ^= 1;  // Of the same length.
    std::ofstream(dir() / file) << other;
    EXPECT_THAT(refusal(),
                AllOf(HasSubstr(fs::path(file).filename().string() + " is not as the stage wrote it"),
                      HasSubstr("remove the folder, so that the stage runs again")));
    EXPECT_EQ(content(dir() / file), other);
    fs::remove(dir() / file);
    EXPECT_THAT(refusal(), HasSubstr("is missing"));
    std::ofstream(dir() / file) << whole;
  }
  std::ofstream(dir() / "first" / "added_tokens.json") << "{\"<x>\": 3}";
  EXPECT_THAT(refusal(), HasSubstr("added_tokens.json was added"));
  fs::remove(dir() / "first" / "added_tokens.json");
  // What nobody reads may change.
  std::ofstream(dir() / "first" / "README.md", std::ios::app) << "My model.";
  std::ofstream(dir() / "first" / "metrics.jsonl", std::ios::app) << "{}\n";
  (void)run_with();
  EXPECT_THAT(stages_run_again(), IsEmpty());
  // As the advice says.
  fs::remove_all(dir() / "first");
  std::ofstream(dir() / "tok" / "mark") << "x";
  (void)run_with();
  EXPECT_THAT(stages_run_again(), ElementsAre("first"));
}

TEST_F(RunTest, StagesWithOtherNamesAndNumbersAreFound) {
  (void)run_with();
  mark_stages();
  const auto edit = [&](const std::string& what, const std::string& with) {
    std::string text = io::read_file(directory_.path() / "recipe.yaml");
    text.replace(text.find(what), what.size(), with);
    std::ofstream(directory_.path() / "recipe.yaml") << text;
  };
  edit("  first:", "  extra: {recipe: tokenizer, tokenizer: {vocab_size: 300}}\n  erste:");
  edit("    recipe: pretrain", "    recipe: pretrain\n    from: tok");
  edit("{recipe: evaluate}", "{recipe: evaluate, from: erste}");
  const RunResult result = run_with();
  EXPECT_EQ(result.summary["stages"].size(), 4U);
  for (const char* there : {"tok/mark", "extra/stage.json", "erste/mark", "score/mark"})
    EXPECT_TRUE(fs::exists(dir() / there)) << there;
  EXPECT_FALSE(fs::exists(dir() / "first"));
  // Two of them change places.
  edit("  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320}}\n", "");
  edit("  erste:", "  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320}}\n  erste:");
  (void)run_with();
  for (const char* there : {"extra/stage.json", "tok/mark", "erste/mark", "score/mark"})
    EXPECT_TRUE(fs::exists(dir() / there)) << there;
}

TEST_F(RunTest, FoldersOfEarlierVersionsAreFound) {
  (void)run_with();
  mark_stages();
  fs::rename(dir() / "tok", dir() / "1-tok");
  fs::rename(dir() / "first", dir() / "2-first");
  fs::rename(dir() / "score", dir() / "3-score");
  (void)run_with();
  for (const char* there : {"tok/mark", "first/mark", "score/mark"})
    EXPECT_TRUE(fs::exists(dir() / there)) << there;
  EXPECT_FALSE(fs::exists(dir() / "2-first"));
}

TEST_F(RunTest, AFolderThatNoStageWroteIsLeftAlone) {
  fs::create_directories(dir() / "first");
  std::ofstream(dir() / "first" / "mine.txt") << "x";
  try {
    (void)run_with();
    ADD_FAILURE() << "no StateError";
  } catch (const StateError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no stage wrote it (it has no stage.json): move it away"));
  }
  const Validation looked = validate(directory_.path() / "recipe.yaml", {"dir=" + dir().string()});
  EXPECT_THAT(looked.problems.text(), HasSubstr("stages.first: "));
  EXPECT_FALSE(fs::exists(dir() / "tok"));  // Before any work.
  EXPECT_TRUE(fs::exists(dir() / "first" / "mine.txt"));
  // What a killed run or a file system leaves there is in nobody's way.
  fs::rename(dir() / "first" / "mine.txt", dir() / "first" / ".tmp-0123456789abcdef");
  fs::create_directories(dir() / "first" / "lost+found");
  EXPECT_NO_THROW((void)run_with());
}

TEST_F(RunTest, StagesMayChangeNamesWithEachOther) {
  const auto write = [&](const char* small, const char* large, const char* more = "") {
    std::ofstream(directory_.path() / "recipe.yaml")
        << test::tiny_recipe("float32") << "  " << small
        << ": {recipe: tokenizer, tokenizer: {vocab_size: 300}}\n  " << large
        << ": {recipe: tokenizer, tokenizer: {vocab_size: 320}}\n"
        << more;
    (void)run_with();
  };
  write("one", "two");
  for (const char* stage : {"one", "two"}) std::ofstream(dir() / stage / "mark") << stage;
  const auto is = [&](const char* stage) { return io::read_file(dir() / stage / "mark"); };
  write("two", "one");
  EXPECT_EQ(is("one"), "two");
  EXPECT_EQ(is("two"), "one");
  // Renamed, and the old name given to a new one: the old result goes with its stage.
  write("three", "one", "  two: {recipe: tokenizer, tokenizer: {vocab_size: 310}}\n");
  EXPECT_EQ(is("three"), "one");
  EXPECT_FALSE(fs::exists(dir() / "two" / "mark"));
  // A folder that was moved is found again.
  write("four", "one");
  EXPECT_EQ(is("four"), "one");
}

TEST_F(RunTest, LinksAndCopiesAreNobodys) {
  (void)run_with();
  fs::create_directories(directory_.path() / "other");
  fs::create_directory_symlink(dir() / "tok", directory_.path() / "other" / "reference");
  fs::copy(dir() / "tok", directory_.path() / "other" / "backup", fs::copy_options::recursive);
  fs::create_directories(directory_.path() / "other" / "odd");
  std::ofstream(directory_.path() / "other" / "odd" / "stage.json") << "{";
  fs::create_directories(directory_.path() / "other" / "odder");
  std::ofstream(directory_.path() / "other" / "odder" / "stage.json")
      << R"({"name": "odder", "made_from": {"options": {"train": {"keep_best": "x"}}, "reads": {"~~": 1}}, "result": {}})";
  (void)run(
      load_recipe(directory_.path() / "recipe.yaml", {"dir=" + (directory_.path() / "other").string()}));
  for (const char* there : {"reference", "backup", "odd", "odder", "tok"})
    EXPECT_TRUE(fs::exists(directory_.path() / "other" / there)) << there;
  EXPECT_TRUE(fs::exists(dir() / "tok" / "stage.json"));
}

TEST_F(RunTest, ABaseInTheFolderOfAStageIsRefused) {
  (void)run_with();
  const std::string base = (dir() / "score" / ".." / "first").string();
  std::ofstream(directory_.path() / "recipe.yaml")
      << test::tiny_recipe("float32") << "  first: {recipe: evaluate, from: base}\n";
  const std::string before = io::read_file(dir() / "first" / "model.safetensors");
  try {
    (void)run_with({"base=" + base});
    ADD_FAILURE() << "no ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("lies in the folder that stage 'first' of this run writes over"));
  }
  EXPECT_EQ(io::read_file(dir() / "first" / "model.safetensors"), before);
  const Validation looked =
      validate(directory_.path() / "recipe.yaml", {"base=" + base, "dir=" + dir().string()});
  EXPECT_THAT(looked.problems.text(), HasSubstr("base: "));
}

TEST_F(RunTest, NamesOfFoldersDoNotHideTheirFiles) {
  // transformers' Trainer names folders so.
  (void)run_with();
  fs::copy(dir() / "first", directory_.path() / "checkpoint-1", fs::copy_options::recursive);
  fs::copy(dir() / "first", directory_.path() / "checkpoint-2", fs::copy_options::recursive);
  std::ofstream(directory_.path() / "checkpoint-2" / "generation_config.json") << "{\"eos_token_id\": 2}";
  std::ofstream(directory_.path() / "recipe.yaml")
      << test::tiny_recipe("float32") << "  tensorboard: {recipe: evaluate, from: base}\n";
  const auto run_on = [&](const char* base) {
    (void)run(load_recipe(directory_.path() / "recipe.yaml", {"base=" + (directory_.path() / base).string(),
                                                              "dir=" + (directory_.path() / "on").string()}));
    const bool again = !fs::exists(directory_.path() / "on" / "tensorboard" / "mark");
    std::ofstream(directory_.path() / "on" / "tensorboard" / "mark") << "x";
    return again;
  };
  EXPECT_TRUE(run_on("checkpoint-1"));
  EXPECT_FALSE(run_on("checkpoint-1"));
  EXPECT_TRUE(run_on("checkpoint-2"));
}

TEST_F(RunTest, AFileIsKnownByItsContentUnderAnyName) {
  (void)run_with();
  mark_stages();
  (void)run_with({"source.path=./pairs.tsv"});
  EXPECT_THAT(stages_run_again(), IsEmpty());
  fs::copy_file(directory_.path() / "pairs.tsv", directory_.path() / "copy.tsv");
  (void)run_with({"source.path=" + (directory_.path() / "copy.tsv").string()});
  EXPECT_THAT(stages_run_again(), IsEmpty());
}

TEST_F(RunTest, LeftoversOfAHalfRunAreRemoved) {
  // What a killed run leaves: a folder being written by a process that is gone, and work of other options.
  fs::create_directories(dir() / "my.tmp-2024" / "notes");
  fs::create_directories(dir() / "tok.tmp-0123456789abcdef");
  fs::create_directories(dir() / "first.work" / "checkpoint-2");
  std::ofstream(dir() / "first.work" / "made_from.json") << "{\"other\": 1}";
  const RunResult result = run_with();
  EXPECT_FALSE(fs::exists(dir() / "tok.tmp-0123456789abcdef"));
  EXPECT_FALSE(fs::exists(dir() / "first.work"));
  EXPECT_TRUE(fs::exists(dir() / "my.tmp-2024" / "notes"));  // Somebody's own.
  EXPECT_EQ(result.summary["stages"]["first"]["steps"], 4);
}

TEST_F(RunTest, OneRunAFolder) {
  const io::DirectoryLock other(dir());
  EXPECT_THROW((void)run_with(), StateError);
  EXPECT_FALSE(fs::exists(dir() / "tok"));
}

TEST_F(RunTest, AnErrorNamesItsStageAndLeavesNoFolder) {
  std::ofstream(directory_.path() / "pairs.tsv", std::ios::app) << "300\tonly two\n";
  try {
    (void)run_with();
    ADD_FAILURE() << "no DataError";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("stage "));
    EXPECT_THAT(error.what(), HasSubstr("pairs.tsv:301"));
  }
  EXPECT_FALSE(fs::exists(dir() / "first"));
  EXPECT_FALSE(fs::exists(dir() / "summary.json") &&
               io::read_json(dir() / "summary.json")["stages"].contains("first"));
}

TEST_F(RunTest, RefusesTwiceTheSameLanguage) {
  EXPECT_THROW((void)run_with({"target.language=en"}), ConfigError);
}

TEST_F(RunTest, HeldOutLinesAreReadOnce) {
  const Recipe recipe = load_recipe(directory_.path() / "recipe.yaml", {});
  HeldOutLines lines(recipe);
  const std::vector<std::string>& target = lines.of(true);
  EXPECT_FALSE(target.empty());
  fs::remove(directory_.path() / "pairs.tsv");
  EXPECT_EQ(&lines.of(true), &target);
  EXPECT_THROW((void)lines.of(false), IoError);
}

TEST_F(RunTest, FoldersOfStages) {
  const Recipe recipe = load_recipe(directory_.path() / "recipe.yaml", {"dir=out"});
  EXPECT_EQ(stage_directory(recipe, "first"), fs::path("out") / "first");
  EXPECT_THROW((void)stage_directory(recipe, "frist"), StateError);
}

}  // namespace
}  // namespace bitrain::recipe
