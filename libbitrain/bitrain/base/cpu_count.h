#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace bitrain {

/// How many CPUs the control groups of this process let it use at once: the least of cpu.max (version 2) or
/// cpu.cfs_quota_us (version 1) of its own group and all above it that can be seen. Nothing where no group
/// has a quota. `root` is where the file systems begin, for tests; files that are missing or damaged limit
/// nothing.
[[nodiscard]] std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

/// CPUs that this process may run on, by its affinity; at least 1.
[[nodiscard]] std::int64_t affine_cpus();

/// Threads that this process can keep busy: one for each CPU of its affinity, and no more than whole CPUs of
/// its quota, at least 1. More than the quota would wait for each other while the kernel holds them back.
[[nodiscard]] std::int64_t usable_cpus(const std::filesystem::path& root = "/");

/// Lowers LibTorch's number of threads to usable_cpus(), for it knows of no quota. Leaves it as it is when
/// OMP_NUM_THREADS or MKL_NUM_THREADS is set, or the program has set another number before.
void keep_threads_within_quota(const std::filesystem::path& root = "/");

}  // namespace bitrain
