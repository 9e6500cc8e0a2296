#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <bitrain/dist/communicator.h>
#include <bitrain/dist/gradient_buckets.h>
#include <bitrain/dist/options.h>
#include <bitrain/nn/module.h>
#include <bitrain/optim/adamw.h>
#include <bitrain/train/gradient_sums.h>
#include <bitrain/train/sharded_weights.h>

namespace bitrain::train {

/// Gradients of a step summed over ranks, and parameters kept the same on all of them. With
/// ParallelOptions::shard each rank's optimizer has a share of every bucket of parameters; with parameters,
/// each rank holds no more than its share of the layers of the model (ShardedWeights).
class RankGradients : public GradientSums {
 public:
  /// `model` is what the parameters are in; only shard = parameters needs it. Throws RankError when the
  /// parameters are not the same on all ranks, UnsupportedError for a model without layers to share.
  RankGradients(const std::vector<optim::Parameter>& parameters, nn::Module* model,
                std::shared_ptr<dist::Communicator> ranks, const dist::ParallelOptions& options,
                bool accumulate_in_float32);
  ~RankGradients() override;

  /// What this rank's optimizer is to update: the parameters, or flat slices of some of them.
  [[nodiscard]] const std::vector<optim::Parameter>& own_parameters() const { return own_; }
  /// Where own gradients go; before the first step.
  void set_optimizer(optim::AdamW& optimizer);

  void begin(std::size_t micro_batches) override;
  void before_backward(bool last) override;
  void after_backward() override;
  [[nodiscard]] bool in_lockstep() const override { return weights_ != nullptr; }
  void pass_without_loss() override { weights_->pass_without_loss(); }
  void finish() override;

  /// Of the summed gradients of all parameters, the same on every rank.
  [[nodiscard]] double global_norm();
  /// After the optimizer's update: all ranks get all parameters.
  void share_update();

  [[nodiscard]] bool sharded() const { return sharded_; }
  /// Whether weights are whole on no rank.
  [[nodiscard]] bool weights_sharded() const { return weights_ != nullptr; }
  /// With sharded(): own_parameters() from what `saved` gives for each parameter, whole, and from them the
  /// parameters of all ranks.
  void restore(const std::function<at::Tensor(const optim::Parameter&)>& saved);
  /// The part of a parameter that this rank owns, or nothing; with sharded().
  [[nodiscard]] std::optional<dist::Slice> slice_of(const std::string& parameter) const;
  /// Throws RankError naming the first parameter that differs between ranks. Those that no rank holds whole
  /// cannot.
  void check_same();

 private:
  std::vector<optim::Parameter> parameters_;
  std::shared_ptr<dist::Communicator> ranks_;
  bool sharded_;
  std::shared_ptr<ShardedWeights> weights_;  ///< Null: they are whole.
  std::unique_ptr<dist::GradientBuckets> buckets_;
  std::vector<optim::Parameter> own_;
  std::vector<std::size_t> index_of_;  ///< Of the optimizer's parameters, in own_.
  optim::AdamW* optimizer_ = nullptr;
};

}  // namespace bitrain::train
