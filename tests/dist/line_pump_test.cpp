#include <bitrain/dist/line_pump.h>

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/log.h>
#include <bitrain/io/file.h>
#include "support/temporary_directory.h"

namespace bitrain::dist {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A sink that writes to a file, and what is in it.
class SinkFile {
 public:
  [[nodiscard]] LineSink& sink() { return sink_; }
  [[nodiscard]] std::string text() const { return io::read_file(path_); }

 private:
  test::TemporaryDirectory directory_;
  std::string path_ = (directory_.path() / "lines").string();
  FileDescriptor file_ = open_file(path_, O_WRONLY | O_CREAT | O_APPEND);
  LineSink sink_{file_.get(), "the file"};
};

/// A pump with the end of its pipe that a process would hold.
struct Source {
  explicit Source(std::vector<LinePump::Output> to) : Source(open_pipe(), std::move(to)) {}
  void write(const std::string& text) {
    ASSERT_EQ(::write(end.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    pump.pump();
  }
  FileDescriptor end;
  LinePump pump;

 private:
  Source(Pipe pipe, std::vector<LinePump::Output> to)
      : end(std::move(pipe.write)), pump(std::move(pipe.read), std::move(to)) {}
};

TEST(LinePump, GivesWholeLinesTheirPrefix) {
  SinkFile console;
  SinkFile log;
  Source source({{&console.sink(), "[3] "}, {&log.sink(), ""}});
  source.write("one\ntw");
  EXPECT_EQ(console.text(), "[3] one\n");
  source.write("o\n\nthree\r\n");
  EXPECT_EQ(console.text(), "[3] one\n[3] two\n[3] \n[3] three\n");
  EXPECT_EQ(log.text(), "one\ntwo\n\nthree\n");
}

TEST(LinePump, EndsTheLastLine_WhenThePipeEndsOrItsOtherEndStaysOpen) {
  SinkFile console;
  Source ended({{&console.sink(), "[0] "}});
  ended.write("ended");
  ended.end.reset();
  ended.pump.pump();
  EXPECT_EQ(ended.pump.descriptor(), -1);
  Source held({{&console.sink(), "[1] "}});
  ASSERT_EQ(::write(held.end.get(), "a\nheld", 6), 6);
  held.pump.finish();
  EXPECT_EQ(console.text(), "[0] ended\n[1] a\n[1] held\n");
}

TEST(LinePump, LetsALongLineOutInParts) {
  SinkFile console;
  Source source({{&console.sink(), "[0] "}});
  std::string written;
  for (int i = 0; i < 200; ++i) {
    const std::string part(1000, static_cast<char>('a' + i % 26));
    source.write(part);
    written += part;
    ASSERT_LE(written.size(), console.text().size() + LinePump::kLongestLine);
  }
  source.write("\nnext\n");
  EXPECT_EQ(console.text(), "[0] " + written + "\n[0] next\n");
}

TEST(LinePump, ContinuesALineThatAnotherCutInOn_UnderItsPrefix) {
  SinkFile console;
  Source first({{&console.sink(), "[0] "}});
  Source second({{&console.sink(), "[1] "}});
  const std::string part(LinePump::kLongestLine / 2, 'x');
  for (int i = 0; i < 3; ++i) first.write(part);
  second.write("cut\n");
  first.write("end\n");
  EXPECT_EQ(console.text(), "[0] " + part + part + "\n[1] cut\n[0] " + part + "end\n");
}

TEST(LinePump, MakesLinesOfAProgressBar_ButNotOfEveryState) {
  SinkFile console;
  Source source({{&console.sink(), "[0] "}});
  // In one write, so that they come within a second.
  source.write("\r 10%\r 20%\r 30%\r100%\ndone\n");
  EXPECT_EQ(console.text(), "[0]  10%\n[0] 100%\n[0] done\n");
}

TEST(LinePump, KeepsTheLastStateOfAProgressBar) {
  SinkFile console;
  Source source({{&console.sink(), ""}});
  source.write("10%\r20%\r30%\r");
  source.pump.finish();
  EXPECT_EQ(console.text(), "10%\n30%\n");
}

TEST(LinePump, KnowsALineEnd_WhoseTwoBytesComeApart) {
  SinkFile console;
  Source source({{&console.sink(), ""}});
  source.write("one\r");
  source.write("\ntwo\r\n");
  EXPECT_EQ(console.text(), "one\ntwo\n");
}

TEST(LineSink, SaysOnceThatItCannotBeWritten) {
  std::vector<std::string> messages;
  const LogSink previous = set_log_sink([&](LogLevel, const std::string& m) { messages.push_back(m); });
  const FileDescriptor full = open_file("/dev/full", O_WRONLY);
  LineSink sink(full.get(), "the log");
  for (int i = 0; i < 2; ++i) {
    sink.add(&sink, "", "text", true);
    sink.flush();
  }
  set_log_sink(previous);
  EXPECT_THAT(messages, ElementsAre(HasSubstr("the log cannot be written: No space left")));
}

}  // namespace
}  // namespace bitrain::dist
