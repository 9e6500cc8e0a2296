#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include <bitrain/dist/file_descriptor.h>

namespace bitrain::dist {

/// Where the lines of several pumps end up: the launcher's stdout, or a log file. When it can be written no
/// more (full disk, closed pipe), that is said once and the rest is dropped: the processes go on.
class LineSink {
 public:
  /// Borrows `descriptor`; `name` is for that message.
  LineSink(int descriptor, std::string name) : descriptor_(descriptor), name_(std::move(name)) {}

  /// Adds text of `writer` without newlines. A line that another writer cut in on goes on in a line of its
  /// own, under its prefix again.
  void add(const void* writer, std::string_view prefix, std::string_view text, bool ends_line);
  /// Ends a line that is still open.
  void end_line();
  /// Writes what was added.
  void flush();
  /// Whether something could not be written.
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  int descriptor_;
  std::string name_;
  std::string pending_;
  const void* open_ = nullptr;  // Whose line is not ended yet.
  bool failed_ = false;
};

/// Carries what a process writes to a pipe into sinks, in whole lines with a prefix. A line of more than
/// kLongestLine bytes goes out in parts as it comes. A progress bar, which returns to the start of its line
/// ('\r') and draws again, becomes a line a second; its last state is always kept.
class LinePump {
 public:
  static constexpr std::size_t kLongestLine = std::size_t{1} << 16;

  struct Output {
    LineSink* sink;
    std::string prefix;
  };

  LinePump(FileDescriptor from, std::vector<Output> to) : from_(std::move(from)), to_(std::move(to)) {}

  /// To poll; -1 after the end.
  [[nodiscard]] int descriptor() const { return from_.get(); }
  /// Reads once, which waits when there is nothing; closes at the end of the pipe.
  void pump();
  /// Takes what is in the pipe now, ends the last line and closes, whoever may still hold the other end.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  bool read_some(std::size_t bytes);
  void take(std::string_view text, Clock::time_point now);
  void take_piece(std::string_view piece);
  void end_drawing(Clock::time_point now);
  void emit(bool ends_line);
  void end();

  FileDescriptor from_;
  std::vector<Output> to_;
  std::string line_;           // Not ended yet.
  bool in_parts_ = false;      // The beginning of the line has gone out.
  bool returned_ = false;      // The line ended in '\r': '\n' follows, or it is drawn again.
  Clock::time_point drawn_{};  // When a line that was drawn again last went out.
};

}  // namespace bitrain::dist
