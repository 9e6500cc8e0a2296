#include <bitrain/dist/rank_group.h>

#include <poll.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include <bitrain/base/log.h>
#include <bitrain/base/strings.h>

namespace bitrain::dist {
namespace {

// How often to look for the rest of a group whose end no signal tells: it is not this process's child.
constexpr int kLookMilliseconds = 100;
constexpr int kLongestMilliseconds = 60000;

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

bool tells_interruption(int code) {
  return code == 128 + SIGINT || code == 128 + SIGTERM || code == 128 + SIGHUP || code == 128 + SIGUSR1;
}

RankGroup::RankGroup(LaunchContext& context, const LaunchedGroup& group)
    : context_(context), began_(seconds_since_1970()) {
  ranks_.resize(static_cast<std::size_t>(group.processes));
  try {
    for (std::int64_t i = 0; i < group.processes; ++i) start(group, i);
  } catch (...) {
    signal_all(SIGKILL);
    for (Rank& rank : ranks_)
      if (rank.running) waitpid(rank.id, nullptr, 0);
    throw;
  }
}

RankGroup::~RankGroup() {
  // Only an error in run leaves any.
  signal_all(SIGKILL);
  for (Rank& rank : ranks_) {
    if (rank.running) waitpid(rank.id, nullptr, 0);
    context_.guard.set(static_cast<std::size_t>(rank.number), 0);
  }
}

void RankGroup::start(const LaunchedGroup& group, std::int64_t number) {
  const auto index = static_cast<std::size_t>(number);
  Rank& rank = ranks_[index];
  rank.number = number;
  rank.error_file = context_.error_folder + "/" + std::to_string(group.restart_count) + "-" +
                    std::to_string(number) + ".json";
  ChildProcess child = start_process(context_.file, context_.arguments,
                                     rank_variables(context_.variables, group, number, rank.error_file));
  rank.id = child.id;
  rank.running = true;
  rank.gone = false;
  context_.guard.set(index, rank.id);
  const std::string prefix = group.processes > 1 ? "[" + std::to_string(number) + "] " : "";
  const auto pump = [&](FileDescriptor from, LineSink& sink) {
    std::vector<LinePump::Output> to{{&sink, prefix}};
    if (!context_.logs.empty()) to.push_back({&context_.logs[index], ""});
    return std::make_unique<LinePump>(std::move(from), std::move(to));
  };
  rank.output = pump(std::move(child.output), context_.output);
  rank.errors = pump(std::move(child.errors), context_.errors);
}

void RankGroup::run() {
  while (!all_gone()) {
    wait_and_pump();
    take_signals();
    reap();
    keep_deadline();
  }
}

bool RankGroup::all_gone() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.gone; });
}

int RankGroup::milliseconds_to_wait() const {
  const bool remains =
      std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return !rank.running && !rank.gone; });
  if (remains) return kLookMilliseconds;
  if (!deadline_ || killed_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, kLongestMilliseconds));
}

void RankGroup::wait_and_pump() {
  std::vector<pollfd> files{{context_.signals.descriptor(), POLLIN, 0}};
  std::vector<LinePump*> pumps;
  for (Rank& rank : ranks_)
    for (LinePump* pump : {rank.output.get(), rank.errors.get()}) {
      if (pump->descriptor() < 0) continue;
      files.push_back({pump->descriptor(), POLLIN, 0});
      pumps.push_back(pump);
    }
  // Interrupted by a signal, it has written nothing.
  if (poll(files.data(), files.size(), milliseconds_to_wait()) <= 0) return;
  for (std::size_t i = 0; i < pumps.size(); ++i)
    if (files[i + 1].revents != 0) pumps[i]->pump();
}

void RankGroup::take_signals() {
  for (const int signal : context_.signals.take()) {
    // A closed terminal or a batch system warns before it sends SIGTERM: warnings do not count as the first.
    const bool asks = signal == SIGINT || signal == SIGTERM;
    if (interrupted_ && !asks) continue;
    if (asked_) {
      if (!killed_) log_warn("launch: interrupted again: killing all processes");
      killed_ = true;
      signal_all(SIGKILL);
      return;
    }
    asked_ = asks;
    if (std::exchange(interrupted_, true)) continue;
    log_info("launch: ", signal_name(signal),
             ": waiting for the processes to end by themselves; once more kills them");
    tell();
  }
}

void RankGroup::reap() {
  for (Rank& rank : ranks_)
    if (!rank.gone) reap_rank(rank);
  const bool all_ended =
      std::none_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.running; });
  if (all_ended && !told_ && !all_gone()) {
    // What the ranks left running is not wanted without them.
    tell();
    set_deadline();
  }
}

void RankGroup::reap_rank(Rank& rank) {
  if (rank.running) {
    int status = 0;
    const pid_t ended = waitpid(rank.id, &status, WNOHANG);
    if (ended == 0) return;
    constexpr int kLost = 1 << 8;  // Exit code 1: somebody else took the status.
    note_end(rank, ended == rank.id ? status : kLost);
  }
  // Orphans of the group are children of this process, which is a subreaper: where process 1 of a container
  // reaps nobody, they would stay for ever.
  while (waitpid(-rank.id, nullptr, WNOHANG) > 0) {
  }
  if (kill(-rank.id, 0) == 0) return;
  rank.gone = true;
  context_.guard.set(static_cast<std::size_t>(rank.number), 0);
  rank.output->finish();
  rank.errors->finish();
}

void RankGroup::note_end(Rank& rank, int status) {
  rank.running = false;
  ends_.push_back({rank.number, status, seconds_since_1970(), told_, rank.error_file});
  const int code = exit_code_of(status);
  // After a signal a rank that was interrupted has done as it was told, and others may take longer.
  if (code == 0 || (interrupted_ && tells_interruption(code))) return;
  tell();
  set_deadline();
}

void RankGroup::signal_all(int signal) {
  for (const Rank& rank : ranks_)
    if (!rank.gone) kill(-rank.id, signal);
}

void RankGroup::tell() {
  if (!told_) signal_all(SIGTERM);
  told_ = true;
}

void RankGroup::set_deadline() {
  if (!deadline_) deadline_ = Clock::now() + context_.grace;
}

void RankGroup::keep_deadline() {
  if (!deadline_ || killed_ || all_gone() || Clock::now() < *deadline_) return;
  std::vector<std::string> late;
  for (const Rank& rank : ranks_)
    if (!rank.gone) late.push_back(std::to_string(rank.number));
  log_warn("launch: killing what did not end within ", context_.grace.count(), " s of SIGTERM: rank ",
           join(late, ", "));
  killed_ = true;
  signal_all(SIGKILL);
}

}  // namespace bitrain::dist
