#include <bitrain/train/checkpoint.h>

#include <cmath>
#include <fstream>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/train/crc32c.h>
#include <bitrain/train/run_state.h>
#include "train/tiny_run.h"

namespace bitrain::train {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using ::testing::ThrowsMessage;

// RFC 3720 (iSCSI), appendix B.4.
TEST(Crc32c, GivesThePublishedValues) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending.push_back(c);
  EXPECT_EQ(crc32c(ascending), 0x46dd794eU);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c("6789", crc32c("12345")), 0xe3069283U);
}

/// A store with checkpoints of one tensor filled with their step.
class Store : public ::testing::Test {
 protected:
  fs::path save(std::int64_t step) {
    CheckpointStore::Contents contents;
    contents.trainable = {{"w", at::full({3, 5}, static_cast<double>(step), at::kBFloat16)}};
    contents.optimizer = {{"w.exp_avg", at::full({3, 5}, 0.5)}};
    contents.state = &state_;
    contents.save_weights = [](const std::string& directory) {
      fs::create_directories(directory + "/hf");
      std::ofstream(directory + "/hf/config.json") << "{}";
    };
    return store_.save(step, contents, alone_);
  }

  TemporaryFolder folder_;
  CheckpointStore store_{folder_.path()};
  dist::Communicator alone_;
  nlohmann::ordered_json state_ = {{"global_step", 3}};
};

TEST_F(Store, SavesAndReadsBack) {
  EXPECT_EQ(store_.newest(), std::nullopt);
  const fs::path path = save(3);
  EXPECT_EQ(path.filename(), "checkpoint-3");
  EXPECT_TRUE(fs::exists(path / "hf" / "config.json"));
  save(12);
  save(7);
  EXPECT_THAT(store_.steps(), ElementsAre(3, 7, 12));
  EXPECT_EQ(store_.newest(), 12);
  const CheckpointReader reader(store_.path(7));
  EXPECT_EQ(reader.state(), state_);
  const optim::Parameter parameter{"w", at::zeros({3, 5}, at::kBFloat16).set_requires_grad(true)};
  reader.restore({parameter});
  EXPECT_TRUE(at::equal(parameter.tensor.detach(), at::full({3, 5}, 7.0, at::kBFloat16)));
  EXPECT_TRUE(at::equal(*reader.optimizer_tensor("w.exp_avg"), at::full({3, 5}, 0.5)));
  EXPECT_EQ(reader.optimizer_tensor("other"), std::nullopt);
}

TEST_F(Store, PrunesAllButTheLastAndTheBest) {
  for (const std::int64_t step : {1, 2, 3, 4, 5}) save(step);
  store_.prune(2, 1);
  EXPECT_THAT(store_.steps(), ElementsAre(1, 4, 5));
  store_.prune(1, std::nullopt);
  EXPECT_THAT(store_.steps(), ElementsAre(5));
}

TEST_F(Store, PassesOverWhatIsNotWhole) {
  LogSink previous = set_log_sink([](LogLevel, const std::string&) {});
  save(1);
  const fs::path no_manifest = save(2);
  fs::remove(no_manifest / "manifest.json");
  const fs::path cut = save(3);
  fs::resize_file(cut / "trainable.safetensors", fs::file_size(cut / "trainable.safetensors") - 1);
  const fs::path without_weights = save(4);
  fs::remove_all(without_weights / "hf");
  const fs::path broken_manifest = save(5);
  std::ofstream(broken_manifest / "manifest.json") << "{\"files\": ";
  fs::create_directories(folder_.path() / "checkpoint-6.tmp-1-0");
  fs::create_directories(folder_.path() / "checkpoint-x");
  std::ofstream(folder_.path() / "checkpoint-9") << "a file";
  EXPECT_THAT(store_.steps(), ElementsAre(1));
  EXPECT_EQ(store_.newest(), 1);
  fs::remove_all(store_.path(1));
  EXPECT_THROW((void)store_.newest(), FormatError);  // All are damaged: to begin anew would lose them.
  for (const fs::path& path : {no_manifest, cut, without_weights, broken_manifest}) {
    EXPECT_FALSE(is_complete_checkpoint(path));
    EXPECT_THROW(CheckpointReader{path}, FormatError);
  }
  set_log_sink(std::move(previous));
}

