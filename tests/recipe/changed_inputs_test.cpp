#include <atomic>
#include <fstream>
#include <functional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/recipe/content_hashes.h>
#include <bitrain/recipe/run.h>

#include "support/compressed.h"
#include "support/temporary_directory.h"
#include "support/tiny_recipe.h"

/// Files that change while a run is under way: it stops, and says which.
namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class ChangedInputs : public ::testing::Test {
 protected:
  void SetUp() override {
    test::write_pairs(text_);
    const std::string training = R"(
    data: {loader: {sequence_length: 64, rows_per_step: 2}}
    train: {max_steps: 100000, save_every: 1, keep_last: 100000, eval_at_start: false, schedule: {type: constant}}
)";
    std::ofstream(directory_.path() / "recipe.yaml") << test::tiny_recipe("float32") << R"(
  tok: {recipe: tokenizer, tokenizer: {vocab_size: 320, exact_vocab_size: false}}
  first:
    recipe: pretrain
    model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64})"
                                                     << training;
    std::ofstream(directory_.path() / "more.yaml") << test::tiny_recipe("float32") << R"(
  adapt:
    recipe: cpt
    from: base
    lora: {target_modules: [q_proj]})" << training;
  }

  RunResult run_with(std::vector<std::string> overrides = {}, const std::string& file = "recipe.yaml") {
    overrides.push_back("dir=" + dir().string());
    return run(load_recipe(directory_.path() / file, overrides));
  }

  /// What a run says that is made while `change` happens, once it has a checkpoint in `work`.
  std::string stopped_by(const std::string& work, const std::function<void()>& change,
                         const std::vector<std::string>& overrides = {},
                         const std::string& file = "recipe.yaml") {
    std::atomic<bool> over = false;
    std::thread watcher([&] {
      while (!fs::exists(dir() / work / "checkpoint-2" / "manifest.json") && !over)
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      if (!over) change();
    });
    std::string message = "it ran to its end";
    try {
      (void)run_with(overrides, file);
    } catch (const IoError& error) {
      message = error.what();
    } catch (const std::exception& error) {
      message = std::string("another kind of error: ") + error.what();
    }
    over = true;
    watcher.join();
    return message;
  }

  [[nodiscard]] fs::path dir() const { return directory_.path() / "run"; }

  test::TemporaryDirectory directory_;
  fs::path text_ = directory_.path() / "pairs.tsv";
};

TEST_F(ChangedInputs, TextThatGrowsStopsTheRun) {
  const std::string message =
      stopped_by("first.work", [&] { std::ofstream(text_, std::ios::app) << "300\tone\tuno\n"; });
  EXPECT_THAT(message, AllOf(HasSubstr("stage first"), HasSubstr(text_.string()), HasSubstr("changed")));
  EXPECT_FALSE(fs::exists(dir() / "first"));
}

TEST_F(ChangedInputs, TextThatIsCutStopsTheRun) {
  // Within its last page: reading more than that in this moment would end the test program.
  const auto cut = [&] { fs::resize_file(text_, fs::file_size(text_) - 10); };
  EXPECT_THAT(stopped_by("first.work", cut), HasSubstr(text_.string()));
}

TEST_F(ChangedInputs, TextThatIsReplacedStopsTheRun) {
  const auto replace = [&] {
    test::write_pairs(directory_.path() / "new", 300, "dog");  // Of the same size.
    fs::rename(directory_.path() / "new", text_);
  };
  EXPECT_THAT(stopped_by("first.work", replace), AllOf(HasSubstr("stage first"), HasSubstr(text_.string())));
}

TEST_F(ChangedInputs, TextThatIsTouchedStopsTheRunWhichGoesOn) {
  const auto touch = [&] { fs::last_write_time(text_, fs::file_time_type::clock::now()); };
  EXPECT_THAT(stopped_by("first.work", touch), HasSubstr(text_.string() + ": changed while it was in use"));
  EXPECT_NO_THROW((void)run_with({"stages.first.train.max_steps=500", "stages.first.train.save_every=500"}));
  EXPECT_TRUE(fs::exists(dir() / "first"));
}

