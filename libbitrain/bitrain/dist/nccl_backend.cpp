// Of libbitrain_nccl.so alone (libbitrain/kernels.cmake).
#include <bitrain/dist/nccl_backend.h>

#include <cstdio>
#include <exception>

#include <nccl.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

// Options embeds ncclConfig_t, whose layout grows between releases: another header than the one LibTorch was
// built with would corrupt memory without a word.
static_assert(NCCL_VERSION_CODE == 22809,
              "nccl.h must be that of the nvidia-nccl wheel which torch 2.11.0 pins");

c10d::Backend* bitrain_nccl_backend(c10d::Store* store, int rank, int size, std::int64_t timeout_ms,
                                    int device, const char* name, char* error,
                                    std::int64_t error_size) noexcept {
  try {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    options->group_name = name;
    auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(
        c10::intrusive_ptr<c10d::Store>::reclaim_copy(store), rank, size, options);
    backend->eagerConnectSingleDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    return backend.release();
  } catch (const std::exception& failure) {
    std::snprintf(error, static_cast<std::size_t>(error_size), "%s", failure.what());
    return nullptr;
  }
}
