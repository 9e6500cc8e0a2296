#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include <unistd.h>

#include <bitrain/base/strings.h>
#include <bitrain/cli/cli.h>
#include <bitrain/data/inspect.h>
#include <bitrain/dist/environment.h>
#include <bitrain/io/directory.h>
#include <bitrain/io/file.h>
#include <bitrain/recipe/explain.h>
#include <bitrain/recipe/memory_plan.h>
#include <bitrain/recipe/run.h>
#include <bitrain/recipe/run_ranks.h>
#include <bitrain/recipe/validate.h>
#include <bitrain/train/report.h>

namespace bitrain::cli {
namespace fs = std::filesystem;
namespace {

struct RecipeArguments {
  std::string file;
  std::vector<std::string> overrides;
};

void add_recipe_arguments(CLI::App& verb, RecipeArguments& arguments) {
  is_path(verb.add_option("recipe", arguments.file, "Recipe (YAML)")->required());
  verb.add_option(
      "overrides", arguments.overrides,
      "key=value, for example target.path=my.tsv target.column=2 stages.adapt.train.max_steps=300");
}

void add_rank_arguments(CLI::App& verb, dist::EnvironmentFlags& flags) {
  CLI::Option_group* group = verb.add_option_group(
      "ranks",
      "Where this process stands, where no launcher says it (torchrun, srun, mpirun, bitrain launch)");
  group->add_option("--rank", flags.rank, "Number of this process, from 0");
  group->add_option("--world-size", flags.world_size, "Number of processes");
  group->add_option("--local-rank", flags.local_rank, "Its number on this machine: its GPU");
  group->add_option("--local-world-size", flags.local_world_size, "Processes on this machine");
  group->add_option("--master-addr", flags.master_address, "Host of rank 0");
  group->add_option("--master-port", flags.master_port, "Port where they meet");
}

void add_run(CLI::App& app, Outcome& outcome) {
  struct Arguments : RecipeArguments {
    dist::EnvironmentFlags flags;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb =
      app.add_subcommand("run", "Run a recipe; finished stages are skipped, interrupted ones go on");
  add_recipe_arguments(*verb, *arguments);
  add_rank_arguments(*verb, arguments->flags);
  verb->callback([arguments, &outcome] {
    const dist::Environment environment =
        dist::resolve_environment(dist::environment_variables(), arguments->flags);
    const recipe::RunResult result = recipe::run_as_rank(arguments->file, arguments->overrides, environment);
    if (result.signal != 0) outcome.code = 128 + result.signal;
    if (environment.rank > 0) return;
    if (result.signal != 0) {
      std::fprintf(stderr, "bitrain: interrupted; a checkpoint was written, run the same command to go on\n");
      return;
    }
    print(to_text(train::summarise(result.summary), "\nreport:  ", (result.dir / "report.html").string(),
                  "\nsummary: ", (result.dir / "summary.json").string(), "\n"));
  });
}

void add_validate(CLI::App& app) {
  auto arguments = std::make_shared<RecipeArguments>();
  CLI::App* verb = app.add_subcommand(
      "validate", "Report every problem of a recipe at once, and what memory it will need");
  add_recipe_arguments(*verb, *arguments);
  verb->callback([arguments] {
    const recipe::Validation validation = recipe::validate(arguments->file, arguments->overrides);
    validation.problems.raise();
    print(to_text(arguments->file, ": ", validation.recipe.stages.size(),
                  " stages, no problems\n\nmemory, worked out from shapes:\n",
                  recipe::describe(validation.plans)));
  });
}

void add_config(CLI::App& app) {
  CLI::App* group = app.add_subcommand("config", "What recipes may say");
  group->require_subcommand(1);
  struct Arguments {
    std::string type;
    bool markdown = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* explain = group->add_subcommand("explain", "Every key with type, default and meaning");
  explain->add_option("type", arguments->type, "Only this stage type (tokenizer, pretrain, cpt, ...)");
  explain->add_flag("--markdown", arguments->markdown, "As the reference page, docs/recipe.md");
  explain->callback([arguments] { print(recipe::explain(arguments->type, arguments->markdown)); });
  CLI::App* schema = group->add_subcommand("schema", "JSON schema of recipes, for editors");
  schema->callback([] { print_data(recipe::schema().dump(2) + "\n"); });
}

void add_data(CLI::App& app) {
  CLI::App* group = app.add_subcommand("data", "Look at training data");
  group->require_subcommand(1);
  struct Arguments : RecipeArguments {
    std::string stage;
    std::int64_t segments = 12;
    bool ids = false;
    bool no_color = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* inspect = group->add_subcommand(
      "inspect",
      "First step of a training stage: pieces, [supervised] or not, and the language of each segment");
  is_path(inspect->add_option("recipe", arguments->file, "Recipe (YAML)")->required());
  inspect->add_option("stage", arguments->stage, "Name of the stage")->required();
  inspect->add_option("overrides", arguments->overrides, "key=value");
  inspect->add_option("--segments", arguments->segments, "Segments to show; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  inspect->add_flag("--ids", arguments->ids, "Show ids beside pieces");
  inspect->add_flag("--no-color", arguments->no_color, "No ANSI colours");
  inspect->callback([arguments] {
    const recipe::Recipe loaded = recipe::load_recipe(arguments->file, arguments->overrides);
    recipe::check_inputs(loaded, recipe::BaseFiles::kTokenizer);
    data::InspectOptions options;
    options.color = !arguments->no_color && isatty(STDOUT_FILENO) != 0;
    options.max_segments = arguments->segments;
    options.ids = arguments->ids;
    std::fputs(recipe::inspect_stage(loaded, arguments->stage, options).c_str(), stdout);
  });
}

/// Where the recipes that come with bitrain are: recipes/ beside or above the program, or in share/bitrain.
fs::path recipes_directory() {
  std::error_code ignored;
  for (fs::path folder = fs::read_symlink("/proc/self/exe", ignored).parent_path(); !folder.empty();
       folder = folder.parent_path()) {
    for (const char* place : {"recipes", "share/bitrain/recipes"})
      if (fs::is_directory(folder / place, ignored)) return folder / place;
    if (folder == folder.parent_path()) break;
  }
  throw IoError("the folder recipes/ was not found beside the program or above it");
}

void add_recipes(CLI::App& app) {
  CLI::App* group = app.add_subcommand("recipes", "The recipes that come with bitrain");
  group->require_subcommand(1);
  group->add_subcommand("ls", "List them")->callback([] {
    const fs::path root = recipes_directory();
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root))
      if (entry.path().extension() == ".yaml") names.push_back(fs::relative(entry.path(), root).string());
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      // The first comment line says what a recipe is for.
      const std::string text = io::read_file(root / name);
      const std::string first = text.substr(0, text.find('\n'));
      print(format("%-32s %s\n", name.c_str(),
                   starts_with(first, "#") ? std::string(trim(first.substr(1))).c_str() : ""));
    }
  });
  struct Arguments {
    std::string name;
    std::string to;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* copy = group->add_subcommand("cp", "Copy one, to change it");
  copy->add_option("name", arguments->name, "As `recipes ls` shows it")->required();
  is_path(copy->add_option("file", arguments->to, "Where to")->required());
  copy->callback([arguments] {
    const fs::path from = recipes_directory() / arguments->name;
    std::error_code ignored;
    if (!fs::is_regular_file(from, ignored))
      throw ConfigError("there is no recipe '", arguments->name, "'; see `bitrain recipes ls`");
    fs::path to = arguments->to;
    if (fs::is_directory(to, ignored)) to /= from.filename();
    if (fs::exists(to, ignored)) throw ConfigError(to.string(), " exists already");
    io::write_file_atomic(to, io::read_file(from));
    print_data(to.string() + "\n");
  });
}

void add_report(CLI::App& app) {
  auto directory = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("report", "Write report.html of a run anew and print its summary");
  is_path(verb->add_option("dir", *directory, "Folder of the run")->required());
  verb->callback([directory] {
    const fs::path dir = *directory;
    const io::Json summary = io::read_json(dir / "summary.json");
    io::write_file_atomic(dir / "report.html", train::render_report(summary));
    print(to_text(train::summarise(summary), "\nreport:  ", (dir / "report.html").string(), "\n"));
  });
}

}  // namespace

void add_recipe_verbs(CLI::App& app, Outcome& outcome) {
  add_run(app, outcome);
  add_validate(app);
  add_config(app);
  add_data(app);
  add_recipes(app);
  add_report(app);
}

}  // namespace bitrain::cli
