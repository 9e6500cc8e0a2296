#pragma once

#include <cstdint>

#include <c10/core/Device.h>

namespace bitrain::train {

/// Highest memory since the last reset, or since the process began; 0 where it cannot be read.
/// A CUDA device: what the caching allocator had taken of the GPU, in use or kept.
/// The CPU: the process's resident memory, as the kernel counts it (Linux: VmHWM). Everything resident
/// counts: the program and its libraries, heap and tensors, memory that was freed and is kept for the next
/// tensor, and pages of mapped files, which the kernel could take back.
[[nodiscard]] std::uint64_t peak_memory_bytes(c10::Device device);

/// Starts the count again at what is held now. What was freed and kept is given back first, so that the next
/// peak holds no earlier work's pages. Where the system does not let the count begin again, the peak stays
/// that of the whole process.
void reset_peak_memory(c10::Device device);

/// Resident memory of the process now (Linux: VmRSS), counted as above; 0 where it cannot be read.
[[nodiscard]] std::uint64_t resident_memory_bytes();

}  // namespace bitrain::train
