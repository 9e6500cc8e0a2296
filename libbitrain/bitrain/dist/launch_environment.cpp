#include <bitrain/dist/launch_environment.h>

#include <bitrain/base/strings.h>

namespace bitrain::dist {
namespace {

constexpr const char* kStalePrefixes[] = {"TORCHELASTIC_", "PET_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_"};
// Slurm's others stay: a program may want the job's number or the node's memory.
constexpr const char* kStale[] = {
    "GROUP_WORLD_SIZE", "ROLE_RANK",      "ROLE_WORLD_SIZE",      "ROLE_NAME",
    "SLURM_PROCID",     "SLURM_LOCALID",  "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE",
    "MPI_LOCALRANKID",  "MPI_LOCALNRANKS"};

}  // namespace

Variables rank_variables(Variables inherited, const LaunchedGroup& group, std::int64_t rank,
                         const std::string& error_file) {
  Variables variables = std::move(inherited);
  for (const char* prefix : kStalePrefixes)
    std::erase_if(variables, [&](const auto& entry) { return starts_with(entry.first, prefix); });
  for (const char* name : kStale) variables.erase(name);
  const auto set = [&](const char* name, std::int64_t value) { variables[name] = std::to_string(value); };
  set("RANK", rank);
  set("WORLD_SIZE", group.processes);
  set("LOCAL_RANK", rank);
  set("LOCAL_WORLD_SIZE", group.processes);
  set("GROUP_RANK", 0);
  variables["MASTER_ADDR"] = "127.0.0.1";
  set("MASTER_PORT", group.master_port);
  variables["TORCHELASTIC_RUN_ID"] = group.run_id;
  set("TORCHELASTIC_RESTART_COUNT", group.restart_count);
  set("TORCHELASTIC_MAX_RESTARTS", group.max_restarts);
  variables["TORCHELASTIC_ERROR_FILE"] = error_file;
  if (variables["OMP_NUM_THREADS"].empty()) set("OMP_NUM_THREADS", group.threads);
  return variables;
}

}  // namespace bitrain::dist
