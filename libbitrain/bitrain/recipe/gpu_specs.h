#pragma once

#include <string>
#include <vector>

namespace bitrain::recipe {

/// What a GPU's data sheet says. Decimal units: 1 GB = 10^9 bytes.
struct GpuSpec {
  std::string name;        ///< As on the command line: "h100".
  std::string title;       ///< "NVIDIA H100 SXM5 80 GB".
  double memory_gb = 0;    ///< Read as 10^9 bytes; drivers show up to 7 % more, which is left as a margin.
  double bf16_tflops = 0;  ///< Dense bfloat16 products with float32 sums; not the figure with sparsity.
  double memory_gbs = 0;   ///< Bandwidth of its memory.
  std::string link;        ///< Between the GPUs of a node: "NVLink 4", "PCIe 4 x16".
  double link_gbs = 0;     ///< Of one GPU, in one direction.
  bool nvlink = true;
  double network_gbps = 0;  ///< Between nodes, of one GPU, in Gb/s: an assumption, no data sheet has it.
  std::string source;       ///< The data sheet, and where the network's figure is from.
};

/// All that `bitrain plan` knows.
[[nodiscard]] const std::vector<GpuSpec>& gpu_specs();

/// The one of that name; case does not matter. Throws ConfigError that lists the names.
[[nodiscard]] const GpuSpec& find_gpu(const std::string& name);

}  // namespace bitrain::recipe
