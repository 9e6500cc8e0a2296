#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <bitrain/train/callbacks.h>

namespace bitrain::train {

/// How a run shows that it is alive.
enum class ProgressStyle { kBar, kLines, kNone };

/// "bar", "lines", "none", or "auto": a bar where stderr is a terminal that can move its cursor, else lines.
[[nodiscard]] ProgressStyle progress_style(const std::string& choice);

/// Columns that a text takes on a terminal at most: two for characters that may be wide.
[[nodiscard]] std::size_t columns_of(std::string_view text);

/// Progress on stderr. The bar is one line drawn again at most ten times a second; messages of the log
/// appear above it. It never fills the terminal's last column, so that no terminal goes on in the next line;
/// a narrow one gets fewer words. Lines come every `log_every` steps.
class Progress : public Callback {
 public:
  /// `write` receives the text (default: stderr). `width` says before each drawing how many columns there are
  /// (default: those of the terminal on stderr, else COLUMNS, else 80; no bound where `write` is given).
  Progress(std::string name, ProgressStyle style, std::function<void(const std::string&)> write = {},
           std::function<std::size_t()> width = {});
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
