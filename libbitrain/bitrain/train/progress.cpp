#include <bitrain/train/progress.h>

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <vector>

#include <bitrain/base/format.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/base/printable.h>
#include <bitrain/base/strings.h>
#include <bitrain/text/utf8.h>

namespace bitrain::train {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBarWidth = 24;
constexpr int kShortestBar = 8;
constexpr std::size_t kUsualWidth = 80;
constexpr std::size_t kAnyWidth = std::numeric_limits<std::size_t>::max();
constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr const char* kClearLine = "\r\x1b[K";

const char* prefix(LogLevel level) {
  switch (level) {
    case LogLevel::kWarn: return "warning: ";
    case LogLevel::kError: return "error: ";
    default: return "";
  }
}

/// Columns of the terminal on stderr now: it may have been resized since the last drawing.
std::size_t width_of_terminal() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* columns = std::getenv("COLUMNS");
  const long named = columns == nullptr ? 0 : std::strtol(columns, nullptr, 10);
  return named > 0 ? static_cast<std::size_t>(named) : kUsualWidth;
}

/// The beginning of a text that takes no more than `room` columns.
std::string cut_to(const std::string& text, std::size_t room) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t next = at + text::utf8_at(text, at).length;
    if (columns_of(std::string_view(text).substr(0, next)) > room) break;
    at = next;
  }
  return text.substr(0, at);
}

std::string per_second(double tokens) {
  return std::isfinite(tokens) ? with_thousands(std::llround(tokens)) + " tokens/s" : "";
}

}  // namespace

ProgressStyle progress_style(const std::string& choice) {
  if (choice == "bar") return ProgressStyle::kBar;
  if (choice == "lines") return ProgressStyle::kLines;
  if (choice == "none") return ProgressStyle::kNone;
  if (choice != "auto")
    throw ConfigError("unknown progress '", choice, "'; there are: auto, bar, lines, none");
  const char* terminal = std::getenv("TERM");
  const bool moves_cursor = terminal != nullptr && *terminal != '\0' && std::string(terminal) != "dumb";
  return isatty(STDERR_FILENO) != 0 && moves_cursor ? ProgressStyle::kBar : ProgressStyle::kLines;
}

std::size_t columns_of(std::string_view text) {
  constexpr std::uint32_t kFirstWide = 0x1100;  // Hangul; behind it come most characters of two columns.
  std::size_t columns = 0;
  for (std::size_t at = 0; at < text.size();) {
    const text::Utf8Char c = text::utf8_at(text, at);
    columns += c.code >= kFirstWide ? 2 : 1;
    at += c.length;
  }
  return columns;
}

/// What is on the terminal. Shared with the log sink, which may be called from any thread.
struct Progress::Screen {
  std::string name;
  ProgressStyle style = ProgressStyle::kNone;
  std::function<void(const std::string&)> write;
  std::function<std::size_t()> width;
  RunInfo info;
  double seconds_per_step = 0;   ///< Moving average.
  double tokens_per_second = 0;  ///< Moving average.
  Clock::time_point drawn;
  std::string bar;  ///< What is shown now; empty: nothing.
  LogSink previous_sink;
  bool has_sink = false;
  std::mutex mutex;

  /// Names of stages, languages and folders are the recipe's.
  void say(const std::string& text) const { write(printable(text)); }

  void clear() {
    if (!bar.empty()) write(kClearLine);
    bar.clear();
  }

  [[nodiscard]] std::string describe(const StepRecord& record) const {
    const double left = seconds_per_step * static_cast<double>(info.total_steps - record.step);
    std::string text =
        to_text("step ", record.step, "/", info.total_steps, "  loss ", format("%.4f", record.loss));
    if (style == ProgressStyle::kLines) {
      text +=
          to_text("  lr ", format("%.3g", record.learning_rate), "  norm ", format("%.3g", record.grad_norm));
    }
    text += to_text("  ", per_second(tokens_per_second), "  ", human_seconds(left), " left");
    if (record.skipped) text += "  skipped";
    return text;
  }

  [[nodiscard]] std::string draw_bar(const StepRecord& record, int size) const {
    const double done =
        static_cast<double>(record.step) / static_cast<double>(std::max<std::int64_t>(info.total_steps, 1));
    const int filled = std::clamp(static_cast<int>(done * size), 0, size);
    std::string shape = std::string(static_cast<std::size_t>(filled), '=') + (filled < size ? ">" : "");
    shape.resize(static_cast<std::size_t>(size), ' ');
    return "[" + shape + "]";
  }

