#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/io/file.h>
#include <bitrain/train/crc32c.h>
#include <bitrain/train/metrics.h>
#include <bitrain/train/progress.h>
#include <bitrain/train/tensorboard.h>
#include "train/tiny_run.h"

namespace bitrain::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TemporaryFolder;
using ::testing::ThrowsMessage;

StepRecord record_of(std::int64_t step, double loss) {
  StepRecord record;
  record.step = step;
  record.loss = loss;
  record.learning_rate = 0.001;
  record.grad_norm = 2.5;
  record.seconds = 0.5;
  record.tokens_per_second = 12345;
  record.total_tokens = 100 * step;
  record.parts["language/es"] = loss + 1;
  return record;
}

RunInfo info_of(std::int64_t first_step, std::int64_t total, std::int64_t log_every = 1) {
  RunInfo info;
  info.first_step = first_step;
  info.total_steps = total;
  info.trainable_parameters = 1234567;
  info.log_every = log_every;
  return info;
}

std::vector<std::int64_t> steps_in(const fs::path& path) {
  std::vector<std::int64_t> steps;
  for (const std::string& line : split(io::read_file(path), '\n')) {
    if (!line.empty()) steps.push_back(json::parse(line).at("step"));
  }
  return steps;
}

TEST(MetricsFile, HoldsALineAStepAndIsCutToTheResumedStep) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  {
    MetricsFile metrics(path);
    metrics.on_begin(info_of(0, 10, 2));
    for (std::int64_t step = 1; step <= 6; ++step) metrics.on_step(record_of(step, 3.0));
    metrics.on_evaluate({6, 0.1, {{"es", {{"bits_per_byte", 1.5}}}}});
    EXPECT_THAT(steps_in(path), ElementsAre(1, 2, 4, 6, 6));  // Flushed, though still open.
  }
  std::ofstream(path, std::ios::app) << "{\"step\": 7, \"lo";  // The process died here.
  {
    MetricsFile metrics(path);
    metrics.on_begin(info_of(4, 10, 2));
    EXPECT_THAT(steps_in(path), ElementsAre(1, 2, 4));
    metrics.on_step(record_of(6, std::nan("")));
    metrics.on_evaluate({6, 0.1, {{"es", {{"bits_per_byte", 1.25}}}}});
  }
  const std::vector<std::string> lines = split(io::read_file(path), '\n');
  EXPECT_EQ(json::parse(lines[0]).at("tokens"), 100);
  EXPECT_EQ(json::parse(lines[0]).at("parts").at("language/es"), 4.0);
  EXPECT_TRUE(json::parse(lines[3]).at("loss").is_null());
  EXPECT_EQ(json::parse(lines[4]).at("evaluation").at("es").at("bits_per_byte"), 1.25);
  MetricsFile fresh(path);
  fresh.on_begin(info_of(0, 10));
  EXPECT_TRUE(steps_in(path).empty());
}

TEST(MetricsFile, AFolderThatIsNotThereIsAnError) {
  MetricsFile metrics("/nowhere/at/all/metrics.jsonl");
  EXPECT_THROW(metrics.on_begin(info_of(0, 10)), IoError);
}

/// The payloads of the records, their checksums verified.
std::vector<std::string> read_records(const fs::path& path) {
  const std::string bytes = io::read_file(path);
  const auto number = [&](std::size_t at, std::size_t size) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i)
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
    return value;
  };
  const auto unmask = [](std::uint64_t masked) {
    const auto rotated = static_cast<std::uint32_t>(masked - 0xa282ead8U);
    return (rotated >> 17) | (rotated << 15);
  };
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::uint64_t length = number(at, 8);
    EXPECT_EQ(unmask(number(at + 8, 4)), crc32c(bytes.substr(at, 8)));
    records.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(unmask(number(at + 12 + length, 4)), crc32c(records.back()));
    at += 16 + length;
  }
  return records;
}

/// Writes what tests/python/test_tensorboard.py reads with the tensorboard package.
void write_event_files(const fs::path& directory) {
  {
    TensorBoard board(directory);
    board.on_begin(info_of(0, 300));
    for (std::int64_t step = 1; step <= 5; ++step)
      board.on_step(record_of(step, 10.0 / static_cast<double>(step)));
    board.on_evaluate({5, 0.1, {{"es", {{"bits_per_byte", 1.5}}}, {"en", {{"bits_per_byte", 1.25}}}}});
  }
  // Resumed at step 3: what the first file has from step 4 on is no longer true.
  TensorBoard board(directory);
  board.on_begin(info_of(3, 300));
  board.on_step(record_of(4, 40.0));
  board.on_step(record_of(300, 0.5));
}

