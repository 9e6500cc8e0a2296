#pragma once

#include <cstdint>

#include <c10/core/Device.h>

namespace bitrain::train {

/// Highest memory since the last reset: of the GPU's caching allocator for a CUDA device, else the resident
/// memory of the process (Linux). 0 where it cannot be read.
[[nodiscard]] std::uint64_t peak_memory_bytes(c10::Device device);

/// Starts the count again. Where the system does not allow it, the peak stays that of the whole process.
void reset_peak_memory(c10::Device device);

}  // namespace bitrain::train
