#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include <bitrain/base/error.h>

/// The program `bitrain`: thin verbs over the library.
namespace bitrain::cli {

/// Runs the program; returns its exit code:
///   0 done · 1 unexpected failure · 2 wrong recipe, option or command line · 3 wrong text or examples
///   4 damaged or foreign file · 5 the system refused (missing file, full disk, no memory) · 6 parts do not
///   fit together, or the folder is in use · 7 training diverged · 8 not available here · 9 another rank
///   failed, went silent or does something else · 129, 130, 138, 143 ended by SIGHUP, SIGINT, SIGUSR1,
///   SIGTERM after a checkpoint was written; run again to go on.
int run_program(int argc, char** argv);

/// For std::set_terminate: an exception that nobody catches, such as one of a thread that found no memory,
/// ends the program with the message and code that run_program has for it, not by an abort.
[[noreturn]] void end_by_exception() noexcept;

/// The exit code for a kind of error.
[[nodiscard]] int exit_code(ErrorKind kind);

/// What a verb hands to main besides throwing: set to 128 + signal by an interrupted run.
struct Outcome {
  int code = 0;
};

/// Writes to stdout for people, without what could act on a terminal (printable): behind a pipe there may be
/// one.
void print(const std::string& text);
/// Writes what programs may read to stdout: the bytes of `text`, but on a terminal as print does.
void print_data(const std::string& text);

/// Lets an option read "~/x" as a shell would, which leaves `--out=~/x` as it is. Returns it.
CLI::Option* is_path(CLI::Option* option);

// Each group adds its verbs to the program.
void add_recipe_verbs(CLI::App& app, Outcome& outcome);   ///< run, validate, config, recipes, report, data
void add_model_verbs(CLI::App& app);                      ///< eval, merge, generate
void add_vocab_verbs(CLI::App& app);                      ///< vocab extend, vocab report
void add_encoder_verbs(CLI::App& app, Outcome& outcome);  ///< mine-negatives
void add_plan_verb(CLI::App& app);                        ///< plan
void add_launch_verb(CLI::App& app, Outcome& outcome);    ///< launch

}  // namespace bitrain::cli
