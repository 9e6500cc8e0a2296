#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <bitrain/dist/communicator.h>
#include <bitrain/dist/sharded_block.h>

namespace bitrain::dist {

struct BucketOptions {
  std::int64_t bucket_bytes = std::int64_t{25} << 20;  ///< About, of a bucket as it travels.
  /// 16-bit gradients are summed over micro-batches in float32.
  bool accumulate_in_float32 = true;
  /// 16-bit gradients travel in 16 bits; otherwise in float32.
  bool reduce_narrow = false;
  /// Each rank gets only its share of the sums, and owns that share of the parameters (ZeRO-1).
  bool shard = false;
  /// With `shard`: a bucket's memory is given back as soon as its share is there, in every micro-batch
  /// (ZeRO-2).
  bool shard_gradients = false;
};

/// With shard_gradients: parameters in units of a model (nn::Unit) whose weights ranks hold in shares too
/// (ZeRO-3). A bucket is the parameters of one type of one unit, whatever their size.
struct BucketUnits {
  std::vector<std::int64_t> unit_of;  ///< Of each parameter, rising; -1: in none, a bucket like any other.
  std::shared_ptr<BlockPool> pool;
  std::function<void(std::size_t unit)> before;  ///< Its parameters are about to move into a block;
  std::function<void(std::size_t unit, std::shared_ptr<ShardedBlock>)> after;  ///< they have.
};

/// A part of a flattened parameter.
struct Slice {
  std::size_t parameter = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Gradients summed over micro-batches and ranks (as PyTorch DDP, Li et al. 2020; with `shard` ZeRO,
/// Rajbhandari et al. 2020). Parameters lie in buckets, the last ones of the forward pass first. In the last
/// backward pass of a step a bucket travels as soon as all its gradients are there, while the pass goes on.
///
///   begin(); for each micro-batch { before_backward(last); backward; after_backward(); } finish();
///   ... gradient(i) ...; with `shard`, after the update of own slices: gather_parameters();
///
/// Ranks may have different numbers of micro-batches, none included, unless shard_gradients is set. A
/// parameter may be used once in a backward pass of autograd: what comes for it after its bucket has left
/// is a StateError.
class GradientBuckets {
 public:
  /// Floating point leaves that require grad, in the order of the forward pass, with their names for errors.
  /// While this lives it takes their gradients. With `shard` they are moved into buffers of their own.
  GradientBuckets(const std::vector<at::Tensor>& parameters, std::vector<std::string> names,
                  std::shared_ptr<Communicator> ranks, const BucketOptions& options,
                  const BucketUnits& units = {});
  ~GradientBuckets();
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  /// Forgets the last step.
  void begin();
  void before_backward(bool last);
  void after_backward();
  /// No more gradients are to come for parameters of this unit or later ones in this pass.
  void unit_is_complete(std::int64_t unit);
  /// Sends what has not left yet and waits for all. Which parameters had a gradient on this rank.
  std::vector<bool> finish();

  /// The sum over ranks: of the parameter's shape; with `shard`, of slice number `index`, flat.
  [[nodiscard]] at::Tensor gradient(std::size_t index) const;

  /// With `shard`: the parts of parameters that this rank owns. Every element is one rank's.
  [[nodiscard]] const std::vector<Slice>& slices() const;
  /// The memory of slice number `index`, flat.
  [[nodiscard]] at::Tensor slice(std::size_t index) const;
  /// With `shard`: every rank gets what the others have made of their slices, but of units only when these
  /// are entered.
  void gather_parameters();

  /// Held now, for gradients.
  [[nodiscard]] std::int64_t gradient_bytes() const;

 private:
  struct Buckets;
  std::shared_ptr<Buckets> buckets_;
};

/// Throws RankError naming the first parameter that is not the same on all ranks, bit for bit: of another
/// name, shape or content. A collective.
void check_same(const std::vector<at::Tensor>& parameters, const std::vector<std::string>& names,
                Communicator& ranks);

}  // namespace bitrain::dist
