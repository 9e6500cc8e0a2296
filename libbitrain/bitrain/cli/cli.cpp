#include <bitrain/cli/cli.h>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <locale>
#include <sstream>

#include <bitrain/base/cpu_count.h>
#include <bitrain/base/error.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/base/printable.h>
#include <bitrain/base/version.h>
#include <bitrain/cli/deep_stack.h>
#include <bitrain/io/home.h>

namespace bitrain::cli {
namespace {

constexpr const char* kFooter =
    "Begin with:  bitrain run recipes/quickstart/en_es.yaml\n"
    "Exit codes:  0 done, 1 unexpected failure, 2 wrong recipe or command line, 3 wrong text, 4 damaged "
    "file,\n"
    "             5 missing file, full disk or no memory, 6 parts do not fit or folder in use,\n"
    "             7 training diverged, 8 not available here, 9 another rank failed, 129/130/138/143\n"
    "             interrupted by SIGHUP, SIGINT, SIGUSR1, SIGTERM (a checkpoint was written: run again\n"
    "             to go on)";

}  // namespace

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kConfig: return 2;
    case ErrorKind::kData: return 3;
    case ErrorKind::kFormat: return 4;
    case ErrorKind::kIo: return 5;
    case ErrorKind::kState: return 6;
    case ErrorKind::kDiverged: return 7;
    case ErrorKind::kUnsupported: return 8;
    case ErrorKind::kRank: return 9;
  }
  return 1;
}

CLI::Option* is_path(CLI::Option* option) {
  return option->transform([](const std::string& path) { return io::expand_home(path); });
}

namespace {

int g_output_error = 0;  // errno of the first write to stdout that failed.

void write_to_stdout(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() && g_output_error == 0)
    g_output_error = errno;
}

}  // namespace

void print(const std::string& text) {
  write_to_stdout(printable(text));
}

void print_data(const std::string& text) {
  write_to_stdout(isatty(STDOUT_FILENO) != 0 ? printable(text) : text);
}

namespace {

void say(const std::string& text) {
  constexpr std::size_t kLongest = std::size_t{32} << 10;  // Values in it may be whole files.
  std::fprintf(stderr, "bitrain: %s\n", printable(shortened(text, kLongest)).c_str());
}

/// Memory that is given back when there is no more, so that this can be said.
constexpr std::size_t kReserve = std::size_t{4} << 20;
std::atomic<void*> g_reserve{nullptr};

/// Says why the program ends; returns its exit code.
int report(const std::exception& error) {
  std::free(g_reserve.exchange(nullptr));
  const Failure failure = failure_of(error);
  if (!failure.kind) {
    say("unexpected failure: " + failure.message);
    return 1;
  }
  say(std::string(kind_name(*failure.kind)) + ": " + failure.message);
  return exit_code(*failure.kind);
}

/// As CLI11 prints help and what is wrong with a command line.
int report(const CLI::App& app, const CLI::ParseError& error) {
  std::ostringstream help;
  std::ostringstream problem;
  help.imbue(std::locale::classic());
  problem.imbue(std::locale::classic());
  const int code = app.exit(error, help, problem);
  print(help.str());
  std::fputs(printable(problem.str()).c_str(), stderr);
  return code == 0 ? 0 : 2;
}

/// Brings what was printed to where stdout leads; returns the exit code: `code`, unless that fails.
int finish_output(int code) {
  if (std::fflush(stdout) != 0 && g_output_error == 0) g_output_error = errno;
  if (std::ferror(stdout) != 0 && g_output_error == 0) g_output_error = EIO;  // Not by print.
  if (g_output_error == 0 || code != 0) return code;  // Why it is not 0 has been said.
  return report(IoError("cannot write to standard output: ", std::strerror(g_output_error),
                        "; what it should show is incomplete"));
}

/// A file that would grow beyond its limit (ulimit -f) is then an error of write, as a full disk is. A
/// handler, since ignoring would be inherited by what is started.
void outlive_file_limits() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGXFSZ, &action, nullptr);
}

/// The first process of a container has no default actions: it would not hear what asks it to end (docker
/// stop, Ctrl-C) but while it trains.
void hear_signals_in_containers() {
  if (::getpid() != 1) return;
  struct sigaction action {};
  action.sa_handler = [](int signal) { ::_exit(128 + signal); };
  for (const int signal : {SIGHUP, SIGINT, SIGTERM, SIGUSR1}) {
    struct sigaction now {};
    if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_DFL)
      ::sigaction(signal, &action, nullptr);
  }
}

/// Where a standard stream is closed, the next file that is opened would take its number, and get what is
/// printed. One that cannot be written to takes it instead, so that writing fails.
void hold_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) < 0) (void)::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int run_verbs(int argc, char** argv) {
  keep_threads_within_quota();
  const ClassicLocale locale;  // For CLI11, which reads numbers by the C library, and for printf.
  CLI::App app("bitrain " + std::string(kVersion) + ": takes a language model into more languages.",
               "bitrain");
  app.set_version_flag("--version", std::string(kVersion));
  app.require_subcommand(1);
  app.footer(kFooter);
  bool quiet = false;
  bool verbose = false;
  app.add_flag("-q,--quiet", quiet, "Only warnings and errors on stderr");
  app.add_flag("-v,--verbose", verbose, "Details on stderr");
  app.parse_complete_callback([&] {
    if (quiet) set_log_level(LogLevel::kWarn);
    if (verbose) set_log_level(LogLevel::kDebug);
  });
  Outcome outcome;
  add_recipe_verbs(app, outcome);
  add_model_verbs(app);
  add_vocab_verbs(app);
  add_encoder_verbs(app, outcome);
  add_plan_verb(app);
  add_launch_verb(app, outcome);
  try {
    app.parse(argc, argv);
    return outcome.code;
  } catch (const CLI::ParseError& error) {
    return report(app, error);
  } catch (const std::exception& error) {
    return report(error);
  }
}

}  // namespace

void end_by_exception() noexcept {
  // To say what happened may fail likewise, and then there is no memory for a word.
  static std::atomic_flag entered;
  if (entered.test_and_set()) {
    say_out_of_memory();
    std::_Exit(exit_code(ErrorKind::kIo));
  }
  try {
    if (std::current_exception()) std::rethrow_exception(std::current_exception());
  } catch (const std::exception& error) {
    std::_Exit(report(error));
  } catch (...) {
  }
  std::abort();
}

int run_program(int argc, char** argv) {
  hear_signals_in_containers();
  hold_standard_streams();
  outlive_file_limits();
  g_reserve = std::malloc(kReserve);
  std::set_terminate(&end_by_exception);
  return finish_output(on_deep_stack([&] { return run_verbs(argc, argv); }));
}

}  // namespace bitrain::cli
