#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bitrain::dist {

struct LaunchOptions {
  /// The program, searched for in PATH where it has no '/', and its arguments.
  std::vector<std::string> program;
  std::int64_t processes = 1;
  std::int64_t master_port = 0;   ///< Port of the store that rank 0 serves; 0: a free one for each attempt.
  std::int64_t max_restarts = 0;  ///< How often all start again after a failure.
  /// Folder for rank-<r>.log, each with both outputs of a rank; appended to, since a run that is started
  /// again goes on. Empty: none.
  std::string log_dir;
  std::int64_t grace_seconds = 30;  ///< From SIGTERM to SIGKILL, once a rank has failed.
};

/// Runs `processes` processes of a program on this machine with the environment of torchrun's contract
/// (launch_environment.h) until all have ended, and returns the exit code: 0 when all ended with 0, else that
/// of the rank that failed first (launch_failure.h).
///
/// - What the ranks write comes out in whole lines, with "[rank] " before each where there are several. They
///   have no standard input. A reader of the output that does not read stops everything.
/// - The first rank that fails ends the others: SIGTERM, SIGKILL after `grace_seconds`. One summary says who,
///   how and why. All start again while restarts are left, unless the code is 2 (wrong recipe or command
///   line), 130, 143, 129 or 138 (interrupted), which would come again.
/// - Each rank leads a process group, which gets its signals; so a terminal's Ctrl-C reaches only this one.
///   The first SIGINT, SIGTERM, SIGHUP or SIGUSR1 sends every group one SIGTERM and waits without limit,
///   since ranks write a checkpoint first; the second SIGINT or SIGTERM kills.
/// - No process is left behind, not even when this one is killed by SIGKILL; only one that left its group
///   (setsid) stays.
///
/// Call it before anything of this process starts threads or CUDA; it starts none. Throws ConfigError for
/// options out of range, IoError when the program or the log folder cannot be used, StateError when another
/// runs in this process.
[[nodiscard]] int launch(const LaunchOptions& options);

}  // namespace bitrain::dist
