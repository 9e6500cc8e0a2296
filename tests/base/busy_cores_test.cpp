#include <chrono>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/busy_cores.h>
#include <bitrain/base/log.h>

#include "support/temporary_directory.h"

namespace bitrain {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::uint64_t kSecond = 1'000'000'000;

TEST(ThreadTimes, AreReadOfEveryThread) {
  const test::TemporaryDirectory directory;
  const auto write = [&](const std::string& thread, const std::string& text) {
    const fs::path task = directory.path() / "proc/self/task" / thread;
    fs::create_directories(task);
    std::ofstream(task / "schedstat") << text;
  };
  EXPECT_THAT(thread_times(directory.path()), IsEmpty());
  write("17", "1500 200 3\n");
  write("18", "7 0 1\n");
  write("19", "");          // It ended meanwhile.
  write("20", "what 1 2");  // Another kernel's.
  write("self", "1 2 3");
  const ThreadTimes times = thread_times(directory.path());
  ASSERT_THAT(times, SizeIs(2));
  EXPECT_EQ(times.at(17).ran, 1500);
  EXPECT_EQ(times.at(17).waited, 200);
  EXPECT_EQ(times.at(18).ran, 7);
}

TEST(ThreadTimes, OfThisProcess) {
  const ThreadTimes before = thread_times();
  if (before.empty()) GTEST_SKIP() << "this kernel does not count";
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  while (std::chrono::steady_clock::now() < until) continue;
  const ThreadTimes after = thread_times();
  ASSERT_EQ(after.count(::gettid()), 1);
  EXPECT_GT(after.at(::gettid()).ran + after.at(::gettid()).waited,
            before.at(::gettid()).ran + before.at(::gettid()).waited + kSecond / 50);
}

TEST(BusyCoresTest, ThreadsThatWaitedWhileOthersRan) {
  const ThreadTimes before = {{1, {0, 0}}, {2, {kSecond, kSecond}}, {3, {0, 0}}};
  // Quiet: both work all the time, and one looks after something at times.
  const ThreadTimes quiet = {
      {1, {kSecond, 0}}, {2, {2 * kSecond, kSecond}}, {3, {kSecond / 100, kSecond / 100}}};
  EXPECT_FALSE(busy_cores(before, quiet, 1, 2).busy());
  // One of them shares its CPU with another process.
  const ThreadTimes shared = {{1, {kSecond, 0}}, {2, {kSecond * 3 / 2, kSecond * 3 / 2}}, {3, {0, 0}}};
  const BusyCores found = busy_cores(before, shared, 1, 2);
  EXPECT_TRUE(found.busy());
  EXPECT_NEAR(found.waited, 0.5, 1e-9);
  EXPECT_NEAR(found.others, 0.5, 1e-9);
  // More threads of its own than CPUs: no other process is to blame.
  const ThreadTimes own = {{1, {kSecond * 2 / 3, kSecond / 3}},
                           {2, {kSecond * 5 / 3, kSecond * 4 / 3}},
                           {3, {kSecond * 2 / 3, kSecond / 3}}};
  EXPECT_FALSE(busy_cores(before, own, 1, 2).busy());
  // It sleeps.
  EXPECT_FALSE(busy_cores(before, before, 1, 2).busy());
  // A thread of the same number that began anew.
  EXPECT_FALSE(busy_cores(before, {{2, {10, 10}}}, 1, 2).busy());
}

double sum_in_parallel() {
  double sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(2)
  for (int i = 0; i < 1000; ++i) sum += i;
  return sum;
}

TEST(SleepingWaitsTest, ParallelLoopsGoOn) {
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(sum_in_parallel(), 499500);
    const SleepingWaits waits(2);
    for (int i = 0; i < 100; ++i) ASSERT_EQ(sum_in_parallel(), 499500);
  }
  EXPECT_EQ(sum_in_parallel(), 499500);
}

/// A process that uses the CPU that it is bound to.
class OtherProcess {
 public:
  explicit OtherProcess(int cpu) : child_(::fork()) {
    if (child_ != 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
    while (true) asm volatile("");
  }
  ~OtherProcess() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

 private:
  pid_t child_;
};

TEST(CoresWatchTest, SaysThatOthersHoldTheCores) {
  if (thread_times().empty()) GTEST_SKIP() << "this kernel does not count";
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  int first = 0;
  while (!CPU_ISSET(first, &all)) ++first;
  std::mutex mutex;
  std::vector<std::string> said;
  const LogSink before = set_log_sink([&](LogLevel, const std::string& message) {
    const std::lock_guard lock(mutex);
    said.push_back(message);
  });
  {
    cpu_set_t one;  // This process and the other on one CPU: half of it is left.
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    const OtherProcess other(first);
    const CoresWatch watch;
    const CoresWatch second;  // Does not look.
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < until) {
      const std::lock_guard lock(mutex);
      if (!said.empty()) break;
    }
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
  set_log_sink(before);
  ASSERT_THAT(said, SizeIs(1));
  EXPECT_THAT(said[0], HasSubstr("other processes use"));
  EXPECT_THAT(said[0], HasSubstr("of the 1 CPUs"));
}

}  // namespace
}  // namespace bitrain
