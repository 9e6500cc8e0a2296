#include <bitrain/train/guards.h>

#include <algorithm>
#include <cmath>

#include <bitrain/base/format.h>

#include <bitrain/base/error.h>

namespace bitrain::train {
namespace {

/// Losses that must have been seen before a spike can be told from the start of a run.
constexpr std::size_t kSpikeMinimum = 8;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::string LossGuard::check(double loss, double grad_norm) {
  std::string reason;
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) {
    reason =
        std::isfinite(loss) ? to_text("the gradient norm is ", grad_norm) : to_text("the loss is ", loss);
    if (options_.on_nonfinite == "stop") {
      throw DivergedError(
          reason,
          "; the weights are those before this step. Lower the learning rate or max_grad_norm, look "
          "at these samples, or set guards.on_nonfinite to skip");
    }
  } else if (options_.spike_factor > 0 && state_.recent.size() >= kSpikeMinimum) {
    const double usual = median(state_.recent);
    if (loss > options_.spike_factor * usual) {
      reason = to_text("the loss ", loss, " is more than ", options_.spike_factor,
                       " times the recent median ", usual);
    }
  }
  if (!reason.empty()) {
    if (++state_.skipped > options_.max_skipped_steps) {
      throw DivergedError(reason, "; that is skipped step number ", state_.skipped,
                          " and guards.max_skipped_steps is ", options_.max_skipped_steps,
                          ". Lower the learning rate or look at the data");
    }
    return reason;
  }
  if (options_.spike_factor > 0) {
    state_.recent.push_back(loss);
    if (static_cast<std::int64_t>(state_.recent.size()) > options_.spike_window) {
      state_.recent.erase(state_.recent.begin());
    }
  }
  return reason;
}

}  // namespace bitrain::train
