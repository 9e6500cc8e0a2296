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

/// Ranks of the run that form a group: first, first + stride, ..., `size` of them.
struct Group {
  std::string name;  ///< Tells its keys from others' in the store.
  std::int64_t rank = 0;
  std::int64_t size = 1;
  std::int64_t first = 0;
  std::int64_t stride = 1;

  [[nodiscard]] std::int64_t world_rank(std::int64_t member) const { return first + stride * member; }
  /// A group among these ranks; `number`: how many were made before.
  [[nodiscard]] Group part(std::int64_t number, std::int64_t part_first, std::int64_t part_stride,
                           std::int64_t part_size) const;
};

/// Collectives of tensors in host memory over Gloo, of any type; those on a GPU are copied there and back.
/// They run on a thread of the communicator's own, one after the other, and sum in the order of ranks, which
/// Gloo's own sums do not. A collective itself: every rank of the group makes it.
[[nodiscard]] std::unique_ptr<Communicator> make_gloo_ranks(const BackendContext& context,
                                                            const Group& group);

/// Collectives of tensors on GPUs over NCCL; those in host memory are copied there and back. Throws
/// UnsupportedError where the NCCL library of bitrain was not built.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_ranks(const BackendContext& context,
                                                            const Group& group);

}  // namespace bitrain::dist
