#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include <bitrain/base/error.h>

/// The program `bitrain`: thin verbs over the library.
namespace bitrain::cli {

/// Runs the program; returns its exit code:
///   0 done · 1 unexpected failure · 2 wrong recipe, option or command line · 3 wrong text or examples
///   4 damaged or foreign file · 5 the system refused (missing file, full disk) · 6 parts do not fit
///   together, or the folder is in use · 7 training diverged · 8 not available here · 9 another rank failed,
///   went silent or does something else · 130, 143 ended by SIGINT, SIGTERM after a checkpoint was written;
///   run again to go on.
int run_program(int argc, char** argv);

/// The exit code for a kind of error.
[[nodiscard]] int exit_code(ErrorKind kind);

/// What a verb hands to main besides throwing: set to 128 + signal by an interrupted run.
struct Outcome {
  int code = 0;
};

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