  /// The line of the bar in less than `columns` columns: first the bar gets shorter, then it and words go,
  /// the least wanted first.
  [[nodiscard]] std::string line_for(const StepRecord& record, std::size_t columns) const {
    const std::size_t room = columns == 0 ? 0 : columns - 1;
    const std::string all = " " + describe(record);
    const std::size_t without_bar = columns_of(printable(name + all)) + columns_of(" []");
    if (without_bar + kShortestBar <= room) {
      const auto size = static_cast<int>(std::min<std::size_t>(kBarWidth, room - without_bar));
      return printable(name + " " + draw_bar(record, size) + all);
    }
    const double left = seconds_per_step * static_cast<double>(info.total_steps - record.step);
    const std::string step = to_text("step ", record.step, "/", info.total_steps);
    const std::string loss = "  loss " + format("%.4f", record.loss);
    const std::string time = "  " + human_seconds(left) + " left";
    const std::vector<std::string> shorter = {name + all, name + " " + step + loss + time,
                                              name + " " + step + loss, step + loss, step};
    for (const std::string& line : shorter)
      if (const std::string text = printable(line); columns_of(text) <= room) return text;
    return cut_to(to_text(record.step, "/", info.total_steps), room);
  }
};

Progress::Progress(std::string name, ProgressStyle style, std::function<void(const std::string&)> write,
                   std::function<std::size_t()> width)
    : screen_(std::make_shared<Screen>()) {
  screen_->name = name.empty() ? "train" : std::move(name);
  screen_->style = style;
  screen_->width = std::move(width);
  if (!screen_->width && !write) screen_->width = width_of_terminal;
  if (!screen_->width) screen_->width = [] { return kAnyWidth; };
  screen_->write = std::move(write);
  if (!screen_->write) {
    screen_->write = [](const std::string& text) {
      std::fwrite(text.data(), 1, text.size(), stderr);
      std::fflush(stderr);
    };
  }
}

Progress::~Progress() {
  {
    const std::lock_guard<std::mutex> lock(screen_->mutex);
    screen_->clear();
  }
  if (screen_->has_sink) set_log_sink(screen_->previous_sink);
}

void Progress::on_begin(const RunInfo& info) {
  screen_->info = info;
  if (screen_->style == ProgressStyle::kNone) return;
  screen_->say(to_text(screen_->name, ": ", info.total_steps, " steps, ",
                       with_thousands(info.trainable_parameters), " trainable parameters",
                       info.first_step > 0 ? to_text(", resumed at step ", info.first_step) : "", "\n"));
  if (screen_->style != ProgressStyle::kBar || screen_->has_sink) return;
  // Messages must not be written into the bar: they go above it, and the bar is drawn again with the next
  // step.
  screen_->has_sink = true;
  screen_->previous_sink = set_log_sink([screen = screen_](LogLevel level, const std::string& message) {
    const std::lock_guard<std::mutex> lock(screen->mutex);
    screen->clear();
    if (screen->previous_sink) {
      screen->previous_sink(level, message);
    } else {
      screen->say(to_text(prefix(level), message, "\n"));
    }
  });
}

void Progress::on_step(const StepRecord& record) {
  Screen& screen = *screen_;
  if (screen.style == ProgressStyle::kNone) return;
  const std::lock_guard<std::mutex> lock(screen.mutex);
  const bool first = screen.seconds_per_step == 0;
  const double weight = first ? 1.0 : 0.1;
  screen.seconds_per_step += weight * (record.seconds - screen.seconds_per_step);
  screen.tokens_per_second += weight * (record.tokens_per_second - screen.tokens_per_second);
  const bool last = record.step == screen.info.total_steps;
  if (screen.style == ProgressStyle::kLines) {
    if (is_logged(record.step, screen.info.log_every, screen.info.total_steps)) {
      screen.say(to_text(screen.name, ": ", screen.describe(record), "\n"));
    }
    return;
  }
  const auto now = Clock::now();
  if (!first && !last && now - screen.drawn < kRedraw) return;
  screen.drawn = now;
  screen.bar = screen.line_for(record, screen.width());
  screen.write(kClearLine + screen.bar);
}

void Progress::on_evaluate(const Evaluation& evaluation) {
  Screen& screen = *screen_;
  if (screen.style == ProgressStyle::kNone) return;
  std::string text = to_text(screen.name, ": evaluation at step ", evaluation.step, ":");
  for (const auto& [language, figures] : evaluation.languages) {
    text += "  " + language;
    for (const char* figure :
         {"loss_per_token", "bits_per_byte", "accuracy_at_1", "mrr_at_10", "agreement"}) {
      const auto found = figures.find(figure);
      if (found != figures.end()) text += to_text(" ", figure, " ", format("%.4f", found->second));
    }
  }
  const std::lock_guard<std::mutex> lock(screen.mutex);
  screen.clear();
  screen.say(text + "\n");
}

void Progress::on_save(std::int64_t /*step*/, const std::string& directory) {
  if (screen_->style == ProgressStyle::kNone) return;
  const std::lock_guard<std::mutex> lock(screen_->mutex);
  screen_->clear();
  screen_->say(to_text(screen_->name, ": saved ", directory, "\n"));
}

void Progress::on_end(const TrainResult& result) {
  if (screen_->style == ProgressStyle::kNone) return;
  const std::lock_guard<std::mutex> lock(screen_->mutex);
  screen_->clear();
  screen_->say(to_text(screen_->name, result.interrupted() ? ": interrupted at step " : ": done, step ",
                       result.steps, "  loss ", format("%.4f", result.train_loss), "  ",
                       per_second(result.tokens_per_second), "  ", human_seconds(result.seconds), "\n"));
}

}  // namespace bitrain::train
