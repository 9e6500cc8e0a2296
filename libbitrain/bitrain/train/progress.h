#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <bitrain/train/callbacks.h>

namespace bitrain::train {

/// How a run shows that it is alive.
enum class ProgressStyle { kBar, kLines, kNone };

/// "bar", "lines", "none", or "auto": a bar where stderr is a terminal that can move its cursor, else lines.
[[nodiscard]] ProgressStyle progress_style(const std::string& choice);

/// Progress on stderr. The bar is one line drawn again at most ten times a second; messages of the log
/// appear above it. Lines come every `log_every` steps.
class Progress : public Callback {
 public:
  /// `write` receives the text (default: stderr).
  Progress(std::string name, ProgressStyle style, std::function<void(const std::string&)> write = {});
  ~Progress() override;

  void on_begin(const RunInfo& info) override;
  void on_step(const StepRecord& record) override;
  void on_evaluate(const Evaluation& evaluation) override;
  void on_save(std::int64_t step, const std::string& directory) override;
  void on_end(const TrainResult& result) override;

 private:
  struct Screen;
  std::shared_ptr<Screen> screen_;
};

}  // namespace bitrain::train
