#pragma once

#include <csignal>

#include <array>
#include <vector>

#include <bitrain/dist/file_descriptor.h>

namespace bitrain::dist {

/// While it lives, SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGCHLD arrive as bytes of a pipe that can be polled
/// beside others, and SIGPIPE does nothing. Signals that were ignored (a background job, nohup) stay so. The
/// previous handlers come back when it ends. One at a time in a process.
class SignalPipe {
 public:
  /// Throws StateError when there is one already, IoError.
  SignalPipe();
  ~SignalPipe();
  SignalPipe(const SignalPipe&) = delete;
  SignalPipe& operator=(const SignalPipe&) = delete;

  [[nodiscard]] int descriptor() const { return pipe_.read.get(); }
  /// Takes what has arrived; of the signals, those that ask for the end, oldest first. Never waits.
  [[nodiscard]] std::vector<int> take();

 private:
  static constexpr std::array<int, 6> kSignals = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD, SIGPIPE};
  Pipe pipe_;
  std::array<struct sigaction, kSignals.size()> previous_{};
};

}  // namespace bitrain::dist
