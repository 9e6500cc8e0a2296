#include <bitrain/cli/cli.h>

#include <cstdio>
#include <new>

#include <bitrain/base/cpu_count.h>
#include <bitrain/base/format.h>
#include <bitrain/base/log.h>
#include <bitrain/base/version.h>
#include <bitrain/io/home.h>

namespace bitrain::cli {
namespace {

constexpr const char* kFooter =
    "Begin with:  bitrain run recipes/quickstart/en_es.yaml\n"
    "Exit codes:  0 done, 1 unexpected failure, 2 wrong recipe or command line, 3 wrong text, 4 damaged "
    "file,\n"
    "             5 missing file or full disk, 6 parts do not fit or folder in use, 7 training diverged,\n"
    "             8 not available here, 9 another rank failed, 129/130/138/143 interrupted by SIGHUP,\n"
    "             SIGINT, SIGUSR1, SIGTERM (a checkpoint was written: run again to go on)";

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

int run_program(int argc, char** argv) {
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
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const Error& error) {
    std::fprintf(stderr, "bitrain: %s: %s\n", kind_name(error.kind()), error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "bitrain: out of memory: try a smaller micro_batch_rows, or train.recompute=true\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bitrain: unexpected failure: %s\n", error.what());
    return 1;
  }
}

}  // namespace bitrain::cli
