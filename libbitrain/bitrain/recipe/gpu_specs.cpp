#include <bitrain/recipe/gpu_specs.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

namespace bitrain::recipe {

const std::vector<GpuSpec>& gpu_specs() {
  // Figures with sparsity are halved. NVLink is half of the data sheet's "total" bandwidth, PCIe 4 x16 is
  // 31.5 GB/s and PCIe 5 x16 63 GB/s a direction. Networks: NVIDIA's DGX of that GPU, one adapter a GPU;
  // where there is no DGX, a guess.
  static const std::vector<GpuSpec> specs = {
      {"b200", "NVIDIA B200 SXM 180 GB", 180, 2250, 8000, "NVLink 5", 900, true, 400,
       "DGX B200 data sheet: 1,440 GB, 64 TB/s, 72 PFLOP/s FP8 with sparsity and 14.4 TB/s NVLink for 8; "
       "400 Gb/s ConnectX-7 each"},
      {"h200", "NVIDIA H200 SXM 141 GB", 141, 989.4, 4800, "NVLink 4", 450, true, 400,
       "H200 data sheet; DGX H200: 400 Gb/s ConnectX-7 each"},
      {"h100", "NVIDIA H100 SXM5 80 GB", 80, 989.4, 3350, "NVLink 4", 450, true, 400,
       "H100 data sheet; DGX H100: 400 Gb/s ConnectX-7 each"},
      {"h100-pcie", "NVIDIA H100 PCIe 80 GB", 80, 756, 2000, "PCIe 5 x16", 63, false, 200,
       "H100 PCIe data sheet; network: a guess"},
      {"a100-80", "NVIDIA A100 SXM4 80 GB", 80, 312, 2039, "NVLink 3", 300, true, 200,
       "A100 data sheet; DGX A100: 200 Gb/s ConnectX-6 each"},
      {"a100-40", "NVIDIA A100 SXM4 40 GB", 40, 312, 1555, "NVLink 3", 300, true, 200,
       "A100 data sheet; DGX A100: 200 Gb/s ConnectX-6 each"},
      {"l40s", "NVIDIA L40S 48 GB", 48, 362, 864, "PCIe 4 x16", 31.5, false, 100,
       "L40S data sheet; network: a guess"},
      {"a6000", "NVIDIA RTX A6000 48 GB", 48, 154.8, 768, "PCIe 4 x16", 31.5, false, 25,
       "RTX A6000 data sheet; network: a guess"},
      {"rtx4090", "NVIDIA GeForce RTX 4090 24 GB", 24, 165.2, 1008, "PCIe 4 x16", 31.5, false, 25,
       "Ada GPU architecture paper; network: a guess"},
      {"rtx3090", "NVIDIA GeForce RTX 3090 24 GB", 24, 71, 936, "PCIe 4 x16", 31.5, false, 25,
       "Ampere GA102 architecture paper; network: a guess"},
  };
  return specs;
}

const GpuSpec& find_gpu(const std::string& name) {
  const std::string wanted = lower_ascii(name);
  std::vector<std::string> names;
  for (const GpuSpec& spec : gpu_specs()) {
    if (spec.name == wanted) return spec;
    names.push_back(spec.name);
  }
  throw ConfigError("there is no GPU '", name, "' in the table", did_you_mean(wanted, names), "; it has ",
                    join(names, ", "));
}

}  // namespace bitrain::recipe
