#include <bitrain/dist/signal_pipe.h>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include <bitrain/base/error.h>

namespace bitrain::dist {
namespace {

constexpr int kNone = -1;
std::atomic<int> write_end{kNone};
static_assert(std::atomic<int>::is_always_lock_free, "the handler must not lock");

extern "C" void write_signal(int signal) {
  const int error = errno;
  const char byte = static_cast<char>(signal);
  // A full pipe wakes the reader just as well.
  if (signal != SIGPIPE && write(write_end, &byte, 1) < 0) errno = error;
  errno = error;
}

}  // namespace

SignalPipe::SignalPipe() : pipe_(open_pipe()) {
  for (const FileDescriptor* end : {&pipe_.read, &pipe_.write}) fcntl(end->get(), F_SETFL, O_NONBLOCK);
  int none = kNone;
  if (!write_end.compare_exchange_strong(none, pipe_.write.get()))
    throw StateError("launch: this process launches others already");
  struct sigaction action {};
  action.sa_handler = write_signal;  // SIGPIPE too: ignoring it would be inherited by what is started.
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &previous_[i]);
    const bool keep = previous_[i].sa_handler == SIG_IGN && kSignals[i] != SIGCHLD;
    if (!keep) sigaction(kSignals[i], &action, nullptr);
  }
}

SignalPipe::~SignalPipe() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous_[i], nullptr);
  write_end = kNone;
}

std::vector<int> SignalPipe::take() {
  std::vector<int> signals;
  std::array<char, 256> bytes;
  for (ssize_t got = 0; (got = read(descriptor(), bytes.data(), bytes.size())) > 0;)
    for (ssize_t i = 0; i < got; ++i)
      if (bytes[static_cast<std::size_t>(i)] != SIGCHLD)
        signals.push_back(bytes[static_cast<std::size_t>(i)]);
  return signals;
}

}  // namespace bitrain::dist
