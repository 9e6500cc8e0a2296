#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <bitrain/fields/rule.h>

namespace bitrain::data {

/// One stage of a mixture that changes during the run.
struct MixtureStage {
  std::optional<std::int64_t> until_step;
  std::optional<double> until_fraction;
  std::map<std::string, double> weights;
};

template <class Visitor>
void visit_fields(Visitor& v, MixtureStage& o) {
  v.field("until_step", o.until_step, above(0), "The stage ends after this step.");
  v.field("until_fraction", o.until_fraction, in_range(0, 1),
          "The stage ends after this part of the steps, rounded down.");
  v.field("weights", o.weights, required(not_empty()), "Weight by source name.");
}

/// Shares as a function of the step.
class ShareSchedule {
 public:
  /// `stage_shares[i]` are normalised shares per source of stage i. Stages that name no end are of equal
  /// length, floor(steps / stages); the last one runs to the end. With `interpolate` the shares move in a
  /// straight line through a stage, from those of the stage before to its own, reached at its end.
  /// Throws ConfigError when ends do not rise or some stages name an end and others do not.
  ShareSchedule(const std::vector<MixtureStage>& stages, std::vector<std::vector<double>> stage_shares,
                std::int64_t total_steps, bool interpolate);

  /// At step `step`, counted from 0.
  [[nodiscard]] std::vector<double> at(std::int64_t step) const;
  /// Steps after which each stage ends; the last is total_steps.
  [[nodiscard]] const std::vector<std::int64_t>& ends() const { return ends_; }

 private:
  std::vector<std::vector<double>> shares_;
  std::vector<std::int64_t> ends_;
  bool interpolate_;
};

}  // namespace bitrain::data
