#include <bitrain/dist/launch.h>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>
#include <bitrain/dist/launch_environment.h>
#include <bitrain/io/file.h>
#include "support/temporary_directory.h"

namespace bitrain::dist {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

/// Waits for `holds`; false after a time that only a hanging program needs.
template <class Condition>
bool eventually(const Condition& holds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

class LaunchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    set_log_sink([this](LogLevel, const std::string& message) { log_.push_back(message); });
  }
  void TearDown() override { set_log_sink({}); }

  /// `script` as every rank runs it; $D is a folder of the test, `await FILE` waits for a file in it, and
  /// `forever` hears signals, which a shell that waits for one long sleep may miss.
  LaunchOptions shell(const std::string& script, std::int64_t processes = 2) {
    LaunchOptions options;
    options.program = {"sh", "-c",
                       "D=" + directory_.path().string() +
                           "; await() { while [ ! -e $D/$1 ]; do sleep 0.01; done; }\n"
                           "forever() { while :; do sleep 0.02; done; }\n" +
                           script};
    options.processes = processes;
    return options;
  }
  int run(const LaunchOptions& options) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    int code = -1;
    try {
      code = launch(options);
    } catch (...) {
      output_ = ::testing::internal::GetCapturedStdout();
      errors_ = ::testing::internal::GetCapturedStderr();
      throw;
    }
    output_ = ::testing::internal::GetCapturedStdout();
    errors_ = ::testing::internal::GetCapturedStderr();
    return code;
  }
  template <class Error>
  std::string error_of(const LaunchOptions& options) {
    try {
      run(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }
  [[nodiscard]] std::vector<std::string> lines() const {
    std::vector<std::string> lines = split(output_, '\n');
    if (!lines.empty() && lines.back().empty()) lines.pop_back();
    return lines;
  }
  [[nodiscard]] std::string logged() const { return join(log_, "\n"); }
  [[nodiscard]] std::string read(const std::string& name) const {
    return io::read_file(directory_.path() / name);
  }
  [[nodiscard]] bool exists(const std::string& name) const {
    return std::filesystem::exists(directory_.path() / name);
  }

  test::TemporaryDirectory directory_;
  std::vector<std::string> log_;
  std::string output_;
  std::string errors_;
};

TEST_F(LaunchTest, GivesEveryRankItsPlace) {
  ::setenv("TORCHELASTIC_USE_AGENT_STORE", "True", 1);
  ::setenv("RANK", "7", 1);
  ::unsetenv("OMP_NUM_THREADS");
  const int code = run(shell("env > $D/$RANK; echo $RANK"));
  ::unsetenv("TORCHELASTIC_USE_AGENT_STORE");
  ::unsetenv("RANK");
  EXPECT_EQ(code, 0);
  EXPECT_THAT(lines(), UnorderedElementsAre("[0] 0", "[1] 1"));
  std::set<std::string> ports;
  std::set<std::string> files;
  for (const std::string rank : {"0", "1"}) {
    Variables seen;
    for (const std::string& line : split(read(rank), '\n'))
      if (const auto equals = line.find('='); equals != std::string::npos)
        seen[line.substr(0, equals)] = line.substr(equals + 1);
    const Environment environment = resolve_environment(seen);
    EXPECT_EQ(environment.source, "torchrun");
    EXPECT_EQ(std::to_string(environment.rank), rank);
    EXPECT_EQ(std::to_string(environment.local_rank), rank);
    EXPECT_EQ(environment.world_size, 2);
    EXPECT_EQ(environment.local_world_size, 2);
    EXPECT_EQ(environment.master_address, "127.0.0.1");
    EXPECT_FALSE(environment.store_is_served);
    EXPECT_EQ(environment.restart_count, 0);
    EXPECT_THAT(environment.run_id, StartsWith("bitrain-"));
    EXPECT_EQ(seen["GROUP_RANK"], "0");
    EXPECT_EQ(seen["TORCHELASTIC_MAX_RESTARTS"], "0");
    EXPECT_GE(std::stoi(seen["OMP_NUM_THREADS"]), 1);
    EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(environment.error_file).parent_path()));
    ports.insert(seen["MASTER_PORT"]);
    files.insert(environment.error_file);
  }
  EXPECT_EQ(ports.size(), 1);
  EXPECT_EQ(files.size(), 2);
}

