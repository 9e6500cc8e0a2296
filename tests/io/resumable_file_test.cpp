#include <bitrain/io/resumable_file.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <support/temporary_directory.h>

namespace bitrain::io {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class ResumableFiles : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path path() const { return directory_.path() / "out.txt"; }
  [[nodiscard]] fs::path partial() const { return directory_.path() / "out.txt.partial"; }
  [[nodiscard]] fs::path description() const { return directory_.path() / "out.txt.partial.json"; }

  const Json made_from_ = {{"options", {{"margin", 0.5}, {"name", nullptr}}}, {"inputs", "abc"}};

 private:
  test::TemporaryDirectory directory_;
};

TEST_F(ResumableFiles, GoesOnAfterTheLastWholeLine) {
  {
    ResumableFile file(path(), made_from_);
    EXPECT_EQ(file.lines(), 0);
    file.append("one\ntwo\n");
    EXPECT_EQ(file.lines(), 2);
  }
  EXPECT_FALSE(fs::exists(path()));
  std::ofstream(partial(), std::ios::app) << "thr";  // As a kill leaves it.
  {
    ResumableFile file(path(), made_from_);
    EXPECT_EQ(file.lines(), 2);
    EXPECT_EQ(read_file(file.partial_path()), "one\ntwo\n");
    file.append("three\n");
    file.append("");
    EXPECT_EQ(file.lines(), 3);
    file.commit();
  }
  EXPECT_EQ(read_file(path()), "one\ntwo\nthree\n");
  EXPECT_FALSE(fs::exists(partial()) || fs::exists(description()));
}

TEST_F(ResumableFiles, OtherOptionsAreAnErrorThatSaysWhich) {
  { ResumableFile(path(), made_from_).append("one\n"); }
  const Json other = {{"options", {{"margin", 0.25}, {"name", nullptr}, {"seed", 3}}}};
  EXPECT_THAT([&] { ResumableFile(path(), other); },
              ThrowsMessage<StateError>(
                  AllOf(HasSubstr("out.txt.partial was made from something else"),
                        HasSubstr("options.margin (was 0.5, is 0.25), inputs (was \"abc\", is not set), "
                                  "options.seed (was not set, is 3); run with"),
                        HasSubstr("or remove it"))));
  EXPECT_EQ(read_file(partial()), "one\n");
  fs::remove(description());
  EXPECT_THAT([&] { ResumableFile(path(), made_from_); },
              ThrowsMessage<StateError>(HasSubstr("but not out.txt.partial.json")));
  // Where no line is whole nothing is lost by beginning anew.
  std::ofstream(partial()) << "o";
  EXPECT_EQ(ResumableFile(path(), other).lines(), 0);
  EXPECT_EQ(read_json(description()), other);
}

TEST_F(ResumableFiles, RefusesWhatItCannotDo) {
  ResumableFile file(path(), made_from_);
  EXPECT_THAT([&] { ResumableFile(path(), made_from_); },
              ThrowsMessage<StateError>(HasSubstr("another process")));
  EXPECT_THAT([&] { file.append("half"); }, ThrowsMessage<StateError>(HasSubstr("whole lines")));
  EXPECT_THAT([&] { ResumableFile(path().parent_path() / "no" / "out", made_from_); },
              ThrowsMessage<IoError>(HasSubstr("cannot open")));
  EXPECT_THAT([&] { ResumableFile(path().parent_path(), made_from_); },
              ThrowsMessage<ConfigError>(HasSubstr("a folder of that name is there")));
}

TEST_F(ResumableFiles, ReplacesAnEarlierResult) {
  std::ofstream(path()) << "old\n";
  ResumableFile file(path(), made_from_);
  file.append("new\n");
  EXPECT_EQ(read_file(path()), "old\n");
  file.commit();
  EXPECT_EQ(read_file(path()), "new\n");
}

}  // namespace
}  // namespace bitrain::io
