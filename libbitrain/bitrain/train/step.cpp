#include <bitrain/train/step.h>

#include <cmath>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <bitrain/base/error.h>

namespace bitrain::train {
namespace {

bool is_16_bit(const at::Tensor& tensor) {
  return tensor.element_size() == 2;
}

/// Sums of 16-bit gradients in float32; the others sum where autograd puts them.
class Float32Sums {
 public:
  explicit Float32Sums(const std::vector<optim::Parameter>& parameters)
      : parameters_(parameters), sums_(parameters.size()) {}

  /// Moves what the last backward pass left into the sums.
  void take() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      at::Tensor& gradient = parameters_[i].tensor.mutable_grad();
      if (!gradient.defined() || !is_16_bit(gradient)) continue;
      if (sums_[i].defined()) {
        sums_[i].add_(gradient);
      } else {
        sums_[i] = gradient.to(at::kFloat);
      }
      gradient.reset();
    }
  }

  std::vector<at::Tensor> gradients() && {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (!sums_[i].defined()) sums_[i] = parameters_[i].tensor.grad();
    }
    return std::move(sums_);
  }

 private:
  std::vector<optim::Parameter> parameters_;
  std::vector<at::Tensor> sums_;
};

void add_loss(const std::vector<at::Tensor>& losses, const std::vector<std::int64_t>& micro_batch_of,
              StepSums& sums) {
  const at::Tensor values = at::stack(losses).to(at::kCPU, at::kDouble);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const double value = values.const_data_ptr<double>()[i];
    if (!std::isfinite(value) && sums.nonfinite_micro_batch < 0)
      sums.nonfinite_micro_batch = micro_batch_of[i];
    sums.loss += value;
  }
}

/// Forward and backward of a step, micro-batch by micro-batch.
class Accumulator {
 public:
  Accumulator(const std::vector<Batch>& micro_batches, optim::AdamW& optimizer, bool accumulate_in_float32)
      : optimizer_(optimizer),
        float32_sums_(optimizer.parameters()),
        in_float32_(accumulate_in_float32 && micro_batches.size() > 1) {
    const at::Device device = optimizer.parameters().front().tensor.device();
    for (const Batch& host : micro_batches) {
      micro_batches_.push_back(host.input_ids.device() == device ? host : host.to(device));
      sums_.tokens += host.tokens();
    }
    optimizer.zero_grad();
  }

  [[nodiscard]] const std::vector<Batch>& micro_batches() const { return micro_batches_; }

  /// Adds the gradient of one micro-batch.
  void backward(const at::Tensor& sum, const at::Tensor& slope = {}) {
    if (!sum.requires_grad()) throw StateError("the loss does not depend on any trained parameter");
    sum.backward(slope);
    if (in_float32_) float32_sums_.take();
  }

  /// Counts the loss of micro-batch `index`.
  void count(const LossSum& loss, std::int64_t index) {
    sums_.weight += loss.weight;
    losses_.push_back(loss.sum.detach());
    micro_batch_of_.push_back(index);
    for (const auto& [name, part] : loss.parts) {
      sums_.parts[name].sum += part.sum;
      sums_.parts[name].weight += part.weight;
    }
  }

  [[nodiscard]] StepSums finish() && {
    if (!(sums_.weight > 0)) {
      throw DataError(
          "none of the ", sums_.tokens, " tokens in ", micro_batches_.size(),
          " micro-batches is supervised: there is nothing to learn from; check the labels, templates and "
          "length limit");
    }
    if (in_float32_) optimizer_.set_gradients(std::move(float32_sums_).gradients());
    add_loss(losses_, micro_batch_of_, sums_);
    return std::move(sums_);
  }

 private:
  optim::AdamW& optimizer_;
  Float32Sums float32_sums_;
  bool in_float32_;
  std::vector<Batch> micro_batches_;
  StepSums sums_;
  std::vector<at::Tensor> losses_;
  std::vector<std::int64_t> micro_batch_of_;
};

/// The embeddings of all micro-batches, and the teacher's, in order; without gradients.
std::pair<at::Tensor, at::Tensor> embed_all(const std::vector<Batch>& micro_batches,
                                            const objectives::EmbeddingLoss& loss, nn::ForwardContext context,
                                            bool teach_only) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> embedded;
  std::vector<at::Tensor> taught;
  for (const Batch& batch : micro_batches) {
    context.dropout.first_token = batch.first_token;
    if (!teach_only) embedded.push_back(loss.embed(batch, context));
    if (loss.teach) taught.push_back(loss.teach(batch));
  }
  const auto joined = [](const std::vector<at::Tensor>& rows) {
    return rows.empty() ? at::Tensor() : rows.size() == 1 ? rows.front() : at::cat(rows);
  };
  return {joined(embedded), joined(taught)};
}

}  // namespace

StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const LossFunction& loss,
                              nn::ForwardContext context, optim::AdamW& optimizer,
                              bool accumulate_in_float32) {
  context.training = true;
  Accumulator step(micro_batches, optimizer, accumulate_in_float32);
  for (std::size_t i = 0; i < micro_batches.size(); ++i) {
    const Batch& batch = step.micro_batches()[i];
    context.dropout.first_token = batch.first_token;
    const LossSum one = loss(batch, context);
    if (one.weight == 0) continue;  // Nothing supervised here; the step as a whole decides.
    step.backward(one.sum);
    step.count(one, static_cast<std::int64_t>(i));
  }
  return std::move(step).finish();
}

StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const objectives::EmbeddingLoss& loss,
                              nn::ForwardContext context, optim::AdamW& optimizer,
                              bool accumulate_in_float32) {
  context.training = true;
  Accumulator step(micro_batches, optimizer, accumulate_in_float32);
  const std::vector<Batch>& batches = step.micro_batches();
  const bool once = batches.size() == 1;
  auto [embedded, taught] = embed_all(batches, loss, context, once);
  if (once) {
    context.dropout.first_token = batches.front().first_token;
    embedded = loss.embed(batches.front(), context);
  } else {
    embedded.requires_grad_();
  }
  const LossSum whole = loss.loss(embedded, taught, batches);
  if (whole.weight > 0) {
    step.backward(whole.sum);
    step.count(whole, 0);
  }
  if (once) return std::move(step).finish();
  const at::Tensor slopes = embedded.grad();
  std::int64_t begin = 0;
  for (const Batch& batch : batches) {
    if (!slopes.defined()) break;  // Nothing supervised: finish() says so.
    context.dropout.first_token = batch.first_token;
    const at::Tensor rows = loss.embed(batch, context);
    step.backward(rows, slopes.narrow(0, begin, rows.size(0)));
    begin += rows.size(0);
  }
  return std::move(step).finish();
}

}  // namespace bitrain::train
