#include <bitrain/train/step.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <nlohmann/json.hpp>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_text.h>
#include <bitrain/train/signals.h>

namespace bitrain::train {
namespace {

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

using Json = nlohmann::ordered_json;

/// Doubles go through text and back unchanged, but for NaN and infinity.
Json to_json(const StepSums& sums) {
  const auto number = [](double value) {
    return std::isfinite(value) ? Json(value) : Json(std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
  };
  Json json = {{"loss", number(sums.loss)}, {"weight", number(sums.weight)},
               {"tokens", sums.tokens},     {"nonfinite", sums.nonfinite_micro_batch},
               {"signal", sums.signal},     {"save", sums.save_due},
               {"parts", Json::object()},   {"languages", Json::array()}};
  for (const auto& [name, part] : sums.parts) json["parts"][name] = {number(part.sum), number(part.weight)};
  for (const auto& [language, tokens] : sums.language_tokens) json["languages"].push_back({language, tokens});
  return json;
}

void add(const Json& json, StepSums& sums) {
  const auto number = [](const Json& value) {
    return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
  };
  sums.loss += number(json.at("loss"));
  sums.weight += number(json.at("weight"));
  sums.tokens += json.at("tokens").get<std::int64_t>();
  if (sums.nonfinite_micro_batch < 0) sums.nonfinite_micro_batch = json.at("nonfinite");
  sums.signal = std::max(sums.signal, json.at("signal").get<int>());
  sums.save_due = sums.save_due || json.at("save").get<bool>();
  for (const auto& [name, part] : json.at("parts").items()) {
    sums.parts[name].sum += number(part.at(0));
    sums.parts[name].weight += number(part.at(1));
  }
  for (const Json& entry : json.at("languages"))
    sums.language_tokens[entry.at(0)] += entry.at(1).get<std::int64_t>();
}

/// Forward and backward of a step, micro-batch by micro-batch.
class Accumulator {
 public:
  Accumulator(const std::vector<Batch>& micro_batches, const StepTarget& target) : target_(target) {
    for (const Batch& host : micro_batches) {
      micro_batches_.push_back(host.input_ids.device() == target.device ? host : host.to(target.device));
      sums_.tokens += host.tokens();
      for (std::size_t s = 0; s < host.language_ids.size(); ++s)
        sums_.language_tokens[std::max(host.language_ids[s], -1)] +=
            host.boundaries[s + 1] - host.boundaries[s];
    }
    target.gradients.begin(micro_batches.size());
  }

  [[nodiscard]] const std::vector<Batch>& micro_batches() const { return micro_batches_; }

  /// Adds the gradient of a loss.
  static void backward(const at::Tensor& sum, const at::Tensor& slope = {}) {
    if (!sum.requires_grad()) throw StateError("the loss does not depend on any trained parameter");
    sum.backward(slope);
  }

  /// Runs `work`, which may call backward, as micro-batch `index`. In lockstep with others a rank without
  /// tokens for it goes through its first one, for nothing.
  template <class Work>
  void pass(std::size_t index, const Work& work) {
    target_.gradients.before_backward(index + 1 == micro_batches_.size());
    if (micro_batches_[index].tokens() > 0) {
      work(micro_batches_[index]);
    } else if (target_.gradients.in_lockstep()) {
      idle_ = true;
      work(micro_batches_.front());
      idle_ = false;
    }
    target_.gradients.after_backward();
  }

  /// Backward of a pass whose loss has this sum and weight; whether there was anything to learn.
  bool learn(const at::Tensor& sum, bool supervised, const at::Tensor& slope = {}) {
    if (supervised && !idle_) {
      backward(sum, slope);
      return true;
    }
    if (target_.gradients.in_lockstep()) target_.gradients.pass_without_loss();
    return false;
  }
  [[nodiscard]] bool idle() const { return idle_; }

  /// Counts the loss of micro-batch `index`.
  void count(const LossSum& loss, std::size_t index) {
    sums_.weight += loss.weight;
    losses_.push_back(loss.sum.detach());
    micro_batch_of_.push_back(static_cast<std::int64_t>(index));
    for (const auto& [name, part] : loss.parts) {
      sums_.parts[name].sum += part.sum;
      sums_.parts[name].weight += part.weight;
    }
  }

  [[nodiscard]] StepSums finish() && {
    target_.gradients.finish();
    if (!losses_.empty()) add_loss(losses_, micro_batch_of_, sums_);
    sums_.signal = SignalWatch::received();
    sums_.save_due = target_.save_due;
    StepSums all = sum_over_ranks(sums_, target_.ranks);
    if (!(all.weight > 0)) {
      throw DataError(
          "none of the ", all.tokens, " tokens in ", micro_batches_.size(),
          " micro-batches is supervised: there is nothing to learn from; check the labels, templates and "
          "length limit");
    }
    return all;
  }

 private:
  StepTarget target_;
  bool idle_ = false;
  std::vector<Batch> micro_batches_;
  StepSums sums_;
  std::vector<at::Tensor> losses_;
  std::vector<std::int64_t> micro_batch_of_;
};

/// The embeddings of all micro-batches, and the teacher's, in order; without gradients. `in_lockstep`: as in
/// Accumulator::pass.
std::pair<at::Tensor, at::Tensor> embed_all(const std::vector<Batch>& micro_batches,
                                            const objectives::EmbeddingLoss& loss, nn::ForwardContext context,
                                            bool teach_only, bool in_lockstep) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> embedded;
  std::vector<at::Tensor> taught;
  for (const Batch& batch : micro_batches) {
    if (batch.tokens() == 0) {
      if (in_lockstep && !teach_only) (void)loss.embed(micro_batches.front(), context);
      continue;
    }
    context.dropout.first_token = batch.first_token;
    if (!teach_only) embedded.push_back(loss.embed(batch, context));
    if (loss.teach) taught.push_back(loss.teach(batch));
  }
  const auto joined = [](const std::vector<at::Tensor>& rows) {
    return rows.empty() ? at::Tensor() : rows.size() == 1 ? rows.front() : at::cat(rows);
  };
  return {joined(embedded), joined(taught)};
}

at::Device device_of(const optim::AdamW& optimizer) {
  return optimizer.parameters().front().tensor.device();
}

template <class Loss>
StepSums accumulate_alone(const std::vector<Batch>& micro_batches, const Loss& loss,
                          const nn::ForwardContext& context, optim::AdamW& optimizer,
                          bool accumulate_in_float32) {
  dist::Communicator alone;
  const auto gradients = make_local_sums(optimizer, accumulate_in_float32);
  return accumulate_gradients(micro_batches, loss, context, {device_of(optimizer), *gradients, alone});
}

}  // namespace

StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const LossFunction& loss,
                              nn::ForwardContext context, const StepTarget& target) {
  context.training = true;
  Accumulator step(micro_batches, target);
  for (std::size_t i = 0; i < micro_batches.size(); ++i) {
    step.pass(i, [&](const Batch& batch) {
      context.dropout.first_token = batch.first_token;
      const LossSum one = loss(batch, context);
      // Nothing supervised here; the step as a whole decides. Ranks that share tokens go backward together.
      if (step.learn(one.sum, one.weight != 0 || context.token_ranks != nullptr)) step.count(one, i);
    });
  }
  return std::move(step).finish();
}

StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const objectives::EmbeddingLoss& loss,
                              nn::ForwardContext context, const StepTarget& target) {
  context.training = true;
  Accumulator step(micro_batches, target);
  const std::vector<Batch>& batches = step.micro_batches();
  const bool once = batches.size() == 1;
  const bool in_lockstep = target.gradients.in_lockstep();
  auto [embedded, taught] = embed_all(batches, loss, context, once, in_lockstep);
  if (once) {
    step.pass(0, [&](const Batch& batch) {
      context.dropout.first_token = batch.first_token;
      embedded = loss.embed(batch, context);
      const LossSum whole = loss.loss(embedded, taught, batches);
      if (step.learn(whole.sum, whole.weight > 0)) step.count(whole, 0);
    });
    return std::move(step).finish();
  }
  embedded.requires_grad_();
  const LossSum whole = loss.loss(embedded, taught, batches);
  if (whole.weight > 0) {
    Accumulator::backward(whole.sum);
    step.count(whole, 0);
  }
  const at::Tensor slopes = embedded.grad();
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    step.pass(i, [&](const Batch& batch) {
      const bool supervised = slopes.defined() && !step.idle();  // If none is, finish() says so.
      if (!supervised && !in_lockstep) return;
      context.dropout.first_token = batch.first_token;
      const at::Tensor rows = loss.embed(batch, context);
      const std::int64_t count = supervised ? rows.size(0) : 0;
      step.learn(rows, supervised, supervised ? slopes.narrow(0, begin, count) : at::Tensor());
      begin += count;
    });
  }
  return std::move(step).finish();
}

StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const LossFunction& loss,
                              nn::ForwardContext context, optim::AdamW& optimizer,
                              bool accumulate_in_float32) {
  return accumulate_alone(micro_batches, loss, context, optimizer, accumulate_in_float32);
}

StepSums accumulate_gradients(const std::vector<Batch>& micro_batches, const objectives::EmbeddingLoss& loss,
                              nn::ForwardContext context, optim::AdamW& optimizer,
                              bool accumulate_in_float32) {
  return accumulate_alone(micro_batches, loss, context, optimizer, accumulate_in_float32);
}

StepSums sum_over_ranks(const StepSums& own, dist::Communicator& ranks) {
  if (ranks.size() == 1) return own;
  const std::string text = to_json(own).dump(-1, ' ', false, Json::error_handler_t::replace);
  StepSums all;
  for (const std::string& one : dist::gather_text(text, ranks, "figures of the step"))
    add(Json::parse(one), all);
  return all;
}

}  // namespace bitrain::train
