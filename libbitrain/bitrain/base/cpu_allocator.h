#pragma once

#include <cstdint>

namespace bitrain {

/// Makes LibTorch keep the memory of large CPU tensors instead of giving it back to the system each time, and
/// oneDNN few of the kernels it has compiled, unless ONEDNN_PRIMITIVE_CACHE_CAPACITY says how many: packed
/// rows make products of ever new shapes. Call it once at the start of a program, before threads are started.
void install_cpu_allocator();

/// Bytes of large blocks.
struct CpuMemory {
  std::uint64_t in_use = 0;         ///< Held by tensors now.
  std::uint64_t peak_in_use = 0;    ///< Highest `in_use` since the start, or since reset_peak_cpu_memory.
  std::uint64_t reserved = 0;       ///< Taken from the system: in use or kept for reuse.
  std::uint64_t peak_reserved = 0;  ///< Highest `reserved`, likewise.
};
[[nodiscard]] CpuMemory cpu_memory();
void reset_peak_cpu_memory();

/// Gives the kept blocks back to the system; returns their bytes.
std::uint64_t empty_cpu_cache();

}  // namespace bitrain
