#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>

namespace bitrain {

/// What a thread got of the CPUs since it began, in nanoseconds.
struct ThreadTime {
  std::uint64_t ran = 0;
  std::uint64_t waited = 0;  ///< Ready to run, while others ran.
};

/// By thread, from /proc/self/task/*/schedstat (proc(5)). Empty where the kernel does not count. `root` is
/// where the file systems begin, for tests.
using ThreadTimes = std::map<std::int64_t, ThreadTime>;
[[nodiscard]] ThreadTimes thread_times(const std::filesystem::path& root = "/");

/// How far others held the CPUs between two looks.
struct BusyCores {
  double waited = 0;  ///< The largest share of its working time that a thread waited for a CPU.
  double others = 0;  ///< CPUs that other processes used, of those this process may use.

  /// Whether threads that wait for each other should leave the CPUs to others. The bounds are chosen, above
  /// what short work of the system takes; a process beside two threads on two CPUs makes them wait 40 %.
  [[nodiscard]] bool busy() const { return waited > 0.15 && others > 0.1; }
};

/// Of threads that wanted to work for at least half of the `seconds` between the looks, on `cpus` CPUs.
[[nodiscard]] BusyCores busy_cores(const ThreadTimes& before, const ThreadTimes& after, double seconds,
                                   std::int64_t cpus);

/// Lets OpenMP's threads sleep where they wait for each other, as long as it lives. They spin for
/// milliseconds otherwise, which is fastest on a quiet machine, and takes the CPUs from the threads they wait
/// for on a busy one. GCC's libgomp spins for 100 rounds instead where a process has more threads of OpenMP
/// than CPUs (GOMP_SPINCOUNT in its manual), so that a second team that does nothing is kept. Another runtime
/// of OpenMP is not changed by it.
class SleepingWaits {
 public:
  /// `threads`: how many compute.
  explicit SleepingWaits(int threads);
  ~SleepingWaits();
  SleepingWaits(const SleepingWaits&) = delete;
  SleepingWaits& operator=(const SleepingWaits&) = delete;

 private:
  struct Team;
  std::unique_ptr<Team> team_;
};

/// Looks once a second whether other processes hold the CPUs, as long as it lives. Then it says so in the
/// log and uses SleepingWaits until they do no more, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set. What is
/// computed does not depend on it. Of several at once in a process only the first looks.
class CoresWatch {
 public:
  CoresWatch();
  ~CoresWatch();
  CoresWatch(const CoresWatch&) = delete;
  CoresWatch& operator=(const CoresWatch&) = delete;

 private:
  struct Watch;
  std::unique_ptr<Watch> watch_;  ///< Null: another one looks.
};

}  // namespace bitrain