TEST_F(ChangedInputs, PackedTextThatChangesStopsAtACheckpoint) {
  const fs::path packed = text_.string() + ".gz";
  std::ofstream(packed, std::ios::binary) << test::gzip(io::read_file(text_));
  const std::vector<std::string> both = {"source.path=" + packed.string(), "target.path=" + packed.string()};
  const std::string message = stopped_by(
      "first.work", [&] { std::ofstream(packed, std::ios::app) << "x"; }, both);
  EXPECT_THAT(message, HasSubstr(packed.string()));
}

TEST_F(ChangedInputs, AShardThatIsReplacedStopsTheRun) {
  (void)run_with({"stages.first.train.max_steps=2"});
  const fs::path base = directory_.path() / "base";
  fs::rename(dir() / "first", base);
  fs::remove_all(dir());
  const fs::path weights = base / "model.safetensors";
  const auto replace = [&] {
    std::string bytes = io::read_file(weights);
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    io::write_file_atomic(weights, bytes);
  };
  const std::string message = stopped_by("adapt.work", replace, {"base=" + base.string()}, "more.yaml");
  EXPECT_THAT(message, AllOf(HasSubstr("stage adapt"), HasSubstr(weights.string())));
}

class SeenContents : public ::testing::Test {
 protected:
  SeenContents() {
    std::ofstream(path_) << "some text\n";
    (void)contents_.of_file(path_);
  }

  void replace_by(const std::string& text) const {
    std::ofstream(directory_.path() / "new") << text;
    fs::rename(directory_.path() / "new", path_);
  }

  test::TemporaryDirectory directory_;
  fs::path path_ = directory_.path() / "text";
  ContentHashes contents_{directory_.path() / "memory.json"};
};

TEST_F(SeenContents, TheSameContentIsNoChange) {
  EXPECT_NO_THROW(contents_.check_unchanged());
  replace_by("some text\n");
  EXPECT_NO_THROW(contents_.check_unchanged());
  fs::last_write_time(path_, fs::last_write_time(path_) + std::chrono::seconds(1));
  EXPECT_NO_THROW(contents_.check_unchanged());
  std::ofstream(path_) << "some text\n";
  EXPECT_NO_THROW(contents_.check_unchanged());
  fs::remove(path_);
  EXPECT_NO_THROW(contents_.check_unchanged());
}

TEST_F(SeenContents, AnotherContentIsNamed) {
  const auto names_it = ThrowsMessage<IoError>(HasSubstr(path_.string() + ": changed while it was in use"));
  const fs::file_time_type time = fs::last_write_time(path_);
  replace_by("SOME TEXT\n");
  fs::last_write_time(path_, time);  // As cp -p does.
  EXPECT_THAT([&] { contents_.check_unchanged(); }, names_it);
  replace_by("some text\nand more\n");
  EXPECT_THAT([&] { contents_.check_unchanged(); }, names_it);
  replace_by("");
  EXPECT_THAT([&] { contents_.check_unchanged(); }, names_it);
}

TEST_F(SeenContents, ContentsThatWereRememberedAreSeenToo) {
  fs::last_write_time(path_, fs::last_write_time(path_) - std::chrono::hours(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(3100));  // Younger files are not remembered.
  (void)contents_.of_file(path_);
  contents_.remember();
  ContentHashes later(directory_.path() / "memory.json");
  (void)later.of_file(path_);
  EXPECT_NO_THROW(later.check_unchanged());
  replace_by("SOME TEXT\n");
  EXPECT_THAT([&] { later.check_unchanged(); }, ThrowsMessage<IoError>(HasSubstr(path_.string())));
}

}  // namespace
}  // namespace bitrain::recipe
