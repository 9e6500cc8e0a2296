#include <bitrain/optim/schedule.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <bitrain/base/error.h>

namespace bitrain::optim {
namespace {

double cosine(double progress) {
  return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

/// From 1 to 0 over progress in [0, 1].
double fall(const std::string& shape, double progress) {
  if (shape == "linear") return 1.0 - progress;
  if (shape == "cosine") return cosine(progress);
  if (shape == "1-sqrt") return 1.0 - std::sqrt(progress);
  throw ConfigError("unknown shape of decay '", shape, "'; there are: linear, cosine, 1-sqrt");
}

std::int64_t decay_steps(const ScheduleOptions& options, std::int64_t total_steps) {
  return static_cast<std::int64_t>(std::ceil(options.decay_ratio * static_cast<double>(total_steps)));
}

double share(std::int64_t part, std::int64_t whole) {
  return whole <= 0 ? 1.0 : std::clamp(static_cast<double>(part) / static_cast<double>(whole), 0.0, 1.0);
}

}  // namespace

std::int64_t warmup_steps(const ScheduleOptions& options, std::int64_t total_steps) {
  if (options.warmup_steps > 0) return options.warmup_steps;
  return static_cast<std::int64_t>(std::ceil(options.warmup_ratio * static_cast<double>(total_steps)));
}

double schedule_factor(const ScheduleOptions& options, std::int64_t step, std::int64_t total_steps) {
  const std::int64_t warmup = warmup_steps(options, total_steps);
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  const auto down_to_minimum = [&](double level) {
    return options.min_ratio + (1 - options.min_ratio) * level;
  };
  if (options.type == "constant") return 1.0;
  if (options.type == "linear") return down_to_minimum(1.0 - share(step - warmup, total_steps - warmup));
  if (options.type == "cosine") return down_to_minimum(cosine(share(step - warmup, total_steps - warmup)));
  if (options.type == "wsd") {
    const std::int64_t decay = decay_steps(options, total_steps);
    const std::int64_t stable_until = total_steps - decay;
    if (step < stable_until || decay == 0) return 1.0;
    return down_to_minimum(fall(options.decay_shape, share(step - stable_until, decay)));
  }
  if (options.type == "inverse_sqrt") {
    // The curve 1 / sqrt(step), scaled to pass through 1 where warm-up ends.
    const double scale = static_cast<double>(std::max<std::int64_t>(warmup, 1));
    const double shifted = static_cast<double>(step - warmup) + scale;
    return std::max(options.min_ratio, std::sqrt(scale / shifted));
  }
  throw ConfigError("unknown learning-rate schedule '", options.type,
                    "'; there are: constant, linear, cosine, wsd, inverse_sqrt");
}

void check_schedule(const ScheduleOptions& options, std::int64_t total_steps) {
  const std::int64_t warmup = warmup_steps(options, total_steps);
  const std::int64_t decay = options.type == "wsd" ? decay_steps(options, total_steps) : 0;
  if (warmup + decay > total_steps) {
    throw ConfigError("schedule: ", warmup, " steps of warm-up",
                      decay > 0 ? to_text(" and ", decay, " of decay") : "", " do not fit into ", total_steps,
                      " steps; lower warmup_steps, warmup_ratio or decay_ratio");
  }
  if (options.type == "inverse_sqrt" && warmup == 0) {
    throw ConfigError(
        "schedule: inverse_sqrt needs warm-up, which sets its time scale; set warmup_steps or warmup_ratio");
  }
  (void)schedule_factor(options, total_steps, total_steps);  // Names of type and shape.
}

}  // namespace bitrain::optim
