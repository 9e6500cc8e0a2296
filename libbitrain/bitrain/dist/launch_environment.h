#pragma once

#include <cstdint>
#include <string>

#include <bitrain/dist/environment.h>

namespace bitrain::dist {

/// What the processes of one attempt have in common.
struct LaunchedGroup {
  std::int64_t processes = 1;
  std::int64_t master_port = 0;
  std::string run_id;
  std::int64_t restart_count = 0;
  std::int64_t max_restarts = 0;
  std::int64_t threads = 1;  ///< OMP_NUM_THREADS, unless that is set.
};

/// The environment of rank `rank` by torchrun's contract, for a machine alone: `inherited` less what an outer
/// launcher (torchrun, PET, Slurm, an MPI) says of this process's own rank, and no
/// TORCHELASTIC_USE_AGENT_STORE: rank 0 serves the store.
[[nodiscard]] Variables rank_variables(Variables inherited, const LaunchedGroup& group, std::int64_t rank,
                                       const std::string& error_file);

}  // namespace bitrain::dist
