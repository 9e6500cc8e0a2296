#include <bitrain/dist/line_pump.h>

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <bitrain/base/log.h>

namespace bitrain::dist {
namespace {

constexpr std::chrono::seconds kDrawEvery{1};

/// Writes all, also where somebody made the file non-blocking. False: it cannot be written.
bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd writable{descriptor, POLLOUT, 0};
      poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

void LineSink::add(const void* writer, std::string_view prefix, std::string_view text, bool ends_line) {
  if (open_ != nullptr && open_ != writer) end_line();
  if (open_ == nullptr) pending_ += prefix;
  pending_ += text;
  if (ends_line) pending_ += '\n';
  open_ = ends_line ? nullptr : writer;
}

void LineSink::end_line() {
  if (open_ != nullptr) pending_ += '\n';
  open_ = nullptr;
}

void LineSink::flush() {
  if (!failed_ && !write_all(descriptor_, pending_)) {
    failed_ = true;
    log_warn("launch: ", name_, " cannot be written: ", std::strerror(errno), "; going on without it");
  }
  pending_.clear();
}

void LinePump::pump() {
  if (!read_some(kLongestLine)) end();
}

void LinePump::finish() {
  if (!from_.is_open()) return;
  // Not until the end of the pipe: a process that left the group may hold it open for ever.
  int waiting = 0;
  if (ioctl(from_.get(), FIONREAD, &waiting) != 0) waiting = 0;
  while (waiting > 0) {
    const auto bytes = std::min(static_cast<std::size_t>(waiting), kLongestLine);
    if (!read_some(bytes)) break;
    waiting -= static_cast<int>(bytes);
  }
  end();
}

bool LinePump::read_some(std::size_t bytes) {
  std::array<char, kLongestLine> buffer;
  ssize_t got = 0;
  do {
    got = read(from_.get(), buffer.data(), std::min(bytes, buffer.size()));
  } while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  take({buffer.data(), static_cast<std::size_t>(got)}, Clock::now());
  for (const Output& output : to_) output.sink->flush();
  return true;
}

void LinePump::take(std::string_view text, Clock::time_point now) {
  while (!text.empty()) {
    if (returned_ && text.front() != '\n' && text.front() != '\r') end_drawing(now);
    const std::size_t stop = text.find_first_of("\r\n");
    take_piece(text.substr(0, stop));
    if (stop == std::string_view::npos) return;
    returned_ = text[stop] == '\r';
    if (!returned_) emit(true);
    text.remove_prefix(stop + 1);
  }
}

void LinePump::take_piece(std::string_view piece) {
  while (line_.size() + piece.size() > kLongestLine) {
    const std::size_t part = kLongestLine - line_.size();
    line_ += piece.substr(0, part);
    piece.remove_prefix(part);
    emit(false);
  }
  line_ += piece;
}

void LinePump::end_drawing(Clock::time_point now) {
  returned_ = false;
  const bool due = drawn_ == Clock::time_point{} || now - drawn_ >= kDrawEvery;
  if (in_parts_ || (due && !line_.empty())) {
    emit(true);
    drawn_ = now;
  }
  line_.clear();
}

void LinePump::emit(bool ends_line) {
  for (const Output& output : to_) output.sink->add(this, output.prefix, line_, ends_line);
  line_.clear();
  in_parts_ = !ends_line;
}

void LinePump::end() {
  if (!line_.empty() || in_parts_) emit(true);
  for (const Output& output : to_) output.sink->flush();
  from_.reset();
}

}  // namespace bitrain::dist
