#include <bitrain/train/options.h>

#include <bitrain/base/error.h>

namespace bitrain::train {

std::int64_t total_steps(const TrainOptions& options, std::int64_t tokens_per_step) {
  if (options.max_steps > 0) return options.max_steps;
  if (options.max_tokens <= 0)
    throw ConfigError("set train.max_steps or train.max_tokens: how long to train");
  if (tokens_per_step <= 0) {
    throw ConfigError(
        "train.max_tokens needs data that knows its tokens per step; set train.max_steps instead");
  }
  return (options.max_tokens - 1) / tokens_per_step + 1;
}

}  // namespace bitrain::train
