#include <sys/stat.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/run.h>

#include "support/temporary_directory.h"
#include "support/tiny_recipe.h"

/// What a run takes up again, begins anew, or refuses to touch.
namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

class ResumeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_rows("cat");
    std::ofstream(directory_.path() / "recipe.yaml")
        << test::tiny_recipe("float32")
        << R"(  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320, exact_vocab_size: false}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}
    data: {loader: {sequence_length: 64, rows_per_step: 2}}
    train: {max_steps: 100000, save_every: 1, keep_last: 100000, schedule: {type: constant}}
)";
    std::ofstream(directory_.path() / "score.yaml")
        << test::tiny_recipe("float32") << R"(  score: {recipe: evaluate, from: base}
)";
    before_ = set_log_sink([this](LogLevel, const std::string& text) {
      const std::lock_guard lock(mutex_);
      log_.push_back(text);
    });
  }
  void TearDown() override { set_log_sink(before_); }

  void write_rows(const std::string& animal) const {
    test::write_pairs(directory_.path() / "pairs.tsv", 300, animal);
  }

  [[nodiscard]] fs::path dir() const { return directory_.path() / "run"; }
  [[nodiscard]] fs::path work() const { return dir() / "first.work"; }

  RunResult run_with(std::vector<std::string> overrides = {}, const std::string& file = "recipe.yaml") {
    {
      const std::lock_guard lock(mutex_);
      log_.clear();
    }
    overrides.push_back("dir=" + dir().string());
    return run(load_recipe(directory_.path() / file, overrides));
  }

  /// Runs until a checkpoint at or behind `step` is there, then sends SIGINT.
  void interrupt_after(std::int64_t step, const std::vector<std::string>& overrides = {}) {
    std::atomic<bool> over = false;
    std::thread watcher([&] {
      while (newest() < step && !over) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (!over) ::kill(::getpid(), SIGINT);
    });
    RunResult result;
    EXPECT_NO_THROW(result = run_with(overrides));
    over = true;
    watcher.join();
    ASSERT_EQ(result.signal, SIGINT);
  }

  [[nodiscard]] std::int64_t newest() const {
    std::int64_t found = 0;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(work(), error)) {
      const std::string name = entry.path().filename().string();
      if (name.rfind("checkpoint-", 0) == 0 && name.find(".tmp") == std::string::npos)
        found = std::max<std::int64_t>(found, std::stoll(name.substr(11)));
    }
    return found;
  }
  [[nodiscard]] bool has_checkpoint(std::int64_t step) const {
    return fs::exists(work() / ("checkpoint-" + std::to_string(step)) / "manifest.json");
  }

  /// Changes the recipe's file.
  void edit(const std::string& what, const std::string& with) const {
    std::string text = io::read_file(directory_.path() / "recipe.yaml");
    text.replace(text.find(what), what.size(), with);
    std::ofstream(directory_.path() / "recipe.yaml") << text;
  }

  std::string refusal_of(const std::vector<std::string>& overrides) {
    try {
      (void)run_with(overrides);
    } catch (const StateError& error) {
      return error.what();
    }
    return "it ran";
  }

  test::TemporaryDirectory directory_;
  std::mutex mutex_;
  std::vector<std::string> log_;
  LogSink before_;
};

