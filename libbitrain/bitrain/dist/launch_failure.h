#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace bitrain::dist {

/// How the process of a rank ended.
struct RankEnd {
  std::int64_t rank = 0;
  int status = 0;          ///< As waitpid gives it.
  double time = 0;         ///< When that was seen, in seconds since 1970.
  bool was_told = false;   ///< It had been told to end by then: its end follows from another's.
  std::string error_file;  ///< Where it may have said why.
};

/// The exit code as shells count: 128 + signal for a process that was killed.
[[nodiscard]] int exit_code_of(int status);
/// "exit code 6", "killed by SIGKILL".
[[nodiscard]] std::string describe_end(int status);
/// "SIGTERM"; "signal 34" where it has no name.
[[nodiscard]] std::string signal_name(int signal);

/// What a rank wrote to TORCHELASTIC_ERROR_FILE, in torchrun's format:
/// {"message": {"message": "..", "extraInfo": {"timestamp": "1700000000", "py_callstack": ".."}}}.
struct ErrorReport {
  std::string message;
  std::optional<double> timestamp;  ///< Seconds since 1970.
  double written = 0;               ///< When the file was, in seconds since 1970.
};
/// Nothing where there is no file, or it is damaged.
[[nodiscard]] std::optional<ErrorReport> read_error_report(const std::string& path);

struct LaunchFailure {
  std::int64_t rank = 0;
  int code = 1;         ///< What the launcher exits with.
  std::string how;      ///< describe_end of the rank.
  std::string message;  ///< Of its error report; empty: it left none.
};

/// The rank to blame among `ends` (in the order they were seen), if one did not end with 0: that with the
/// earliest time, by its error report where it has one, which need not be the one that ended first. torchrun
/// writes whole seconds; within one, the time of the report's file and of the end decide. Where that rank was
/// only ended by the launcher's signal, the code is that of the rank that ended first.
[[nodiscard]] std::optional<LaunchFailure> first_failure(const std::vector<RankEnd>& ends, double began);

}  // namespace bitrain::dist
