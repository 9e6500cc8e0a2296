#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include <bitrain/dist/communicator.h>
#include <bitrain/dist/store.h>
#include <bitrain/dist/watch.h>

/// Inside dist only.
namespace bitrain::dist {

/// What every group of a run needs.
struct BackendContext {
  StorePtr store;
  std::shared_ptr<Watch> watch;
  std::chrono::milliseconds timeout{};
  std::string own_address;       ///< Where others reach this machine; empty: by its hostname.
  at::Device device = at::kCPU;  ///< nccl: the GPU of this rank.
};

/// Collectives of tensors in host memory over Gloo, of any type; those on a GPU are copied there and back.
/// They run on a thread of the communicator's own, one after the other, and sum in the order of ranks, which
/// Gloo's own sums do not. `name` tells the group's keys from others' in the store. A collective itself:
/// every rank of the group makes it.
[[nodiscard]] std::unique_ptr<Communicator> make_gloo_ranks(const BackendContext& context, std::int64_t rank,
                                                            std::int64_t size, const std::string& name);

/// Collectives of tensors on GPUs over NCCL; those in host memory are copied there and back. Throws
/// UnsupportedError where the NCCL library of bitrain was not built.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_ranks(const BackendContext& context, std::int64_t rank,
                                                            std::int64_t size, const std::string& name);

}  // namespace bitrain::dist
