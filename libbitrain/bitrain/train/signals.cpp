#include <bitrain/train/signals.h>

#include <array>
#include <atomic>
#include <csignal>
#include <exception>

#include <unistd.h>

namespace bitrain::train {
namespace {

constexpr std::array<int, 4> kSignals = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

std::atomic<int> received_signal{0};
std::atomic<bool> asked_to_end{false};  // By SIGINT or SIGTERM.
std::atomic<bool> watching{false};
std::atomic<bool> obeyed{false};
std::array<struct sigaction, kSignals.size()> previous_actions;

static_assert(std::atomic<int>::is_always_lock_free, "the handler must not lock");

extern "C" void note_signal(int signal) {
  int none = 0;
  received_signal.compare_exchange_strong(none, signal);
  // Warnings come before SIGTERM, and may come again: they never kill.
  const bool asks = signal == SIGINT || signal == SIGTERM;
  if (!asks || !asked_to_end.exchange(true)) return;
  // The first process of a container has no default actions.
  if (getpid() == 1) _exit(128 + signal);
  // The second one: the default action ends the process as soon as this handler returns.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  raise(signal);
}

}  // namespace

SignalWatch::SignalWatch() {
  if (watching.exchange(true)) return;
  active_ = true;
  exceptions_ = std::uncaught_exceptions();
  obeyed = false;
  received_signal = 0;
  asked_to_end = false;
  struct sigaction action {};
  action.sa_handler = note_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // A write of a checkpoint goes on.
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &previous_actions[i]);
    // A program in the background ignores SIGINT, one under nohup SIGHUP: leave it so.
    if (previous_actions[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

SignalWatch::~SignalWatch() {
  if (!active_) return;
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous_actions[i], nullptr);
  const int late = obeyed ? 0 : received_signal.load();
  received_signal = 0;
  watching = false;
  if (late != 0 && std::uncaught_exceptions() == exceptions_) raise(late);
}

int SignalWatch::received() {
  return received_signal;
}

void SignalWatch::obey() {
  obeyed = true;
}

}  // namespace bitrain::train
