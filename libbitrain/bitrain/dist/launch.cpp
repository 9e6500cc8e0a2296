#include <bitrain/dist/launch.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include <bitrain/base/cpu_count.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/dist/rank_group.h>
#include <bitrain/io/temporary_directory.h>

namespace bitrain::dist {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kLastPort = 65535;
constexpr std::int64_t kMostProcesses = 4096;
constexpr std::int64_t kLongestGrace = 1'000'000'000;
constexpr int kWrongRecipe = 2;
constexpr int kKilled = 128 + SIGKILL;
constexpr std::size_t kLongestMessage = 4000;

void check(const LaunchOptions& options) {
  if (options.program.empty())
    throw ConfigError("launch: no program to run: bitrain launch --nproc 2 run recipe.yaml");
  if (options.processes < 1 || options.processes > kMostProcesses)
    throw ConfigError("launch: nproc is the number of processes: at least 1 and at most ", kMostProcesses,
                      ", not ", options.processes);
  if (options.master_port < 0 || options.master_port > kLastPort)
    throw ConfigError("launch: master-port is ", options.master_port, "; ports go from 1 to ", kLastPort,
                      ", and 0 takes a free one");
  if (options.max_restarts < 0)
    throw ConfigError("launch: max-restarts must be at least 0, not ", options.max_restarts);
  if (options.grace_seconds < 0 || options.grace_seconds > kLongestGrace)
    throw ConfigError("launch: grace-seconds must be at least 0 and at most ", kLongestGrace, ", not ",
                      options.grace_seconds);
}

/// A port that can be listened to now: `wanted`, or any for 0. Somebody may take it before rank 0 does; with
/// no wish, a restart would take another one.
std::int64_t free_port(std::int64_t wanted) {
  const FileDescriptor listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(wanted));
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener.get(), generic, size) != 0 || getsockname(listener.get(), generic, &size) != 0)
    throw IoError("launch: port ", wanted, " of 127.0.0.1 cannot be used: ", std::strerror(errno),
                  wanted == 0 ? "" : "; give another --master-port, or none for a free one");
  return ntohs(address.sin_port);
}

/// While it lives, orphans among the descendants become children of this process.
class Subreaper {
 public:
  Subreaper() {
    prctl(PR_GET_CHILD_SUBREAPER, &previous_);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  ~Subreaper() { prctl(PR_SET_CHILD_SUBREAPER, previous_); }
  Subreaper(const Subreaper&) = delete;
  Subreaper& operator=(const Subreaper&) = delete;

 private:
  int previous_ = 0;
};

std::string log_path(const LaunchOptions& options, std::int64_t rank) {
  return (fs::path(options.log_dir) / ("rank-" + std::to_string(rank) + ".log")).string();
}

std::vector<FileDescriptor> open_logs(const LaunchOptions& options) {
  std::vector<FileDescriptor> logs;
  if (options.log_dir.empty()) return logs;
  std::error_code error;
  fs::create_directories(options.log_dir, error);
  if (error) throw IoError("launch: log-dir '", options.log_dir, "' cannot be made: ", error.message());
  for (std::int64_t rank = 0; rank < options.processes; ++rank)
    logs.push_back(open_file(log_path(options, rank), O_WRONLY | O_CREAT | O_APPEND));
  return logs;
}

std::string new_run_id() {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return "bitrain-" + std::to_string(getpid()) + "-" + std::to_string(now);
}

void say(const LaunchFailure& failure, const LaunchOptions& options) {
  std::string message = failure.message;
  if (message.size() > kLongestMessage) message = message.substr(0, kLongestMessage) + " ..";
  log_error("launch: rank ", failure.rank, " of ", options.processes,
            options.processes > 1 ? " failed first: " : " failed: ", failure.how,
            message.empty() ? "" : ": " + message,
            options.log_dir.empty() ? "" : "\nits output is in " + log_path(options, failure.rank));
}

/// One attempt; sets `again` when another may help.
int attempt(LaunchContext& context, const LaunchOptions& options, const LaunchedGroup& group, bool& again) {
  log_debug("launch: ", group.processes, " processes of ", context.file,
            ", store at 127.0.0.1:", group.master_port);
  RankGroup ranks(context, group);
  ranks.run();
  const std::optional<LaunchFailure> failure = ranks.failure();
  if (!failure) return 0;
  const bool as_told = tells_interruption(failure->code) || (ranks.killed() && failure->code == kKilled);
  if (!ranks.interrupted() || !as_told) say(*failure, options);
  again = !ranks.interrupted() && !tells_interruption(failure->code) && failure->code != kWrongRecipe;
  return failure->code;
}

}  // namespace

int launch(const LaunchOptions& options) {
  check(options);
  std::fflush(stdout);
  const Variables variables = environment_variables();
  const std::string file = find_program(options.program.front(), variables);
  const std::vector<FileDescriptor> logs = open_logs(options);
  const io::TemporaryDirectory errors("bitrain-launch");
  const Subreaper subreaper;
  LaunchContext context{file,
                        options.program,
                        variables,
                        errors.path().string(),
                        std::chrono::seconds(options.grace_seconds),
                        LineSink(STDOUT_FILENO, "standard output"),
                        LineSink(STDERR_FILENO, "standard error"),
                        {},
                        {},
                        GroupGuard(static_cast<std::size_t>(options.processes))};
  for (std::size_t i = 0; i < logs.size(); ++i)
    context.logs.emplace_back(logs[i].get(), log_path(options, static_cast<std::int64_t>(i)));

  LaunchedGroup group;
  group.processes = options.processes;
  group.run_id = new_run_id();
  group.max_restarts = options.max_restarts;
  group.threads = std::max<std::int64_t>(1, usable_cpus() / options.processes);
  for (;; ++group.restart_count) {
    group.master_port = free_port(options.master_port);
    bool again = false;
    const int code = attempt(context, options, group, again);
    if (!again || group.restart_count == options.max_restarts) {
      if (code == 0 && context.output.failed())
        throw IoError(
            "launch: all processes ended well, but not all that they wrote to standard output could be "
            "written");
      return code;
    }
    if (const std::vector<int> signals = context.signals.take(); !signals.empty())
      return 128 + signals.front();
    log_info("launch: starting all ", options.processes, " processes again (restart ",
             group.restart_count + 1, " of ", options.max_restarts, ")");
  }
}

}  // namespace bitrain::dist
