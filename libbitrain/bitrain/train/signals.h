#pragma once

namespace bitrain::train {

/// While it lives, a first signal is only noted: SIGINT, SIGTERM, SIGHUP (the terminal was closed) or SIGUSR1
/// (a batch system's warning that the time is nearly over, as Slurm's --signal=USR1@120). A second SIGINT or
/// SIGTERM kills the process in the usual way; after SIGHUP or SIGUSR1 one of them is still the first.
/// Signals that were ignored (a background job, nohup) stay so. The previous handlers come back when it ends;
/// a signal that was noted and that nobody obeyed is then sent again, to them: it came too late for the one
/// who watched, and what follows must not go on as if nobody had asked. Not when an exception ends the watch.
/// One at a time in a process: an inner one does nothing.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  /// The first signal that was noted, or 0.
  [[nodiscard]] static int received();
  /// Says that the caller ends for the signal that was noted.
  static void obey();

 private:
  bool active_ = false;
  int exceptions_ = 0;  ///< Under way when it began.
};

}  // namespace bitrain::train
