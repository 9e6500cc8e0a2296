#pragma once

namespace bitrain::train {

/// While it lives, the first SIGINT or SIGTERM is only noted; the second one kills the process in the usual
/// way. The previous handlers come back when it ends. One at a time in a process: an inner one does nothing.
class SignalWatch {
 public:
  SignalWatch();
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  /// The signal that was noted, or 0.
  [[nodiscard]] static int received();

 private:
  bool active_ = false;
};

}  // namespace bitrain::train
