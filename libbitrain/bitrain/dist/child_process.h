#pragma once

#include <sys/types.h>

#include <atomic>
#include <string>
#include <vector>

#include <bitrain/dist/environment.h>
#include <bitrain/dist/file_descriptor.h>

namespace bitrain::dist {

/// The file that a shell would run for `name`: as it is where it has a '/', else of the first folder of PATH.
/// Throws IoError when there is none, or it cannot be executed.
[[nodiscard]] std::string find_program(const std::string& name, const Variables& variables);

struct ChildProcess {
  pid_t id = -1;  ///< Of its process group as well.
  FileDescriptor output;
  FileDescriptor errors;
};

/// Runs `file` with `arguments` (the first is its name) in a process group of its own, with no input and its
/// stdout and stderr in pipes. The kernel kills it when the calling thread is gone, however that ended.
/// Signal handlers of this process do not run in it. Throws IoError when it cannot be executed.
[[nodiscard]] ChildProcess start_process(const std::string& file, const std::vector<std::string>& arguments,
                                         const Variables& variables);

/// Kills process groups when this process is gone and could not do so itself (SIGKILL): the kernel's own
/// message reaches the processes that it started, not theirs. It is one more process, asleep on a pipe.
class GroupGuard {
 public:
  /// Throws IoError.
  explicit GroupGuard(std::size_t groups);
  ~GroupGuard();
  GroupGuard(const GroupGuard&) = delete;
  GroupGuard& operator=(const GroupGuard&) = delete;

  /// Watches over `group` as number `index`; 0: nothing there any more.
  void set(std::size_t index, pid_t group) { groups_[index] = group; }

 private:
  [[noreturn]] void stand_guard();

  std::size_t count_;
  std::atomic<pid_t>* groups_ = nullptr;  // Shared with the guard.
  Pipe pipe_;                             // Nothing is written: its end is the message.
  pid_t guard_ = -1;
};

}  // namespace bitrain::dist
