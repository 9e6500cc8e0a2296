#pragma once

#include <cstdint>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

/// What libbitrain_nccl.so gives: NCCL's header and CUDA's stay inside it. Only c10d's types cross.
extern "C" {

/// LibTorch's NCCL backend for this rank on GPU `device`, as the pointer that an intrusive_ptr has released.
/// On failure null, and `error` (of `error_size` bytes) says why.
c10d::Backend* bitrain_nccl_backend(c10d::Store* store, int rank, int size, std::int64_t timeout_ms,
                                    int device, const char* name, char* error,
                                    std::int64_t error_size) noexcept;
}