TEST_F(ResumeTest, OptionsThatChangeNoStepAreFree) {
  interrupt_after(2);
  const std::int64_t reached = newest();
  ASSERT_TRUE(has_checkpoint(reached));
  interrupt_after(reached + 2,
                  {"stages.first.train.log_every=7", "stages.first.train.save_every=2",
                   "stages.first.train.keep_last=50000", "stages.first.train.recompute=true",
                   "stages.first.train.tensorboard=false", "stages.first.train.eval_every=50000"});
  EXPECT_TRUE(has_checkpoint(reached));
  EXPECT_THAT(log_, Contains(AllOf(HasSubstr("goes on with"), HasSubstr("train.log_every (was 1, is 7)"))));
  // A longer or shorter run takes the same steps under a constant schedule.
  const std::int64_t further = newest();
  const RunResult done = run_with({"stages.first.train.max_steps=" + std::to_string(further + 2)});
  EXPECT_EQ(done.summary["stages"]["first"]["steps"], further + 2);
  EXPECT_THAT(log_, Contains(HasSubstr("train.max_steps (was 100000")));
  EXPECT_FALSE(fs::exists(work()));
  // Finished: other logging is no reason to train again.
  std::ofstream(dir() / "first" / "mark") << "x";
  (void)run_with(
      {"stages.first.train.max_steps=" + std::to_string(further + 2), "stages.first.train.log_every=3"});
  EXPECT_TRUE(fs::exists(dir() / "first" / "mark"));
  EXPECT_THAT(log_, Contains(AllOf(HasSubstr("stays as it was made"), HasSubstr("train.log_every"))));
}

// What the messages of a run that had no memory left, or whose loss was no number, tell one to change.
TEST_F(ResumeTest, WhatMessagesAdviseIsFree) {
  interrupt_after(2);
  const std::int64_t reached = newest();
  const std::string end = "stages.first.train.max_steps=" + std::to_string(reached + 2);
  const RunResult done = run_with(
      {end, "stages.first.data.loader.micro_batch_rows=1", "stages.first.data.loader.prefetch_threads=0",
       "stages.first.data.loader.prefetch_steps=1", "stages.first.train.recompute=true",
       "stages.first.train.guards.on_nonfinite=skip", "stages.first.train.guards.max_skipped_steps=20"});
  EXPECT_EQ(done.summary["stages"]["first"]["steps"], reached + 2);
  EXPECT_THAT(log_, Contains(AllOf(HasSubstr("goes on with"),
                                   HasSubstr("data.loader.micro_batch_rows (was 0, is 1)"))));
  // The other way round steps may have been skipped that would have stopped it.
  fs::remove_all(dir() / "first");
  interrupt_after(2, {"stages.first.train.guards.on_nonfinite=skip"});
  EXPECT_THAT(refusal_of({"stages.first.train.guards.on_nonfinite=stop"}),
              HasSubstr("train.guards.on_nonfinite (was \"skip\", is \"stop\")"));
}

TEST_F(ResumeTest, UnfinishedWorkOfOtherOptionsIsRefusedAndKept) {
  interrupt_after(3);
  const std::int64_t reached = newest();
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"stages.first.train.learning_rate=0.01"}, "train.learning_rate (was 0.0002, is 0.01)"},
      {{"stages.first.data.loader.rows_per_step=3"}, "data.loader.rows_per_step (was 2, is 3)"},
      {{"seed=7"}, "seed (was 42, is 7)"},
      {{"dtype=bfloat16"}, "dtype"},
      {{"stages.tok.tokenizer.vocab_size=310"}, "what stage 'tok' leaves is another now"},
      {{"stages.first.train.max_steps=1"}, "is past the end of this run"},
      {{"stages.first.train.schedule.type=cosine"}, "train.schedule.type (was \"constant\", is \"cosine\")"}};
  for (const auto& [overrides, what] : cases) {
    const std::string message = refusal_of(overrides);
    EXPECT_THAT(message, AllOf(HasSubstr("stage first"), HasSubstr(work().string()), HasSubstr(what),
                               HasSubstr("a checkpoint of step " + std::to_string(reached)),
                               HasSubstr("to begin anew, remove or rename that folder")));
    EXPECT_TRUE(has_checkpoint(reached)) << what;
    EXPECT_TRUE(fs::exists(dir() / "tok" / "stage.json"));
  }
  write_rows("dog");  // Of the same length.
  EXPECT_THAT(refusal_of({}), HasSubstr("source_file.hash"));
  write_rows("cat");
  fs::remove(work() / "made_from.json");
  EXPECT_THAT(refusal_of({}), HasSubstr("does not say what it was made from"));
  EXPECT_TRUE(has_checkpoint(reached));
  // On purpose: the folder is put away.
  fs::rename(work(), dir() / "put-away");
  EXPECT_EQ(run_with({"stages.first.train.max_steps=2"}).summary["stages"]["first"]["steps"], 2);
}

