#pragma once

#include <filesystem>
#include <fstream>

#include <bitrain/train/callbacks.h>

namespace bitrain::train {

/// metrics.jsonl: one JSON object a line, flushed at once. Steps: {"step", "loss", "learning_rate",
/// "grad_norm", "tokens", "tokens_per_second", "seconds", "parts"}; evaluations: {"step", "evaluation":
/// {...}}. On resume, lines of later steps than the resumed one (and a half-written last line) are dropped.
class MetricsFile : public Callback {
 public:
  explicit MetricsFile(std::filesystem::path path) : path_(std::move(path)) {}

  void on_begin(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_evaluate(const Evaluation& evaluation) override;

 private:
  void write_line(const std::string& line);

  std::filesystem::path path_;
  std::ofstream file_;
  std::int64_t log_every_ = 1;
  std::int64_t total_steps_ = 0;
};

}  // namespace bitrain::train
