#include <fstream>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/data/row_store.h>
#include <bitrain/data/source.h>

#include "support/compressed.h"
#include "support/temporary_directory.h"

/// Files that somebody writes to while they are read: their rows are found by offsets.
namespace bitrain::data {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Layout {
  const char* name;
  const char* row;
};

class ChangedFile : public ::testing::TestWithParam<Layout> {
 protected:
  void SetUp() override {
    std::ofstream file(path_);
    for (int i = 0; i < 5000; ++i) file << GetParam().row << "\n";
  }

  [[nodiscard]] SourcePtr open() const {
    SourceOptions options;
    options.path = path_.string();
    options.language = "en";
    return open_source(options);
  }
  /// The last row, which lies beyond the first pages.
  static std::string refusal_of(const Source& source) {
    try {
      (void)source.at(source.size() - 1);
    } catch (const IoError& error) {
      return error.what();
    }
    return "it was read";
  }

  test::TemporaryDirectory folder_;
  fs::path path_ = folder_.path() / GetParam().name;
};

TEST_P(ChangedFile, RowsAreReadWhileItStays) {
  const SourcePtr source = open();
  EXPECT_EQ(source->at(4999).text, source->at(0).text);
}

TEST_P(ChangedFile, AppendedRowsStopReading) {
  const SourcePtr source = open();
  std::ofstream(path_, std::ios::app) << GetParam().row << "\n";
  EXPECT_THAT(refusal_of(*source),
              AllOf(HasSubstr(path_.string()), HasSubstr("changed while it was in use")));
}

TEST_P(ChangedFile, OverwrittenRowsStopReading) {
  const SourcePtr source = open();
  const auto size = fs::file_size(path_);
  const fs::file_time_type before = fs::last_write_time(path_);
  std::fstream(path_, std::ios::in | std::ios::out).seekp(10) << "####";
  ASSERT_EQ(fs::file_size(path_), size);
  fs::last_write_time(path_, before + std::chrono::milliseconds(1));  // Whatever the grain of the clock.
  EXPECT_THAT(refusal_of(*source), AllOf(HasSubstr(path_.string()), HasSubstr("written to")));
}

TEST_P(ChangedFile, ACutFileStopsReadingWithoutASignal) {
  const SourcePtr source = open();
  fs::resize_file(path_, 10);
  EXPECT_THAT(refusal_of(*source), AllOf(HasSubstr(path_.string()), HasSubstr("has 10")));
}

TEST_P(ChangedFile, AFileThatIsCutStopsAllWhoReadItWhole) {
  const SourcePtr source = open();
  fs::resize_file(path_, 10);
  EXPECT_THAT([&] { (void)texts_of(*source); },
              ThrowsMessage<IoError>(AllOf(HasSubstr(path_.string()), HasSubstr("has 10"))));
}

TEST_P(ChangedFile, TheFirstOneIsReadOnWithAnotherInItsPlace) {
  const SourcePtr source = open();
  const std::string text = source->at(4999).text;
  std::ofstream(folder_.path() / "new") << "other";
  fs::rename(folder_.path() / "new", path_);
  EXPECT_EQ(source->at(4999).text, text);
}

TEST_P(ChangedFile, ADeletedFileIsReadOn) {
  const SourcePtr source = open();
  const std::string text = source->at(4999).text;
  fs::remove(path_);
  EXPECT_EQ(source->at(4999).text, text);
}

INSTANTIATE_TEST_SUITE_P(Layouts, ChangedFile,
                         ::testing::Values(Layout{"a.txt", "a line of text"},
                                           Layout{"a.tsv", "a cell\tand one more"},
                                           Layout{"a.jsonl", R"({"text": "a row of text"})"}),
                         [](const auto& one) {
                           return fs::path(one.param.name).extension().string().substr(1);
                         });

TEST(ChangedPackedFile, WhatWasUnpackedStaysRight) {
  const test::TemporaryDirectory folder;
  SourceOptions options;
  options.path = (folder.path() / "a.txt.gz").string();
  std::ofstream(options.path, std::ios::binary) << test::gzip("one\ntwo\n");
  const SourcePtr source = open_source(options);
  std::ofstream(options.path) << "other";
  EXPECT_EQ(source->at(1).text, "two");
}

/// A store whose file somebody writes to in the moment at which its second row is read.
class FileThatChangesMeanwhile : public ::testing::Test {
 protected:
  void read(bool json, const std::function<void()>& change) const {
    std::ofstream file(path_);
    for (int i = 0; i < 5000; ++i) file << "{\"text\": \"row\"}\n";
    file.close();
    RowStore store(path_, /*pipes=*/false);
    const RowStore::Accept accept = [&](std::string_view, std::int64_t number, auto...) {
      if (number == 2) change();
      return true;
    };
    json ? store.read_json(0, accept) : store.read_lines(0, accept);
  }

  test::TemporaryDirectory folder_;
  fs::path path_ = folder_.path() / "a.jsonl";
};

TEST_F(FileThatChangesMeanwhile, IsNamedAfterwards) {
  for (const bool json : {false, true})
    EXPECT_THAT([&] { read(json, [&] { std::ofstream(path_, std::ios::app) << "{\"text\": "; }); },
                ThrowsMessage<IoError>(HasSubstr(path_.string() + ": changed while it was in use")));
}

using FileThatChangesMeanwhileDeathTest = FileThatChangesMeanwhile;

TEST_F(FileThatChangesMeanwhileDeathTest, EndsTheProcessWithItsNameWhereItIsCut) {
  for (const bool json : {false, true})
    EXPECT_EXIT(read(json, [&] { fs::resize_file(path_, 0); }), ::testing::ExitedWithCode(5),
                "i/o error: cannot read .*a.jsonl: the file became shorter");
}

}  // namespace
}  // namespace bitrain::data