TEST_F(ResumeTest, WorkOfARenamedOrMovedStageGoesOn) {
  interrupt_after(3);
  const std::int64_t reached = newest();
  // Another number, and a source that is made otherwise: refused, and kept.
  edit("  first:",
       "  more: {recipe: tokenizer, tokenizer: {vocab_size: 310, exact_vocab_size: false}}\n  first:");
  EXPECT_THAT(refusal_of({}),
              AllOf(HasSubstr(work().string()), HasSubstr("what stage 'more' leaves is another now")));
  EXPECT_TRUE(has_checkpoint(reached));
  // Another number and another name alone: it goes on.
  edit("  first:\n", "  anders:\n    from: tok\n");
  const RunResult done = run_with({"stages.anders.train.max_steps=" + std::to_string(reached + 2)});
  EXPECT_EQ(done.summary["stages"]["anders"]["steps"], reached + 2);
  EXPECT_THAT(log_, Contains(AllOf(HasSubstr("first.work"), HasSubstr("anders.work now"))));
  EXPECT_THAT(log_, Contains(HasSubstr("goes on with")));
  EXPECT_FALSE(fs::exists(work()));
  EXPECT_FALSE(fs::exists(dir() / "anders.work"));
}

TEST_F(ResumeTest, WorkOfNoStageIsNamedAndKept) {
  interrupt_after(3);
  const std::int64_t reached = newest();
  edit("  first:", "  second:");
  edit("hidden_size: 32", "hidden_size: 16");
  edit("max_steps: 100000", "max_steps: 2");
  EXPECT_EQ(run_with().signal, 0);
  EXPECT_THAT(log_, Contains(AllOf(HasSubstr(work().string()), HasSubstr("is of no stage of this recipe"))));
  EXPECT_TRUE(has_checkpoint(reached));
}

TEST_F(ResumeTest, DamagedCheckpointsAreKept) {
  interrupt_after(3);
  const std::int64_t reached = newest();
  for (const auto& entry : fs::directory_iterator(work()))
    if (entry.is_directory() && entry.path().filename().string().rfind("checkpoint-", 0) == 0)
      fs::resize_file(entry.path() / "optimizer.safetensors", 100);
  try {
    (void)run_with();
    ADD_FAILURE() << "it ran";
  } catch (const FormatError& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("no checkpoint in"), HasSubstr("optimizer.safetensors has 100 bytes"),
                      HasSubstr("to begin anew, remove or rename")));
  }
  EXPECT_TRUE(has_checkpoint(reached));
  EXPECT_TRUE(has_checkpoint(1));
}

TEST_F(ResumeTest, TheLengthMattersToScheduleAndMixture) {
  const std::vector<std::string> cosine = {"stages.first.train.schedule.type=cosine"};
  interrupt_after(2, cosine);
  EXPECT_THAT(
      refusal_of({cosine[0], "stages.first.train.max_steps=90000"}),
      AllOf(HasSubstr("train.max_steps (was 100000, is 90000)"),
            HasSubstr("with the schedule cosine the learning rates of the steps taken depend on it")));
  fs::remove_all(work());
  const std::string stages =
      "stages.first.data.loader.mixture.stages=[{weights: {source: 1, target: 1}}, {weights: {source: 0, "
      "target: 1}}]";
  interrupt_after(2, {stages});
  EXPECT_THAT(refusal_of({stages, "stages.first.train.max_steps=90000"}),
              HasSubstr("the mixture depends on it"));
  fs::remove_all(work());
  // Warm-up in steps does not depend on the length; the stable part of wsd neither.
  const std::vector<std::string> wsd = {"stages.first.train.schedule={type: wsd, warmup_steps: 4}"};
  interrupt_after(2, wsd);
  const std::int64_t reached = newest();
  const RunResult done = run_with({wsd[0], "stages.first.train.max_steps=" + std::to_string(10 * reached)});
  EXPECT_EQ(done.summary["stages"]["first"]["steps"], 10 * reached);
}

