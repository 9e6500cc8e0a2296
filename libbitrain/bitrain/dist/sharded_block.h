#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/dist/communicator.h>

namespace bitrain::dist {

/// Tensors of one type side by side, each at a multiple of 64 bytes, as kernels like them.
struct FlatLayout {
  std::vector<std::int64_t> offsets;  ///< Of each tensor, in elements.
  std::int64_t end = 0;               ///< Of the last one.
  std::int64_t numel = 0;             ///< `end` made a multiple of the number of ranks.
};
[[nodiscard]] FlatLayout lay_out(const std::vector<at::Tensor>& tensors, std::int64_t ranks);

/// Memory that blocks take turns in.
class BlockPool {
 public:
  /// At least so many bytes.
  [[nodiscard]] at::Tensor take(std::int64_t bytes, at::Device device);
  void give_back(at::Tensor memory) { free_.push_back(std::move(memory)); }

 private:
  std::vector<at::Tensor> free_;
};

/// Tensors that ranks hold in shares (ZeRO, Rajbhandari et al. 2020): one flat block of which every rank
/// owns an equal part. The whole is always there, or, after keep_share(), from start_gather() to drop().
class ShardedBlock {
 public:
  /// Tensors of one type and device, which become views of the block. `name` is for errors.
  ShardedBlock(std::vector<at::Tensor> tensors, std::shared_ptr<Communicator> ranks, std::string name);

  [[nodiscard]] const FlatLayout& layout() const { return layout_; }
  /// [numel / ranks], this rank's part.
  [[nodiscard]] const at::Tensor& own() const { return own_; }
  /// The part of tensor `index` that this rank owns, as its elements [begin, end); empty: none of it.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> owned_of(std::size_t index) const;

  /// This rank holds its own part from now on, and the whole only while it is needed, in memory of `pool`.
  void keep_share(std::shared_ptr<BlockPool> pool);
  [[nodiscard]] bool keeps_share() const { return pool_ != nullptr; }

  /// Whether the whole is there or on its way.
  [[nodiscard]] bool present() const { return present_; }
  /// Brings the parts of all ranks together. A collective; nothing where the whole is there.
  void start_gather();
  void wait() { pending_.wait(); }
  /// With keep_share(): gives the memory of the whole back. Who reads a tensor afterwards gets a c10::Error.
  void drop();
  /// Other ranks have changed their parts: the whole is to be gathered anew.
  void parts_changed();

 private:
  void move_tensors(const c10::Storage& storage);

  std::shared_ptr<Communicator> ranks_;
  std::string name_;
  FlatLayout layout_;
  std::vector<at::Tensor> tensors_;
  at::Tensor whole_;  ///< [numel]
  at::Tensor own_;
  std::shared_ptr<BlockPool> pool_;
  at::Tensor memory_;     ///< Of the pool, while the whole is in it.
  c10::Storage nowhere_;  ///< What tensors are in meanwhile: refuses to be read.
  bool present_ = true;
  Pending pending_;
};

}  // namespace bitrain::dist
