#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <bitrain/dist/communicator.h>
#include <bitrain/dist/sharded_block.h>
#include <bitrain/nn/unit.h>

namespace bitrain::train {

/// The weights of a model's units, of which every rank holds a share (ZeRO-3, Rajbhandari et al. 2020; FSDP,
/// Zhao et al. 2023): frozen ones, packed ones and trained ones. A unit is whole from when it is entered
/// until its memory is wanted for another one; the next one is gathered meanwhile, so that two are there at a
/// time. Units are layers, embeddings of tokens and heads of language models; the rest (last norm, poolers,
/// classifiers) is whole on every rank.
///
/// All ranks must run the same passes through the model, with gradients or without, in the same order.
class ShardedWeights : public nn::WeightKeeper {
 public:
  /// The keeper of `model`'s units, with the tensors that they have now. `model` holds on to it. A new one
  /// shares nothing yet.
  [[nodiscard]] static std::shared_ptr<ShardedWeights> attach(nn::Module& model,
                                                              std::shared_ptr<dist::Communicator> ranks);

  /// Shares out what a unit holds that nothing has shared yet.
  void share_rest(std::size_t unit);
  void share_rest();
  /// Undoes it where trained parameters are among it, which go into a block of their own.
  void make_whole(std::size_t unit);
  /// That block.
  void add_trained(std::size_t unit, std::shared_ptr<dist::ShardedBlock> block);

  [[nodiscard]] std::size_t units() const { return units_.size(); }
  /// Whether ranks hold shares of it.
  [[nodiscard]] bool shares(const at::Tensor& tensor) const {
    return shared_.count(tensor.unsafeGetTensorImpl()) > 0;
  }
  /// Of a tensor; -1: of none.
  [[nodiscard]] std::int64_t unit_of(const at::Tensor& tensor) const;
  [[nodiscard]] const std::shared_ptr<dist::BlockPool>& pool() const { return pool_; }

  /// Called when a unit's backward pass has ended.
  void set_on_backward_end(std::function<void(std::size_t)> call) { on_backward_end_ = std::move(call); }
  /// A backward pass through the model is over; or this rank has none, since nothing is supervised, and goes
  /// through it with gradients of zero.
  void end_pass();
  void pass_without_loss();

  void enter(std::size_t unit) override;
  void leave(std::size_t unit) override;
  void enter_backward(std::size_t unit) override;
  void leave_backward(std::size_t unit) override;
  void expect_backward(std::size_t unit) override { ++units_[unit].passes; }
  void remember(const at::Tensor& output) override { outputs_.push_back(output); }

  /// Rank 0 does `work`, which may read any weight through fetch(); the others, for whom `work` is not, serve
  /// it what it asks for. A collective. Throws on rank 0 what `work` throws.
  void lead(const std::function<void()>& work);
  void fetch(const at::Tensor& weight) override;

  /// Held now by this rank, of units: its shares, and what is whole.
  [[nodiscard]] std::int64_t bytes() const;

 private:
  struct Unit {
    nn::Unit* module = nullptr;
    std::vector<std::shared_ptr<dist::ShardedBlock>> blocks;
    std::size_t trained = 0;  ///< The first blocks.
    bool in_use = false;
    std::int64_t wanted = 0;  ///< When it was last: counts gathers.
    std::int64_t passes = 0;  ///< That are still to come back through it.
  };

  explicit ShardedWeights(std::shared_ptr<dist::Communicator> ranks) : ranks_(std::move(ranks)) {}
  void find_units(nn::Module& model);
  void find_tensors();
  [[nodiscard]] static bool is_there(const Unit& unit);
  void gather(std::size_t unit);
  void bring(std::size_t unit);
  void use(std::size_t unit, bool upwards);
  std::string announce(const std::string& unit);

  std::shared_ptr<dist::Communicator> ranks_;
  std::vector<Unit> units_;
  std::map<const void*, std::size_t> unit_of_;  ///< By tensor.
  std::set<const void*> shared_;                ///< Tensors that are in a block.
  std::shared_ptr<dist::BlockPool> pool_ = std::make_shared<dist::BlockPool>();
  std::function<void(std::size_t)> on_backward_end_;
  std::vector<at::Tensor> outputs_;  ///< Of each forward pass that is to go backward.
  std::size_t last_ = 0;             ///< Unit entered last.
  std::int64_t time_ = 0;
  bool leading_ = false;
};

}  // namespace bitrain::train