TEST_F(Store, AChangedByteIsFound) {
  const fs::path path = save(1);
  const fs::path file = path / "optimizer.safetensors";
  std::string bytes = io::read_file(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  std::ofstream(file, std::ios::binary) << bytes;
  EXPECT_THAT([&] { CheckpointReader{path}; },
              ThrowsMessage<FormatError>(AllOf(HasSubstr("optimizer.safetensors"), HasSubstr("checksum"))));
}

TEST_F(Store, KeepsWhatElseARunGoesOnFrom) {
  CheckpointStore::Contents contents;
  contents.trainable = {{"w", at::zeros({2})}};
  contents.optimizer = {{"w.exp_avg", at::zeros({2})}};
  contents.extra = {{"memory_bank.language.0", at::full({2, 3}, 4.0)}};
  contents.state = &state_;
  const fs::path path = store_.save(5, contents, alone_);
  const CheckpointReader reader(path);
  EXPECT_TRUE(at::equal(*reader.extra_tensor("memory_bank.language.0"), at::full({2, 3}, 4.0)));
  EXPECT_EQ(reader.extra_tensor("other"), std::nullopt);
  save(6);  // One without.
  EXPECT_FALSE(fs::exists(store_.path(6) / "extra.safetensors"));
  EXPECT_EQ(CheckpointReader(store_.path(6)).extra_tensor("memory_bank.language.0"), std::nullopt);
  const fs::path file = path / "extra.safetensors";
  std::string bytes = io::read_file(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  std::ofstream(file, std::ios::binary) << bytes;
  EXPECT_THAT([&] { CheckpointReader{path}; },
              ThrowsMessage<FormatError>(AllOf(HasSubstr("extra.safetensors"), HasSubstr("checksum"))));
  fs::remove(file);
  EXPECT_FALSE(is_complete_checkpoint(path));
}

TEST_F(Store, RestoreChangesNothingWhenSomethingDoesNotFit) {
  save(4);
  const CheckpointReader reader(store_.path(4));
  const optim::Parameter good{"w", at::zeros({3, 5}, at::kBFloat16)};
  const optim::Parameter missing{"v", at::zeros({1})};
  EXPECT_THAT(
      [&] {
        reader.restore({good, missing});
      },
      ThrowsMessage<StateError>(HasSubstr("no tensor 'v'")));
  EXPECT_EQ(good.tensor.sum().item<double>(), 0);
  EXPECT_THAT([&] { reader.restore({}); },
              ThrowsMessage<StateError>(HasSubstr("1 tensors that are not trained here")));
  EXPECT_THAT(
      [&] {
        reader.restore({{"w", at::zeros({5, 3}, at::kBFloat16)}});
      },
      ThrowsMessage<StateError>(HasSubstr("[3, 5] there and BFloat16[5, 3] here")));
}

TEST_F(Store, AWriterThatFailsLeavesNothing) {
  save(1);
  CheckpointStore::Contents contents;
  contents.state = &state_;
  contents.save_weights = [](const std::string&) { throw IoError("the disk is full"); };
  EXPECT_THAT(
      [&] { (void)store_.save(2, contents, alone_); },
      ThrowsMessage<IoError>(AllOf(HasSubstr("cannot save"), HasSubstr("checkpoint-2: the disk is full"))));
  int entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder_.path())) ++entries;
  EXPECT_EQ(entries, 1);
}

TEST(TrainerState, ComesBackAsItWas) {
  RunState state;
  state.step = 3;
  state.tokens = 1234;
  state.supervised = 1000.5;
  state.seconds = 1.0 / 3;
  state.language_tokens = {{"en", 1000}, {"es", 234}};
  for (std::int64_t step = 1; step <= 3; ++step) {
    StepRecord& record = state.log.emplace_back();
    record.step = step;
    record.loss = std::sqrt(static_cast<double>(step));
    record.learning_rate = 0.1 * static_cast<double>(step);
    record.total_tokens = 400 * step;
  }
  state.log[1].loss = std::nan("");
  state.log[1].skipped = true;
  state.log[1].skip_reason = "the loss is nan";
  state.evaluations = {{2, 0.5, {{"en", {{"loss_per_token", 1.25}}}}}};
  state.guard = {{1.1, 2.2}, 1};
  state.best_step = 2;
  state.best_metric = 1.25;
  state.cursor = {{"samples", 7}};
  state.seed = 9;
  const std::string text = trainer_state_json(state, testing::tiny_options(10), 10).dump();
  const auto json = io::parse_json(text, "t");
  // What Hugging Face's tools read.
  EXPECT_EQ(json.at("global_step"), 3);
  EXPECT_EQ(json.at("max_steps"), 10);
  EXPECT_EQ(json.at("log_history").size(), 4U);
  EXPECT_EQ(json.at("log_history")[2].at("eval_en_loss_per_token"), 1.25);  // After the steps up to its own.
  EXPECT_EQ(json.at("log_history")[3].at("step"), 3);
  EXPECT_EQ(json.at("best_global_step"), 2);
  const RunState again = parse_trainer_state(json, "t");
  EXPECT_EQ(again.seconds, state.seconds);
  EXPECT_EQ(again.supervised, state.supervised);
  EXPECT_EQ(again.language_tokens, state.language_tokens);
  EXPECT_EQ(again.log[2].loss, state.log[2].loss);
  EXPECT_TRUE(std::isnan(again.log[1].loss));
  EXPECT_EQ(again.log[1].skip_reason, "the loss is nan");
  EXPECT_EQ(again.evaluations[0].languages, state.evaluations[0].languages);
  EXPECT_EQ(again.guard.recent, state.guard.recent);
  EXPECT_EQ(again.cursor, state.cursor);
  EXPECT_EQ(trainer_state_json(again, testing::tiny_options(10), 10).dump(), text);
}

TEST(TrainerState, RefusesForeignStates) {
  EXPECT_THAT(
      [] {
        (void)parse_trainer_state({{"global_step", 3}, {"log_history", nlohmann::ordered_json::array()}},
                                  "hf.json");
      },
      ThrowsMessage<FormatError>(HasSubstr("hf.json: not a trainer state that bitrain can resume from")));
  nlohmann::ordered_json json = trainer_state_json({}, {}, 1);
  json["bitrain"]["version"] = 2;
  EXPECT_THAT([&] { (void)parse_trainer_state(json, "new.json"); },
              ThrowsMessage<FormatError>(HasSubstr("version 2")));
  json = trainer_state_json({}, {}, 1);
  json["bitrain"]["cursor"] = 3;
  json["num_input_tokens_seen"] = "many";
  EXPECT_THROW((void)parse_trainer_state(json, "bad.json"), FormatError);
}

}  // namespace
}  // namespace bitrain::train
