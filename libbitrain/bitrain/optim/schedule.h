#pragma once

#include <cstdint>
#include <string>

#include <bitrain/fields/rule.h>

namespace bitrain::optim {

/// How the learning rate moves over a run. A pure function of the step: nothing to save.
struct ScheduleOptions {
  std::string type = "cosine";
  std::int64_t warmup_steps = 0;
  double warmup_ratio = 0.0;
  double min_ratio = 0.0;
  double decay_ratio = 0.1;
  std::string decay_shape = "1-sqrt";
};
template <class Visitor>
void visit_fields(Visitor& v, ScheduleOptions& o) {
  v.field("type", o.type, one_of({"constant", "linear", "cosine", "wsd", "inverse_sqrt"}),
          "Shape after warm-up; wsd is warm-up, stable, decay.");
  v.field("warmup_steps", o.warmup_steps, at_least(0), "Steps of linear warm-up; wins over warmup_ratio.");
  v.field("warmup_ratio", o.warmup_ratio, in_range(0, 1),
          "Warm-up as a share of all steps, when warmup_steps is 0.");
  v.field(
      "min_ratio", o.min_ratio, in_range(0, 1),
      "The rate falls to this share of the peak (linear, cosine, wsd), or never below it (inverse_sqrt).");
  v.field("decay_ratio", o.decay_ratio, in_range(0, 1), "For wsd: the share of all steps that decay.");
  v.field("decay_shape", o.decay_shape, one_of({"linear", "cosine", "1-sqrt"}),
          "For wsd: the shape of the decay (1-sqrt: Haegele et al. 2024).");
}

/// Steps of warm-up in a run of `total_steps`.
[[nodiscard]] std::int64_t warmup_steps(const ScheduleOptions& options, std::int64_t total_steps);

/// The share of the peak rate for the update with index `step` in [0, total_steps), counted from 0. Warm-up
/// gives (step + 1) / warmup, so that no step is wasted at rate 0; the decays are those of transformers'
/// schedulers at the same index. Steps beyond `total_steps` keep the last value of a decay.
[[nodiscard]] double schedule_factor(const ScheduleOptions& options, std::int64_t step,
                                     std::int64_t total_steps);

/// Throws ConfigError when warm-up (and the decay of wsd) do not fit into `total_steps`, for inverse_sqrt
/// without warm-up, and for unknown names.
void check_schedule(const ScheduleOptions& options, std::int64_t total_steps);

}  // namespace bitrain::optim
