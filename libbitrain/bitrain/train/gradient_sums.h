#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <bitrain/dist/communicator.h>
#include <bitrain/dist/gradient_buckets.h>
#include <bitrain/optim/adamw.h>

namespace bitrain::train {

/// Sums the gradients of a step over its micro-batches, and leaves them where the optimizer finds them.
class GradientSums {
 public:
  GradientSums() = default;
  GradientSums(const GradientSums&) = delete;
  GradientSums& operator=(const GradientSums&) = delete;
  virtual ~GradientSums() = default;

  /// A step of that many micro-batches begins.
  virtual void begin(std::size_t micro_batches) = 0;
  virtual void before_backward(bool /*last*/) {}
  virtual void after_backward() {}
  /// Whether all ranks must go through the model as often, forward and backward, whatever they have.
  [[nodiscard]] virtual bool in_lockstep() const { return false; }
  /// In place of backward where there is nothing to go backward from.
  virtual void pass_without_loss() {}
  /// The last backward pass is over.
  virtual void finish() = 0;
};

/// Of one rank: where autograd puts them; 16-bit ones of several micro-batches in float32, if asked for.
[[nodiscard]] std::unique_ptr<GradientSums> make_local_sums(optim::AdamW& optimizer,
                                                            bool accumulate_in_float32);

}  // namespace bitrain::train