TEST(TensorBoard, RecordsHaveTheirChecksumsAndTags) {
  const char* oracle_folder = std::getenv("BITRAIN_TENSORBOARD_FOLDER");  // Set by the oracle test.
  const TemporaryFolder folder;
  const fs::path directory = oracle_folder != nullptr ? fs::path(oracle_folder) : folder.path();
  write_event_files(directory);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
  ASSERT_EQ(files.size(), 2U);
  std::sort(files.begin(), files.end());
  EXPECT_THAT(files[0].filename().string(), ::testing::StartsWith("events.out.tfevents."));
  const std::vector<std::string> records = read_records(files[0]);
  ASSERT_EQ(records.size(), 7U);
  EXPECT_THAT(records[0], HasSubstr("brain.Event:2"));
  EXPECT_THAT(records[1], HasSubstr("train/loss"));
  EXPECT_THAT(records[1], HasSubstr("train/language/es"));
  EXPECT_THAT(records[6], HasSubstr("eval/es/bits_per_byte"));
  EXPECT_EQ(read_records(files[1]).size(), 4U);
}

TEST(TensorBoard, AFolderThatCannotBeMadeIsAnError) {
  TensorBoard board("/proc/nowhere");
  EXPECT_THROW(board.on_begin(info_of(0, 10)), IoError);
}

TEST(Progress, LinesComeEveryLogEverySteps) {
  std::string text;
  Progress progress("adapt", ProgressStyle::kLines, [&](const std::string& part) { text += part; });
  progress.on_begin(info_of(2, 9, 3));
  for (std::int64_t step = 3; step <= 9; ++step) progress.on_step(record_of(step, 2.5));
  progress.on_evaluate({9, 1, {{"es", {{"bits_per_byte", 1.5}, {"tokens", 100}}}}});
  TrainResult result;
  result.steps = 9;
  result.train_loss = 2.5;
  progress.on_end(result);
  const std::vector<std::string> lines = split(text, '\n');
  ASSERT_EQ(lines.size(), 7U) << text;
  EXPECT_EQ(lines[0], "adapt: 9 steps, 1,234,567 trainable parameters, resumed at step 2");
  EXPECT_THAT(lines[1],
              HasSubstr("adapt: step 3/9  loss 2.5000  lr 0.001  norm 2.5  12,345 tokens/s  3.0 s left"));
  EXPECT_THAT(lines[2], HasSubstr("step 6/9"));
  EXPECT_THAT(lines[3], HasSubstr("step 9/9"));
  EXPECT_EQ(lines[4], "adapt: evaluation at step 9:  es bits_per_byte 1.5000");
  EXPECT_THAT(lines[5], HasSubstr("adapt: done, step 9"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

TEST(Progress, BarGivesWayToMessages) {
  std::string text;
  {
    Progress progress("adapt", ProgressStyle::kBar, [&](const std::string& part) { text += part; });
    progress.on_begin(info_of(0, 4));
    progress.on_step(record_of(2, 2.5));
    EXPECT_THAT(text, HasSubstr("adapt [============>           ] step 2/4"));
    const std::size_t before = text.size();
    log_warn("something happened");
    EXPECT_EQ(text.substr(before), "\r\x1b[Kwarning: something happened\n");
    progress.on_step(record_of(4, 2.5));
    EXPECT_THAT(text, HasSubstr("[========================] step 4/4"));
    progress.on_save(4, "out/checkpoint-4");
    EXPECT_THAT(text, ::testing::EndsWith("\r\x1b[Kadapt: saved out/checkpoint-4\n"));
  }
  const std::size_t end = text.size();
  log_debug("not shown");
  EXPECT_EQ(text.size(), end);
}

/// What a terminal of `columns` shows after `text`: rows, with lines that go on in the next where they are
/// too long. Knows \r, \n and "clear to the end of the line".
std::vector<std::string> screen_after(const std::string& text, std::size_t columns) {
  std::vector<std::string> rows(1);
  std::size_t at = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 3, "\x1b[K") == 0) {
      rows.back().resize(std::min(at, rows.back().size()));
      i += 2;
    } else if (text[i] == '\r') {
      at = 0;
    } else if (text[i] == '\n') {
      rows.emplace_back();
      at = 0;
    } else {
      if (at == columns) {
        rows.emplace_back();
        at = 0;
      }
      rows.back().resize(std::max(rows.back().size(), at + 1), ' ');
      rows.back()[at++] = text[i];
    }
  }
  return rows;
}

