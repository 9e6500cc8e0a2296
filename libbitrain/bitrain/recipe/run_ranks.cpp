#include <bitrain/recipe/run_ranks.h>

#include <algorithm>
#include <exception>

#include <bitrain/base/cpu_count.h>
#include <bitrain/base/failure.h>
#include <bitrain/base/log.h>
#include <bitrain/base/printable.h>
#include <bitrain/dist/session.h>
#include <bitrain/recipe/validate.h>

namespace bitrain::recipe {
namespace {

std::int64_t thread_share(const Recipe& recipe, const dist::Environment& environment) {
  if (recipe.threads > 0 || environment.world_size == 1) return recipe.threads;
  return std::max<std::int64_t>(1, usable_cpus() / environment.local_world_size);
}

}  // namespace

RunResult run_as_rank(const std::filesystem::path& file, const std::vector<std::string>& overrides,
                      const dist::Environment& environment) {
  try {
    Recipe recipe = load_recipe(file, overrides);
    check_inputs(recipe);
    recipe.threads = thread_share(recipe, environment);
    if (environment.world_size > 1) log_info(dist::describe(environment));
    dist::Session session(environment, recipe.parallel, at::Device(recipe.device));
    if (environment.rank > 0 && log_level() < LogLevel::kWarn) set_log_level(LogLevel::kWarn);
    try {
      return run(recipe, session.world());
    } catch (const std::exception& error) {
      session.fail(failure_of(error).message);
      throw;
    }
  } catch (const std::exception& error) {
    dist::write_error_file(environment.error_file, printable(failure_of(error).message));
    throw;
  }
}

}  // namespace bitrain::recipe
