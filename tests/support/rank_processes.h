#pragma once

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/session.h>

#include "support/temporary_directory.h"

namespace bitrain::testing {

/// A port that nobody listens on now.
inline std::int64_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool bound = ::bind(socket, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  ::close(socket);
  if (!bound) throw IoError("no free port");
  return ntohs(address.sin_port);
}

/// Processes that run a piece of the current test as ranks: the test program itself, started again.
class RankProcesses {
 public:
  using Body = std::function<void(dist::Session&)>;
  struct Options {
    dist::ParallelOptions parallel;
    std::map<std::string, std::string> environment;
    std::vector<std::int64_t> absent;  ///< Ranks that are not started.
  };

  /// Starts `ranks` processes that run `body` as one session each. In such a process itself it runs `body`
  /// and ends the process: 0, or 1 for a failed expectation, or 9 for RankError and 10 for another one, with
  /// its message in the output.
  RankProcesses(int ranks, const Body& body, Options options = default_options()) : absent_(options.absent) {
    const int call = next_call()++;
    if (const char* wanted = std::getenv("BITRAIN_TEST_CALL")) {
      if (std::atoi(wanted) == call) run_and_exit(body, options);
      return;  // An earlier piece of the test: not this process's.
    }
    const ::testing::TestInfo* info = ::testing::UnitTest::GetInstance()->current_test_info();
    const std::string filter = std::string("--gtest_filter=") + info->test_suite_name() + "." + info->name();
    std::map<std::string, std::string> variables = dist::environment_variables();
    for (const char* name :
         {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE"})
      variables.erase(name);
    variables["BITRAIN_TEST_CALL"] = std::to_string(call);
    variables["WORLD_SIZE"] = variables["LOCAL_WORLD_SIZE"] = std::to_string(ranks);
    variables["MASTER_ADDR"] = "127.0.0.1";
    variables["MASTER_PORT"] = std::to_string(free_port());
    variables["OMP_NUM_THREADS"] = "1";
    for (const auto& [name, value] : options.environment) variables[name] = value;
    for (int r = 0; r < ranks; ++r) {
      const bool started = std::find(absent_.begin(), absent_.end(), r) == absent_.end();
      variables["RANK"] = variables["LOCAL_RANK"] = std::to_string(r);
      pids_.push_back(started ? spawn({"/proc/self/exe", filter}, variables, output_file(r)) : 0);
      codes_.push_back(started ? -1 : 0);
    }
  }
  ~RankProcesses() {
    for (std::size_t r = 0; r < pids_.size(); ++r) {
      if (codes_[r] != -1) continue;
      ::kill(pids_[r], SIGKILL);
      ::waitpid(pids_[r], nullptr, 0);
    }
  }
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  void signal(int rank, int number) const { ::kill(pids_[static_cast<std::size_t>(rank)], number); }

  /// Exit codes of all but `without`, 128 + signal for those that were killed; a rank that does not end
  /// within `limit` fails the test: a hang.
  std::vector<int> wait(std::chrono::seconds limit = std::chrono::seconds(120),
                        std::vector<int> without = {}) {
    const auto until = std::chrono::steady_clock::now() + limit;
    for (std::size_t r = 0; r < pids_.size(); ++r) {
      if (std::find(without.begin(), without.end(), static_cast<int>(r)) != without.end()) continue;
      while (codes_[r] == -1) {
        int status = 0;
        if (::waitpid(pids_[r], &status, WNOHANG) == pids_[r]) {
          codes_[r] = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        } else if (std::chrono::steady_clock::now() > until) {
          ADD_FAILURE() << "rank " << r << " hangs:\n" << output(static_cast<int>(r));
          ::kill(pids_[r], SIGKILL);
        } else {
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
      }
    }
    return codes_;
  }

  /// All end with 0.
  void expect_success() {
    const std::vector<int> codes = wait();
    for (std::size_t r = 0; r < codes.size(); ++r)
      EXPECT_EQ(codes[r], 0) << "rank " << r << ":\n" << output(static_cast<int>(r));
  }

  /// What a rank wrote to stdout and stderr so far.
  [[nodiscard]] std::string output(int rank) const {
    std::ifstream file(output_file(rank));
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  static Options default_options() {
    Options options;
    options.parallel.timeout_seconds = 60;
    return options;
  }

 private:
  static int& next_call() {
    static int call = 0;
    static std::string of;
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    if (of != test) call = 0;
    of = test;
    return call;
  }

  [[nodiscard]] std::string output_file(int rank) const {
    return (directory_.path() / ("rank-" + std::to_string(rank))).string();
  }

  [[noreturn]] static void run_and_exit(const Body& body, const Options& options) {
    try {
      {
        dist::Session session(dist::resolve_environment(dist::environment_variables()), options.parallel,
                              at::kCPU);
        try {
          body(session);
        } catch (const Error& error) {
          if (error.kind() != ErrorKind::kRank) session.fail(error.what());
          throw;
        }
      }
      std::exit(::testing::Test::HasFailure() ? 1 : 0);
    } catch (const RankError& error) {
      std::fprintf(stderr, "%s\n", error.what());
      std::exit(9);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      std::exit(10);
    }
  }

  static pid_t spawn(const std::vector<std::string>& command,
                     const std::map<std::string, std::string>& variables, const std::string& output) {
    std::vector<std::string> lines;
    for (const auto& [name, value] : variables) lines.push_back(name + "=" + value);
    std::vector<char*> environment;
    for (std::string& line : lines) environment.push_back(line.data());
    environment.push_back(nullptr);
    std::vector<std::string> words = command;
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t pid = 0;
    const int failure =
        posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environment.data());
    posix_spawn_file_actions_destroy(&actions);
    if (failure != 0) throw IoError("cannot start ", command[0], ": ", failure);
    return pid;
  }

  test::TemporaryDirectory directory_;
  std::vector<std::int64_t> absent_;
  std::vector<pid_t> pids_;
  std::vector<int> codes_;
};

/// Runs `body` as `ranks` processes and expects all to succeed.
inline void on_ranks(int ranks, const RankProcesses::Body& body) {
  RankProcesses(ranks, body).expect_success();
}

}  // namespace bitrain::testing