TEST_F(ResumeTest, LogsAloneAreNoWork) {
  fs::create_directories(work() / "tensorboard");
  std::ofstream(work() / "metrics.jsonl") << "{}\n";
  std::ofstream(work() / "tensorboard" / "events") << "x";
  std::ofstream(work() / "made_from.json") << R"({"other": 1})";
  EXPECT_EQ(run_with({"stages.first.train.max_steps=2"}).summary["stages"]["first"]["steps"], 2);
}

TEST_F(ResumeTest, InputsAreKnownByTheirContent) {
  (void)run_with({"stages.first.train.max_steps=2"});
  const fs::path base = directory_.path() / "base";
  fs::copy(dir() / "first", base, fs::copy_options::recursive);
  fs::remove_all(dir());
  const auto scored = [&] {
    (void)run_with({"base=" + base.string()}, "score.yaml");
    const bool again = !fs::exists(dir() / "score" / "mark");
    std::ofstream(dir() / "score" / "mark") << "x";
    return again;
  };
  EXPECT_TRUE(scored());
  EXPECT_FALSE(scored());
  // Other bytes under the same size and time.
  const auto change = [](const fs::path& file, std::int64_t at, const std::string& bytes) {
    const fs::file_time_type time = fs::last_write_time(file);
    std::fstream(file, std::ios::in | std::ios::out).seekp(at, std::ios::beg) << bytes;
    fs::last_write_time(file, time);
  };
  const auto weights = static_cast<std::int64_t>(fs::file_size(base / "model.safetensors"));
  change(base / "model.safetensors", weights - 4, std::string("\x01\x02\x03\x3c"));
  EXPECT_TRUE(scored());
  EXPECT_THAT(log_, Contains(AllOf(HasSubstr("was made otherwise and will be replaced"),
                                   HasSubstr("input.model.safetensors.hash"))));
  EXPECT_FALSE(scored());
  std::string tokenizer = io::read_file(base / "tokenizer_config.json");
  std::ofstream(base / "tokenizer_config.json") << tokenizer << "\n";
  EXPECT_TRUE(scored());
  write_rows("dog");
  EXPECT_TRUE(scored());
  // Only touched, or copied: the same content.
  for (const fs::path& file : {base / "model.safetensors", directory_.path() / "pairs.tsv"})
    fs::last_write_time(file, fs::file_time_type::clock::now());
  const fs::path moved = directory_.path() / "moved";
  fs::copy(base, moved, fs::copy_options::recursive);
  fs::remove_all(base);
  fs::rename(moved, base);
  // What is no part of the model: a readme, a checkpoint of a trainer, pickles.
  std::ofstream(base / "README.md") << "words";
  std::ofstream(base / "training_args.bin") << "x";
  fs::create_directories(base / "checkpoint-3");
  std::ofstream(base / "checkpoint-3" / "model.safetensors") << "x";
  EXPECT_FALSE(scored());
  // A damaged memory of hashes is no error.
  std::ofstream(dir() / ".contents.json") << "{";
  EXPECT_FALSE(scored());
}

TEST_F(ResumeTest, AStagesFolderMayBeALink) {
  (void)run_with({"stages.first.train.max_steps=2"});
  fs::rename(dir() / "first", directory_.path() / "big-disk");
  fs::create_directory_symlink(directory_.path() / "big-disk", dir() / "first");
  (void)run_with({"stages.first.train.max_steps=3"});
  EXPECT_TRUE(fs::is_symlink(dir() / "first"));
  EXPECT_EQ(io::read_json(directory_.path() / "big-disk" / "stage.json")["result"]["steps"], 3);
  fs::remove(dir() / "first");
  std::ofstream(dir() / "first") << "a file";
  fs::remove_all(dir() / "tok");
  EXPECT_THROW((void)run_with({"stages.first.train.max_steps=3"}), ConfigError);
  EXPECT_FALSE(fs::exists(dir() / "tok"));  // Before any work.
}

}  // namespace
}  // namespace bitrain::recipe
