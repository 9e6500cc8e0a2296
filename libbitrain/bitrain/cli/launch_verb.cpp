#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <climits>
#include <filesystem>

#include <bitrain/base/strings.h>
#include <bitrain/cli/cli.h>
#include <bitrain/dist/launch.h>

namespace bitrain::cli {
namespace {

constexpr const char* kName = "launch";

constexpr const char* kFooter =
    "Usage:  bitrain launch --nproc 2 run recipe.yaml key=value     a verb of bitrain\n"
    "        bitrain launch --nproc 2 -- ./my_program --flag        any program with torchrun's environment\n"
    "The first rank that fails ends all; its exit code is that of launch. Ctrl-C lets the ranks end by\n"
    "themselves (a checkpoint is written), a second one kills them. For several machines:\n"
    "        torchrun --nnodes N --nproc-per-node G --rdzv-backend c10d --rdzv-endpoint HOST:PORT \\\n"
    "                 --no-python bitrain run recipe.yaml";

bool is_verb(const CLI::App& app, const std::string& word) {
  const auto verbs = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* verb : verbs)
    if (verb->get_name() == word) return word != kName;
  return false;
}

/// What is to be run: the words after launch's own options, with this program before one of its verbs.
std::vector<std::string> program_of(const CLI::App& app, const CLI::App& verb) {
  std::vector<std::string> words = verb.remaining();
  if (words.empty()) words = app.remaining();  // They came after "--".
  if (words.empty()) return words;
  const std::string first = words.front();
  if (starts_with(first, "-"))
    throw ConfigError(
        "launch: unknown option '", first, "'",
        did_you_mean(first, {"--nproc", "--master-port", "--max-restarts", "--log-dir", "--grace-seconds"}),
        "; options of the program come after its name");
  if (is_verb(app, first)) {
    std::error_code error;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    words.insert(words.begin(), error ? "/proc/self/exe" : self.string());
  }
  return words;
}

}  // namespace

void add_launch_verb(CLI::App& app, Outcome& outcome) {
  auto options = std::make_shared<dist::LaunchOptions>();
  CLI::App* verb = app.add_subcommand(kName, "Run a verb or a program in several processes of this machine");
  verb->add_option("--nproc", options->processes, "Processes")->required();
  verb->add_option("--master-port", options->master_port, "Port where they meet; 0: a free one")
      ->capture_default_str();
  verb->add_option("--max-restarts", options->max_restarts, "Start all again after a failure, so often")
      ->capture_default_str();
  is_path(
      verb->add_option("--log-dir", options->log_dir, "Folder that gets rank-<r>.log of each, appended to"));
  verb->add_option("--grace-seconds", options->grace_seconds,
                   "After one failed: how long the others have to end before they are killed")
      ->capture_default_str();
  verb->footer(kFooter);
  // All from the program's name on is the program's. The words after "--" are given to `app`; neither may
  // take options out of them, nor split "[a,b]", as an option for many values would.
  verb->prefix_command();
  verb->preparse_callback([&app](std::size_t) { app.prefix_command(); });
  verb->callback([options, verb, &app, &outcome] {
    options->program = program_of(app, *verb);
    outcome.code = dist::launch(*options);
  });
}

}  // namespace bitrain::cli
