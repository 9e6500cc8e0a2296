#include <bitrain/data/schedule.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <bitrain/base/error.h>

namespace bitrain::data {
namespace {

std::int64_t end_of(const MixtureStage& stage, std::size_t index, std::int64_t total_steps) {
  if (stage.until_step && stage.until_fraction) {
    throw ConfigError("mixture stage ", index + 1, " has until_step and until_fraction; keep one");
  }
  if (stage.until_step) return *stage.until_step;
  if (stage.until_fraction) {
    // The nearest double to 0.3 times 10 is 2.999...: a part that is meant whole stays whole.
    return static_cast<std::int64_t>(
        std::floor(*stage.until_fraction * static_cast<double>(total_steps) + 1e-9));
  }
  return -1;
}

}  // namespace

ShareSchedule::ShareSchedule(const std::vector<MixtureStage>& stages,
                             std::vector<std::vector<double>> stage_shares, std::int64_t total_steps,
                             bool interpolate)
    : shares_(std::move(stage_shares)), interpolate_(interpolate) {
  if (stages.empty() || stages.size() != shares_.size()) throw ConfigError("a mixture schedule needs stages");
  if (total_steps < 1) throw ConfigError("mixture stages need the number of steps of the run");
  const auto count = static_cast<std::int64_t>(stages.size());
  bool any_end = false;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    ends_.push_back(end_of(stages[i], i, total_steps));
    any_end = any_end || ends_.back() >= 0;
  }
  for (std::size_t i = 0; i + 1 < ends_.size(); ++i) {
    if (!any_end) ends_[i] = static_cast<std::int64_t>(i + 1) * (total_steps / count);
    if (ends_[i] < 0) {
      throw ConfigError("mixture stage ", i + 1,
                        " names no end and others do; give all but the last until_step or until_fraction");
    }
    if (i > 0 && ends_[i] < ends_[i - 1]) {
      throw ConfigError("mixture stage ", i + 1, " ends at step ", ends_[i], ", before the one before it (",
                        ends_[i - 1], ")");
    }
  }
  ends_.back() = total_steps;
}

std::vector<double> ShareSchedule::at(std::int64_t step) const {
  std::size_t stage = 0;
  while (stage + 1 < ends_.size() && step >= ends_[stage]) ++stage;
  if (!interpolate_ || stage == 0) return shares_[stage];
  const auto begin = static_cast<double>(ends_[stage - 1]);
  const double length = std::max(1.0, static_cast<double>(ends_[stage]) - begin);
  const double part = std::clamp((static_cast<double>(step) + 1 - begin) / length, 0.0, 1.0);
  std::vector<double> result = shares_[stage];
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = (1 - part) * shares_[stage - 1][i] + part * result[i];
  }
  return result;
}

}  // namespace bitrain::data
