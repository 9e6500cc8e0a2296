#pragma once

#include <string>
#include <vector>

#include <bitrain/io/json.h>
#include <bitrain/recipe/cluster_plan.h>

namespace bitrain::recipe {

/// Plans as text for a terminal. Memory is in GiB (2^30), traffic in GB (10^9), both as is usual for each.
[[nodiscard]] std::string describe(const std::vector<StagePlan>& plans, const ClusterOptions& options);

/// What does not fit, by how much and what to do, a stage a line; empty where all fits.
[[nodiscard]] std::string what_does_not_fit(const std::vector<StagePlan>& plans);

/// describe for machines: bytes, seconds, tokens, and the rates that were taken.
[[nodiscard]] io::Json to_json(const std::vector<StagePlan>& plans, const ClusterOptions& options);

/// The table of GPUs, one a line.
[[nodiscard]] std::string describe(const std::vector<GpuSpec>& specs);

}  // namespace bitrain::recipe