TEST(LaunchEnvironment, ReplacesWhatAnOuterLauncherSaid) {
  const Variables inherited = {{"PET_NNODES", "2"},
                               {"OMPI_COMM_WORLD_RANK", "3"},
                               {"PMI_RANK", "3"},
                               {"SLURM_PROCID", "3"},
                               {"SLURM_STEP_NUM_TASKS", "4"},
                               {"SLURM_JOB_ID", "99"},
                               {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                               {"LOCAL_WORLD_SIZE", "8"},
                               {"ROLE_RANK", "3"},
                               {"MASTER_ADDR", "node7"},
                               {"OMP_NUM_THREADS", "5"},
                               {"HOME", "/root"}};
  LaunchedGroup group;
  group.processes = 2;
  group.master_port = 4000;
  group.run_id = "id";
  group.threads = 3;
  const Variables variables = rank_variables(inherited, group, 1, "/tmp/error");
  EXPECT_THAT(
      variables,
      UnorderedElementsAre(
          std::pair("RANK", "1"), std::pair("WORLD_SIZE", "2"), std::pair("LOCAL_RANK", "1"),
          std::pair("LOCAL_WORLD_SIZE", "2"), std::pair("GROUP_RANK", "0"),
          std::pair("MASTER_ADDR", "127.0.0.1"), std::pair("MASTER_PORT", "4000"),
          std::pair("TORCHELASTIC_RUN_ID", "id"), std::pair("TORCHELASTIC_RESTART_COUNT", "0"),
          std::pair("TORCHELASTIC_MAX_RESTARTS", "0"), std::pair("TORCHELASTIC_ERROR_FILE", "/tmp/error"),
          std::pair("OMP_NUM_THREADS", "5"), std::pair("SLURM_JOB_ID", "99"), std::pair("HOME", "/root")));
  EXPECT_EQ(rank_variables({}, group, 0, "").at("OMP_NUM_THREADS"), "3");
}

TEST_F(LaunchTest, KeepsOutputsApart_AndBothInTheLog) {
  LaunchOptions options = shell("echo out$RANK; printf err$RANK >&2");
  options.log_dir = (directory_.path() / "deep" / "logs").string();
  EXPECT_EQ(run(options), 0);
  EXPECT_THAT(lines(), UnorderedElementsAre("[0] out0", "[1] out1"));
  EXPECT_THAT(split(errors_, '\n'), UnorderedElementsAre("[0] err0", "[1] err1", ""));
  EXPECT_THAT(split(read("deep/logs/rank-1.log"), '\n'), UnorderedElementsAre("out1", "err1", ""));
}

TEST_F(LaunchTest, GivesASingleRankNoPrefix_AndNoInput) {
  EXPECT_EQ(run(shell("cat; echo plain", 1)), 0);
  EXPECT_EQ(output_, "plain\n");
}

TEST_F(LaunchTest, GivesArgumentsAsTheyAre) {
  LaunchOptions options;
  options.program = {"printf", "%s|", "a b", "[c,d]", "", "--nproc"};
  EXPECT_EQ(run(options), 0);
  EXPECT_EQ(output_, "a b|[c,d]||--nproc|\n");
}

TEST_F(LaunchTest, EndsTheOthers_WhenARankFails) {
  EXPECT_EQ(run(shell("if [ $RANK = 1 ]; then await ready; exit 6; fi\n"
                      "trap 'echo told; exit 1' TERM; touch $D/ready; forever")),
            6);
  EXPECT_THAT(lines(), ElementsAre("[0] told"));
  EXPECT_THAT(log_, ElementsAre("launch: rank 1 of 2 failed first: exit code 6"));
}

TEST_F(LaunchTest, KillsWhatIgnoresSigterm_AfterTheGrace) {
  LaunchOptions options = shell(
      "if [ $RANK = 0 ]; then await ready; kill -SEGV $$; fi\n"
      "trap '' TERM; touch $D/ready; forever");
  options.grace_seconds = 0;
  EXPECT_EQ(run(options), 128 + SIGSEGV);
  EXPECT_THAT(log_, ElementsAre(AllOf(HasSubstr("killing"), HasSubstr("within 0 s"), HasSubstr("rank 1")),
                                "launch: rank 0 of 2 failed first: killed by SIGSEGV"));
}

TEST_F(LaunchTest, WaitsForTheRestOfAGroup_ThatTheSignalReaches) {
  // The shell ends at once; what it started takes its time, as a run does that writes a checkpoint.
  EXPECT_EQ(run(shell("if [ $RANK = 1 ]; then await ready; exit 6; fi\n"
                      "sh -c \"trap 'sleep 0.2; echo saved; exit 0' TERM; touch $D/ready; while :; do sleep "
                      "0.02; done\"; exit 0")),
            6);
  EXPECT_THAT(lines(), ElementsAre("[0] saved"));
}

TEST_F(LaunchTest, LeavesNothingOfAGroupThatEndedWell) {
  LaunchOptions options =
      shell("sh -c 'trap \"\" TERM; touch $0/ready; sleep 600' $D & echo $! > $D/id; await ready", 1);
  options.grace_seconds = 0;
  EXPECT_EQ(run(options), 0);
  EXPECT_EQ(kill(std::stoi(read("id")), 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST_F(LaunchTest, ShowsTheMessageOfTheErrorFile) {
  EXPECT_EQ(run(shell("[ $RANK = 0 ] && sleep 600\n"
                      R"(printf '{"message": {"message": "ranks disagree", "extraInfo": {}}}' )"
                      "> $TORCHELASTIC_ERROR_FILE; exit 6")),
            6);
  EXPECT_THAT(log_, ElementsAre("launch: rank 1 of 2 failed first: exit code 6: ranks disagree"));
}

TEST_F(LaunchTest, RestartsAll_AtAnotherAttempt) {
  LaunchOptions options = shell(
      "echo $TORCHELASTIC_RESTART_COUNT of $TORCHELASTIC_MAX_RESTARTS $TORCHELASTIC_RUN_ID >> $D/rank$RANK\n"
      "[ $TORCHELASTIC_RESTART_COUNT = 2 ] && exit 0\n"
      "[ $RANK = 1 ] && exit 1; sleep 600");
  options.max_restarts = 3;
  EXPECT_EQ(run(options), 0);
  const std::vector<std::string> attempts = split(read("rank1"), '\n');
  ASSERT_EQ(attempts.size(), 4);  // With the empty rest.
  const std::string id = attempts[0].substr(7);
  EXPECT_THAT(attempts, ElementsAre("0 of 3 " + id, "1 of 3 " + id, "2 of 3 " + id, ""));
  EXPECT_THAT(log_, ElementsAre(HasSubstr("failed first"), HasSubstr("restart 1 of 3"),
                                HasSubstr("failed first"), HasSubstr("restart 2 of 3")));
}

TEST_F(LaunchTest, GivesUp_WhenNoRestartIsLeft) {
  LaunchOptions options = shell("echo $TORCHELASTIC_RESTART_COUNT; exit 6", 1);
  options.max_restarts = 1;
  EXPECT_EQ(run(options), 6);
  EXPECT_THAT(lines(), ElementsAre("0", "1"));
}

TEST_F(LaunchTest, DoesNotRestart_WhatWouldFailAgain) {
  for (const int code : {2, 129, 130, 138, 143}) {
    LaunchOptions options = shell("echo once; exit " + std::to_string(code), 1);
    options.max_restarts = 2;
    EXPECT_EQ(run(options), code);
    EXPECT_THAT(lines(), ElementsAre("once"));
  }
}

TEST_F(LaunchTest, ForwardsAnInterruptionOnce_AndWaits) {
  // Both get SIGTERM, though only this process got SIGINT; no grace is counted.
  LaunchOptions options = shell(
      "trap 'sleep 0.2; echo saved; exit 143' TERM; touch $D/ready$RANK\n"
      "[ $RANK = 1 ] && { await ready0; kill -INT $PPID; }\n"
      "forever");
  options.grace_seconds = 0;
  options.max_restarts = 1;
  EXPECT_EQ(run(options), 143);
  EXPECT_THAT(lines(), UnorderedElementsAre("[0] saved", "[1] saved"));
  EXPECT_THAT(log_, ElementsAre(HasSubstr("SIGINT: waiting")));
}

TEST_F(LaunchTest, WarningsNeverKill) {
  LaunchOptions options = shell(
      "trap 'kill -USR1 $PPID; kill -HUP $PPID; sleep 0.2; echo saved; exit 143' TERM; touch $D/ready$RANK\n"
      "[ $RANK = 1 ] && { await ready0; kill -USR1 $PPID; }\n"
      "forever");
  EXPECT_EQ(run(options), 143);
  EXPECT_THAT(lines(), UnorderedElementsAre("[0] saved", "[1] saved"));
  EXPECT_THAT(log_, ElementsAre(HasSubstr("SIGUSR1: waiting")));
}

TEST_F(LaunchTest, EndsWithZero_WhenInterruptedRanksDo) {
  EXPECT_EQ(run(shell("trap 'exit 0' TERM; kill -TERM $PPID; forever", 1)), 0);
}

TEST_F(LaunchTest, KillsAtTheSecondSignal) {
  EXPECT_EQ(run(shell("trap 'kill -TERM $PPID' TERM; touch $D/ready$RANK\n"
                      "[ $RANK = 1 ] && { await ready0; kill -TERM $PPID; }\n"
                      "forever")),
            128 + SIGKILL);
  EXPECT_THAT(log_, ElementsAre(HasSubstr("SIGTERM: waiting"), HasSubstr("killing all")));
}

TEST_F(LaunchTest, GivesHandlersBack) {
  struct sigaction before {};
  sigaction(SIGTERM, nullptr, &before);
  EXPECT_EQ(run(shell("exit 0", 1)), 0);
  struct sigaction after {};
  sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

TEST_F(LaunchTest, LeavesNoOrphan_WhenItIsKilled) {
  // Orphans become children of this process, which can then wait for them.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const LaunchOptions options = shell(
      "sleep 600 & echo $! > $D/below$RANK; echo $$ > $D/id$RANK; mv $D/id$RANK $D/rank$RANK\n"
      "trap '' TERM; forever");
  const pid_t launcher = fork();
  if (launcher == 0) _exit(launch(options));
  ASSERT_TRUE(eventually([&] { return exists("rank0") && exists("rank1"); }));
  kill(launcher, SIGKILL);
  waitpid(launcher, nullptr, 0);
  for (const std::string name : {"rank0", "rank1", "below0", "below1"}) {
    const pid_t id = std::stoi(read(name));
    const auto is_gone = [&] {
      waitpid(id, nullptr, WNOHANG);  // Unless its shell has done so.
      return kill(id, 0) != 0;
    };
    EXPECT_TRUE(eventually(is_gone)) << name << " lives";
    kill(id, SIGKILL);
  }
  // The guard and the short sleeps.
  EXPECT_TRUE(eventually([] { return waitpid(-1, nullptr, WNOHANG) == -1; }));
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_F(LaunchTest, ExplainsWhatIsWrong) {
  LaunchOptions options;
  EXPECT_THAT(error_of<ConfigError>(options), HasSubstr("no program"));
  options.program = {"true"};
  options.processes = 0;
  EXPECT_THAT(error_of<ConfigError>(options), HasSubstr("at least 1 and at most 4096, not 0"));
  options.processes = 2;
  options.grace_seconds = -1;
  EXPECT_THAT(error_of<ConfigError>(options),
              HasSubstr("grace-seconds must be at least 0 and at most 1000000000, not -1"));
  options.grace_seconds = 0;
  options.max_restarts = -1;
  EXPECT_THAT(error_of<ConfigError>(options), HasSubstr("max-restarts must be at least 0, not -1"));
  options.max_restarts = 0;
  options.master_port = 65536;
  EXPECT_THAT(error_of<ConfigError>(options), HasSubstr("65536"));
  options.master_port = 0;
  options.log_dir = "/dev/null/logs";
  EXPECT_THAT(error_of<IoError>(options), HasSubstr("'/dev/null/logs' cannot be made"));
  options.log_dir.clear();
  options.program = {"no-such-program-here"};
  EXPECT_THAT(error_of<IoError>(options), HasSubstr("'no-such-program-here' is in no folder of PATH"));
  options.program = {"./no-such-program-here"};
  EXPECT_THAT(error_of<IoError>(options), HasSubstr("is not there"));
  options.program = {directory_.path().string()};
  EXPECT_THAT(error_of<IoError>(options), HasSubstr("chmod +x"));
  const std::filesystem::path script = directory_.path() / "script";
  std::ofstream(script) << "echo no interpreter\n";
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  options.program = {script.string()};
  EXPECT_THAT(error_of<IoError>(options), HasSubstr("must begin with #!"));
}

}  // namespace
}  // namespace bitrain::dist
