#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/dist/child_process.h>
#include <bitrain/dist/launch_environment.h>
#include <bitrain/dist/launch_failure.h>
#include <bitrain/dist/line_pump.h>
#include <bitrain/dist/signal_pipe.h>

namespace bitrain::dist {

/// What every attempt of a launch uses.
struct LaunchContext {
  std::string file;  ///< Found program.
  std::vector<std::string> arguments;
  Variables variables;       ///< Inherited.
  std::string error_folder;  ///< For the error files.
  std::chrono::seconds grace{30};
  LineSink output;
  LineSink errors;
  std::vector<LineSink> logs;  ///< One a rank, or none.
  SignalPipe signals;
  GroupGuard guard;
};

/// Codes that tell of an interruption (128 + SIGINT, SIGTERM, SIGHUP or SIGUSR1).
[[nodiscard]] bool tells_interruption(int code);

/// The processes of one attempt, from start to end.
class RankGroup {
 public:
  /// Starts them. Throws IoError; those already started are killed then.
  RankGroup(LaunchContext& context, const LaunchedGroup& group);
  ~RankGroup();
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  /// Waits for all of them.
  void run();
  /// Who failed first; nobody: all ended with 0.
  [[nodiscard]] std::optional<LaunchFailure> failure() const { return first_failure(ends_, began_); }
  /// A signal asked for the end.
  [[nodiscard]] bool interrupted() const { return interrupted_; }
  /// Some did not end by themselves and got SIGKILL.
  [[nodiscard]] bool killed() const { return killed_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct Rank {
    std::int64_t number = 0;
    pid_t id = -1;         // Of the process and its group.
    bool running = false;  // The process itself; others of its group may be left.
    bool gone = true;      // The whole group.
    std::string error_file;
    std::unique_ptr<LinePump> output;
    std::unique_ptr<LinePump> errors;
  };

  void start(const LaunchedGroup& group, std::int64_t number);
  [[nodiscard]] bool all_gone() const;
  [[nodiscard]] int milliseconds_to_wait() const;
  void wait_and_pump();
  void take_signals();
  void reap();
  void reap_rank(Rank& rank);
  void note_end(Rank& rank, int status);
  void signal_all(int signal);
  void tell();
  void set_deadline();
  void keep_deadline();

  LaunchContext& context_;
  std::vector<Rank> ranks_;
  std::vector<RankEnd> ends_;
  double began_;
  bool told_ = false;  // They got SIGTERM.
  bool killed_ = false;
  bool interrupted_ = false;
  bool asked_ = false;                         // By SIGINT or SIGTERM, not only warned.
  std::optional<Clock::time_point> deadline_;  // For SIGKILL.
};

}  // namespace bitrain::dist
