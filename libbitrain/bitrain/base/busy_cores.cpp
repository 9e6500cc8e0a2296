#include <bitrain/base/busy_cores.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>

#include <ATen/Parallel.h>

#include <bitrain/base/cpu_count.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>

namespace bitrain {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLook = std::chrono::seconds(1);
/// Looks in a row that must say the same before the way of waiting is changed.
constexpr int kToBusy = 2;
constexpr int kToQuiet = 10;
constexpr auto kSayAgain = std::chrono::minutes(30);

std::atomic<bool> g_watched{false};

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

std::string percent(double share) {
  return format("%.0f %%", 100 * std::min(1.0, share));
}

}  // namespace

ThreadTimes thread_times(const fs::path& root) {
  ThreadTimes times;
  std::error_code error;
  for (fs::directory_iterator task(root / "proc/self/task", error), end; !error && task != end;
       task.increment(error)) {
    const std::string name = task->path().filename().string();
    std::int64_t thread = 0;
    const auto [stop, bad] = std::from_chars(name.data(), name.data() + name.size(), thread);
    if (bad != std::errc() || stop != name.data() + name.size()) continue;
    ThreadTime time;
    std::ifstream file(task->path() / "schedstat");  // A thread that has ended meanwhile has none.
    if (file >> time.ran >> time.waited) times[thread] = time;
  }
  return times;
}

BusyCores busy_cores(const ThreadTimes& before, const ThreadTimes& after, double seconds, std::int64_t cpus) {
  BusyCores found;
  double used = 0;  // CPUs, by this process.
  for (const auto& [thread, now] : after) {
    const auto then = before.find(thread);
    const ThreadTime start = then == before.end() ? ThreadTime() : then->second;
    if (now.ran < start.ran || now.waited < start.waited) continue;  // Another thread of the same number.
    const double ran = static_cast<double>(now.ran - start.ran) * 1e-9;
    const double waited = static_cast<double>(now.waited - start.waited) * 1e-9;
    used += ran / seconds;
    if (ran + waited >= 0.5 * seconds) found.waited = std::max(found.waited, waited / (ran + waited));
  }
  if (found.waited > 0) found.others = std::max(0.0, static_cast<double>(cpus) - used);
  return found;
}

struct SleepingWaits::Team {
  explicit Team(int threads) : thread([this, threads] { hold(threads); }) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return started; });
  }
  ~Team() {
    {
      const std::lock_guard lock(mutex);
      ended = true;
    }
    changed.notify_all();
    thread.join();  // Its team ends with it.
  }

  void hold(int threads) {
    // With those that compute one more than the CPUs.
    [[maybe_unused]] const int size =
        static_cast<int>(std::max<std::int64_t>(2, affine_cpus() - threads + 2));
#pragma omp parallel num_threads(size)
    { asm volatile("" ::: "memory"); }
    std::unique_lock lock(mutex);
    started = true;
    changed.notify_all();
    changed.wait(lock, [this] { return ended; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool started = false;
  bool ended = false;
  std::thread thread;  // Last: it uses the others.
};

SleepingWaits::SleepingWaits(int threads) : team_(std::make_unique<Team>(threads)) {}
SleepingWaits::~SleepingWaits() = default;

struct CoresWatch::Watch {
  Watch() : threads(at::get_num_threads()), thread([this] { look(); }) {}
  ~Watch() {
    {
      const std::lock_guard lock(mutex);
      ended = true;
    }
    changed.notify_all();
    thread.join();
    g_watched = false;
  }

  void look() {
    ThreadTimes before = thread_times();
    Clock::time_point since = Clock::now();
    std::unique_lock lock(mutex);
    while (!changed.wait_for(lock, kLook, [this] { return ended; })) {
      ThreadTimes after = thread_times();
      const Clock::time_point now = Clock::now();
      judge(busy_cores(before, after, std::chrono::duration<double>(now - since).count(), affine_cpus()));
      before = std::move(after);
      since = now;
    }
  }

  /// `alike`: looks in a row that do not agree with how threads wait now.
  void judge(const BusyCores& cores) {
    alike = cores.busy() != is_busy ? alike + 1 : 0;
    if (alike < (is_busy ? kToQuiet : kToBusy)) return;
    alike = 0;
    is_busy = !is_busy;
    if (is_busy) say(cores);
    if (is_set("OMP_WAIT_POLICY") || is_set("GOMP_SPINCOUNT")) return;
    try {
      if (is_busy)
        waits.emplace(threads);
      else
        waits.reset();
    } catch (const std::system_error& error) {  // No more threads: spinning goes on.
      log_debug("cannot let threads sleep where they wait: ", error.what());
    }
  }

  void say(const BusyCores& cores) {
    const Clock::time_point now = Clock::now();
    if (said && now - *said < kSayAgain) return;
    said = now;
    log_warn("other processes use ", format("%.1f", cores.others), " of the ", affine_cpus(),
             " CPUs: a thread of this one waited ", percent(cores.waited),
             " of the last second for one, and all that work with it waited too");
  }

  const int threads;  // Of the thread that made it: others have their own setting.
  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;
  bool is_busy = false;
  int alike = 0;
  std::optional<Clock::time_point> said;
  std::optional<SleepingWaits> waits;
  std::thread thread;  // Last: it uses the others.
};

CoresWatch::CoresWatch() {
  if (g_watched.exchange(true)) return;
  try {
    watch_ = std::make_unique<Watch>();
  } catch (const std::system_error&) {  // No more threads: nothing is looked at.
    g_watched = false;
  }
}
CoresWatch::~CoresWatch() = default;

}  // namespace bitrain
