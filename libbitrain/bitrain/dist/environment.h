#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace bitrain::dist {

/// Where a process stands among those of a run, and where they meet.
struct Environment {
  /// What it was read from: "flags", "torchrun", "RANK", "PET", "Slurm", "Open MPI", "PMI" or "single
  /// process".
  std::string source = "single process";
  std::vector<std::string> variables;  ///< Those that said world_size and rank; none for flags.
  std::int64_t rank = 0;               ///< In [0, world_size).
  std::int64_t world_size = 1;
  std::int64_t local_rank = 0;  ///< Among the processes on this machine, in [0, local_world_size): its GPU.
  std::int64_t local_world_size = 1;
  std::string master_address;    ///< Host of the store; empty for a single process.
  std::int64_t master_port = 0;  ///< Port of the store; 0 for a single process.
  /// The launcher serves the store: every rank, rank 0 too, is a client. Otherwise rank 0 serves.
  bool store_is_served = false;
  bool libuv = true;   ///< Which server of LibTorch the store speaks to (USE_LIBUV).
  std::string run_id;  ///< The launcher's name for the run; empty: it gave none.
  std::int64_t restart_count =
      0;                   ///< Attempts of this run before this one: no two may share keys of a store.
  std::string error_file;  ///< Where torchrun looks for why a process failed; empty: nowhere.
};

using Variables = std::map<std::string, std::string>;
/// Those of this process.
[[nodiscard]] Variables environment_variables();

/// What the command line said.
struct EnvironmentFlags {
  std::optional<std::int64_t> rank;
  std::optional<std::int64_t> world_size;
  std::optional<std::int64_t> local_rank;
  std::optional<std::int64_t> local_world_size;
  std::string master_address;
  std::optional<std::int64_t> master_port;
};

/// Decides by the first of these that is there: flags (rank and world_size); torchrun's variables, or RANK
/// and WORLD_SIZE from anywhere; PET_* (Kubeflow's, one process a container); Slurm's, inside a step of srun;
/// Open MPI's; PMI's (MPICH, Intel MPI); none: a single process. MASTER_ADDR and MASTER_PORT, or the flags,
/// are obeyed with all of them. A pure function of its arguments.
///
/// Throws ConfigError naming the variable or flag that is missing, no number, or out of range, and what to
/// set.
[[nodiscard]] Environment resolve_environment(const Variables& variables, const EnvironmentFlags& flags = {});

/// One line for the start of a run: "rank 3 of 8 (1 of 4 on this machine) by torchrun, store at host:29500".
[[nodiscard]] std::string describe(const Environment& environment);

/// Why other ranks were waited for and how to run alone, for the end of an error about ranks that did not
/// come: "; Slurm's SLURM_STEP_NUM_TASKS=4 and SLURM_PROCID=0 ask for 4 ranks: ..". Empty where flags or a
/// launcher that starts all ranks itself asked.
[[nodiscard]] std::string how_to_run_alone(const Environment& environment);

/// The first host of a list as Slurm writes them: "gpu[003-005,9],login" is "gpu003".
[[nodiscard]] std::string first_host(const std::string& list);

}  // namespace bitrain::dist
