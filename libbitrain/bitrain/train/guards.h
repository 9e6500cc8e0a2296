#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <bitrain/train/options.h>

namespace bitrain::train {

/// Watches losses and gradient norms, and says when a step must not be applied.
class LossGuard {
 public:
  explicit LossGuard(GuardOptions options) : options_(std::move(options)) {}

  /// "" when the step may be applied; else why it is to be skipped. Throws DivergedError for NaN or infinity
  /// where the options say stop, and when too many steps were skipped; the caller adds step and samples.
  [[nodiscard]] std::string check(double loss, double grad_norm);

  /// What a checkpoint must keep.
  struct State {
    std::vector<double> recent;  ///< Latest good losses, oldest first.
    std::int64_t skipped = 0;
  };
  [[nodiscard]] const State& state() const { return state_; }
  void set_state(State state) { state_ = std::move(state); }

 private:
  GuardOptions options_;
  State state_;
};

}  // namespace bitrain::train