TEST(Progress, TheBarStaysInItsLineOnTerminalsOfAnyWidth) {
  for (const std::size_t columns : {200U, 81U, 80U, 79U, 66U, 58U, 40U, 30U, 20U, 9U, 2U, 1U}) {
    for (const std::int64_t step : {1, 1200, 99999}) {
      std::string text;
      Progress progress(
          "adapt-to-spanish", ProgressStyle::kBar, [&](const std::string& part) { text += part; },
          [&] { return columns; });
      StepRecord record = record_of(step, 2.5);
      record.seconds = 5000;
      record.tokens_per_second = 1234567;
      record.skipped = step == 1200;
      progress.on_begin(info_of(0, step == 99999 ? step : 100000));
      text.clear();
      progress.on_step(record);
      const std::vector<std::string> rows = screen_after(text, columns);
      ASSERT_EQ(rows.size(), 1U) << columns << ": " << text;
      EXPECT_LT(rows[0].size(), columns) << text;
      if (columns >= 30) {
        EXPECT_THAT(rows[0], HasSubstr(to_text(step, "/"))) << columns;
      }
      if (columns >= 66) {
        EXPECT_THAT(rows[0], HasSubstr("loss 2.5000")) << columns;
      }
      if (columns >= 120) {
        EXPECT_THAT(rows[0], AllOf(HasSubstr("["), HasSubstr("tokens/s"))) << columns;
      }
    }
  }
}

TEST(Progress, TheBarFollowsATerminalThatIsResized) {
  std::size_t columns = 120;
  std::string text;
  Progress progress(
      "adapt", ProgressStyle::kBar, [&](const std::string& part) { text += part; }, [&] { return columns; });
  progress.on_begin(info_of(0, 2));
  progress.on_step(record_of(1, 2.5));
  EXPECT_THAT(text, HasSubstr("["));
  columns = 40;
  text.clear();
  progress.on_step(record_of(2, 2.5));  // The last step is always drawn.
  EXPECT_LT(screen_after(text, columns)[0].size(), 40U) << text;
}

TEST(Progress, WideCharactersTakeTwoColumns) {
  EXPECT_EQ(columns_of("abc"), 3U);
  EXPECT_EQ(columns_of("se\u00f1al"), 5U);
  EXPECT_EQ(columns_of("\u97d3\u570b"), 4U);
  std::string text;
  Progress progress(
      "\u97d3\u570b\u8a9e\u97d3\u570b\u8a9e", ProgressStyle::kBar,
      [&](const std::string& part) { text += part; }, [] { return std::size_t{60}; });
  progress.on_begin(info_of(0, 4));
  text.clear();
  progress.on_step(record_of(4, 2.5));
  EXPECT_LT(columns_of(text.substr(4)), 60U) << text;
}

TEST(Progress, StylesByName) {
  EXPECT_EQ(progress_style("bar"), ProgressStyle::kBar);
  EXPECT_EQ(progress_style("lines"), ProgressStyle::kLines);
  EXPECT_EQ(progress_style("none"), ProgressStyle::kNone);
  EXPECT_THAT([] { (void)progress_style("fancy"); }, ThrowsMessage<ConfigError>(HasSubstr("'fancy'")));
}

TEST(Outputs, ARunLeavesItsFiles) {
  const TemporaryFolder folder;
  testing::TinyRun tiny;
  TrainOptions options = testing::tiny_options(4);
  options.tensorboard = true;
  options.save_every = 3;
  tiny.parts.save_weights = [](const std::string& directory) {
    std::ofstream(directory + "/config.json") << "{}";
  };
  (void)tiny.run(options, folder.path());
  EXPECT_THAT(steps_in(folder.path() / "metrics.jsonl"), ElementsAre(1, 2, 3, 4));
  const json state = json::parse(io::read_file(folder.path() / "trainer_state.json"));
  EXPECT_EQ(state.at("global_step"), 4);
  EXPECT_EQ(state.at("log_history").size(), 4U);
  EXPECT_TRUE(fs::exists(folder.path() / "checkpoint-3" / "config.json"));
  EXPECT_FALSE(fs::is_empty(folder.path() / "tensorboard"));
}

}  // namespace
}  // namespace bitrain::train
