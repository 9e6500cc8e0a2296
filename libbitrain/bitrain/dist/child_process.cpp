#include <bitrain/dist/child_process.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::dist {
namespace {

constexpr int kCannotStart = 127;

/// Blocks every signal of this thread, so that no handler runs between fork and exec.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  [[nodiscard]] const sigset_t& previous() const { return previous_; }

 private:
  sigset_t previous_;
};

/// What the child needs after fork, made before it: there only async-signal-safe calls are allowed.
struct Start {
  const char* file;
  char* const* arguments;
  char* const* variables;
  int input;
  int output;
  int errors;
  int report;  // Gets errno when exec fails, and ends when it does not.
  pid_t parent;
  const sigset_t* signals;
};

void default_handlers() {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action {};
    if (sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    action.sa_handler = SIG_DFL;
    action.sa_flags = 0;
    sigaction(signal, &action, nullptr);
  }
}

[[noreturn]] void become(const Start& start) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have gone before that was said.
  if (getppid() != start.parent) _exit(kCannotStart);
  dup2(start.input, STDIN_FILENO);
  dup2(start.output, STDOUT_FILENO);
  dup2(start.errors, STDERR_FILENO);
  default_handlers();
  sigprocmask(SIG_SETMASK, start.signals, nullptr);
  execve(start.file, start.arguments, start.variables);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(start.report, &error, sizeof error);
  _exit(kCannotStart);
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

bool is_program(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && access(path.c_str(), X_OK) == 0;
}

}  // namespace

std::string find_program(const std::string& name, const Variables& variables) {
  if (name.find('/') != std::string::npos) {
    if (is_program(name)) return name;
    if (access(name.c_str(), F_OK) != 0) throw IoError("program '", name, "' is not there");
    throw IoError("program '", name, "' cannot be executed: it must be a file with chmod +x");
  }
  const auto path = variables.find("PATH");
  for (std::string file : split(path == variables.end() ? "/usr/bin:/bin" : path->second, ':')) {
    if (file.empty()) file = ".";
    file.append("/").append(name);
    if (is_program(file)) return file;
  }
  throw IoError("program '", name, "' is in no folder of PATH; for a file of this folder write ./", name);
}

ChildProcess start_process(const std::string& file, const std::vector<std::string>& arguments,
                           const Variables& variables) {
  std::vector<std::string> entries;
  for (const auto& [name, value] : variables) entries.emplace_back(name).append("=").append(value);
  const std::vector<char*> argument_pointers = pointers(arguments);
  const std::vector<char*> variable_pointers = pointers(entries);
  const FileDescriptor nothing = open_file("/dev/null", O_RDONLY);
  Pipe output = open_pipe();
  Pipe errors = open_pipe();
  Pipe report = open_pipe();
  ChildProcess child;
  {
    const SignalsBlocked blocked;
    const Start start{file.c_str(),       argument_pointers.data(), variable_pointers.data(), nothing.get(),
                      output.write.get(), errors.write.get(),       report.write.get(),       getpid(),
                      &blocked.previous()};
    child.id = fork();
    if (child.id == 0) become(start);
  }
  if (child.id < 0) throw IoError("cannot start a process: ", std::strerror(errno));
  report.write.reset();
  int error = 0;
  ssize_t got = 0;
  do {
    got = read(report.read.get(), &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof error) {
    waitpid(child.id, nullptr, 0);
    throw IoError(file, ": cannot be executed: ", std::strerror(error),
                  error == ENOEXEC ? "; a script must begin with #! and its interpreter" : "");
  }
  child.output = std::move(output.read);
  child.errors = std::move(errors.read);
  return child;
}

GroupGuard::GroupGuard(std::size_t groups) : count_(groups), pipe_(open_pipe()) {
  static_assert(std::atomic<pid_t>::is_always_lock_free, "shared between processes");
  void* memory = mmap(nullptr, count_ * sizeof(std::atomic<pid_t>), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw IoError("cannot share memory: ", std::strerror(errno));
  groups_ = new (memory) std::atomic<pid_t>[count_] {};
  {
    const SignalsBlocked blocked;  // The guard keeps them so: nothing but SIGKILL ends it early.
    guard_ = fork();
    if (guard_ == 0) stand_guard();
  }
  if (guard_ < 0) {
    munmap(memory, count_ * sizeof(std::atomic<pid_t>));
    throw IoError("cannot start a process: ", std::strerror(errno));
  }
  pipe_.read.reset();
}

GroupGuard::~GroupGuard() {
  kill(guard_, SIGKILL);
  waitpid(guard_, nullptr, 0);
  munmap(groups_, count_ * sizeof(std::atomic<pid_t>));
}

void GroupGuard::stand_guard() {
  setpgid(0, 0);
  prctl(PR_SET_NAME, "bitrain-guard");
  close(pipe_.write.get());
  char byte = 0;
  while (read(pipe_.read.get(), &byte, 1) < 0 && errno == EINTR) {
  }
  for (std::size_t i = 0; i < count_; ++i)
    if (groups_[i] > 0) kill(-groups_[i], SIGKILL);
  _exit(0);
}

}  // namespace bitrain::dist
