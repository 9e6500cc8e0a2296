#include <bitrain/dist/launch_failure.h>

#include <fcntl.h>
#include <sys/stat.h>

#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/dist/session.h>
#include <bitrain/io/file.h>
#include "support/temporary_directory.h"

namespace bitrain::dist {
namespace {

// As Linux encodes what waitpid gives.
constexpr int exited(int code) {
  return code << 8;
}
constexpr int killed(int signal) {
  return signal;
}

class LaunchFailureTest : public ::testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& text) {
    std::string path = (directory_.path() / name).string();
    io::write_file_atomic(path, text);
    return path;
  }
  std::string report(const std::string& name, const std::string& timestamp) {
    return file(name, R"({"message": {"message": "of )" + name + R"(", "extraInfo": {"timestamp": )" +
                          timestamp + "}}}");
  }
  test::TemporaryDirectory directory_;
};

TEST_F(LaunchFailureTest, IsNone_WhereAllEndedWithZero) {
  EXPECT_FALSE(first_failure({{0, exited(0), 10, false, ""}, {1, exited(0), 11, false, ""}}, 5));
}

TEST_F(LaunchFailureTest, IsOfTheFirstToEnd) {
  const auto failure = first_failure({{2, exited(0), 10.1, false, ""},
                                      {1, killed(SIGKILL), 10.2, false, ""},
                                      {0, exited(6), 10.3, true, ""}},
                                     5);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->rank, 1);
  EXPECT_EQ(failure->code, 128 + SIGKILL);
  EXPECT_EQ(failure->how, "killed by SIGKILL");
  EXPECT_EQ(failure->message, "");
}

TEST_F(LaunchFailureTest, PrefersAnEarlierTimeOfAReport) {
  const auto failure = first_failure(
      {{0, exited(1), 20.5, false, report("a", "\"20\"")}, {1, exited(7), 25, true, report("b", "\"19\"")}},
      5);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->rank, 1);
  EXPECT_EQ(failure->code, 7);
  EXPECT_EQ(failure->message, "of b");
}

TEST_F(LaunchFailureTest, TakesTheFirstToEnd_InTheSameSecond) {
  // The second one's report was cut to the second, which began before the first one was killed.
  const auto failure = first_failure(
      {{0, killed(SIGSEGV), 20.4, false, ""}, {1, exited(1), 20.9, false, report("b", "20")}}, 5);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->rank, 0);
}

TEST_F(LaunchFailureTest, TellsReportsOfTheSameSecondApart_ByTheirFiles) {
  // The second one takes its time to end; the first one fails for want of its peer, and ends at once.
  const std::string late = report("late", "\"20\"");
  const std::string early = report("early", "\"20\"");
  const auto write_at = [](const std::string& path, long milliseconds) {
    const timespec time{20, milliseconds * 1000000};
    const timespec times[] = {time, time};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  };
  write_at(late, 700);
  write_at(early, 300);
  const auto failure =
      first_failure({{0, exited(1), 20.8, false, late}, {1, exited(7), 21.5, true, early}}, 5);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->rank, 1);
  EXPECT_EQ(failure->code, 7);
}

TEST_F(LaunchFailureTest, IgnoresTimesOutsideTheRun) {
  const auto failure =
      first_failure({{0, exited(1), 20, false, ""}, {1, exited(3), 22, false, report("b", "\"4\"")}}, 5);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->rank, 0);
}

TEST_F(LaunchFailureTest, TakesTheCodeOfTheFirstToEnd_WhereTheBlamedOneWasKilledByTheLauncher) {
  const auto failure = first_failure(
      {{0, exited(6), 30, false, ""}, {1, killed(SIGKILL), 60, true, report("b", "\"10\"")}}, 5);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->rank, 1);
  EXPECT_EQ(failure->message, "of b");
  EXPECT_EQ(failure->code, 6);
}

TEST_F(LaunchFailureTest, ReadsBothFormsOfMessages) {
  const auto plain = read_error_report(file("plain", R"({"message": "out of memory"})"));
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->message, "out of memory");
  EXPECT_FALSE(plain->timestamp);
  const auto full = read_error_report(report("full", "12.5"));
  ASSERT_TRUE(full);
  EXPECT_EQ(full->message, "of full");
  EXPECT_EQ(full->timestamp, 12.5);
}

TEST_F(LaunchFailureTest, ReadsWhatASessionWrites) {
  const std::string path = (directory_.path() / "session").string();
  write_error_file(path, "ranks disagree");
  const auto report = read_error_report(path);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->message, "ranks disagree");
  EXPECT_TRUE(report->timestamp);
}

TEST_F(LaunchFailureTest, ReadsNothingOfDamagedReports) {
  EXPECT_FALSE(read_error_report(""));
  EXPECT_FALSE(read_error_report((directory_.path() / "missing").string()));
  EXPECT_FALSE(read_error_report(directory_.path().string()));
  for (const char* text :
       {"", "{", "[]", "7", "null", R"({"message": 7})", R"({"message": {"message": [1]}})",
        R"({"message": {"extraInfo": {"timestamp": "noon"}}})", "{\"message\": \"\xff\"}"})
    EXPECT_FALSE(read_error_report(file("damaged", text))) << text;
}

TEST(LaunchEnd, IsSaidAsPeopleSayIt) {
  EXPECT_EQ(describe_end(exited(6)), "exit code 6");
  EXPECT_EQ(describe_end(killed(SIGSEGV)), "killed by SIGSEGV");
  EXPECT_EQ(describe_end(killed(SIGRTMIN)), "killed by signal " + std::to_string(SIGRTMIN));
  EXPECT_EQ(exit_code_of(exited(6)), 6);
  EXPECT_EQ(exit_code_of(killed(SIGTERM)), 143);
}

}  // namespace
}  // namespace bitrain::dist
