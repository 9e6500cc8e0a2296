#include <bitrain/train/rank_gradients.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/optim/clip.h>

namespace bitrain::train {
namespace {

std::vector<at::Tensor> tensors_of(const std::vector<optim::Parameter>& parameters) {
  std::vector<at::Tensor> tensors;
  for (const optim::Parameter& parameter : parameters) tensors.push_back(parameter.tensor);
  return tensors;
}

std::vector<std::string> names_of(const std::vector<optim::Parameter>& parameters) {
  std::vector<std::string> names;
  for (const optim::Parameter& parameter : parameters) names.push_back(parameter.name);
  return names;
}

}  // namespace

RankGradients::RankGradients(const std::vector<optim::Parameter>& parameters, nn::Module* model,
                             std::shared_ptr<dist::Communicator> ranks, const dist::ParallelOptions& options,
                             bool accumulate_in_float32)
    : parameters_(parameters), ranks_(std::move(ranks)), sharded_(options.shard != "none") {
  dist::BucketOptions buckets;
  buckets.bucket_bytes = options.bucket_mib << 20;
  buckets.accumulate_in_float32 = accumulate_in_float32;
  buckets.reduce_narrow = options.reduce_dtype == "bfloat16";
  buckets.shard = sharded_;
  buckets.shard_gradients = options.shard == "gradients" || options.shard == "parameters";
  dist::BucketUnits units;
  if (options.shard == "parameters") {
    if (model == nullptr) throw StateError("parallel.shard: parameters needs the model");
    weights_ = ShardedWeights::attach(*model, ranks_);
  }
  check_same();
  if (weights_) {
    if (weights_->units() == 0)
      throw UnsupportedError("parallel.shard: parameters needs a model with layers that ranks can share");
    units.pool = weights_->pool();
    units.before = [this](std::size_t unit) { weights_->make_whole(unit); };
    units.after = [this](std::size_t unit, std::shared_ptr<dist::ShardedBlock> block) {
      weights_->add_trained(unit, std::move(block));
    };
    for (const optim::Parameter& parameter : parameters_)
      units.unit_of.push_back(weights_->unit_of(parameter.tensor));
  }
  buckets_ = std::make_unique<dist::GradientBuckets>(tensors_of(parameters_), names_of(parameters_), ranks_,
                                                     buckets, units);
  if (weights_) {
    weights_->share_rest();
    weights_->set_on_backward_end(
        [this](std::size_t unit) { buckets_->unit_is_complete(static_cast<std::int64_t>(unit)); });
  }
  if (!sharded_) {
    own_ = parameters_;
    return;
  }
  for (std::size_t i = 0; i < buckets_->slices().size(); ++i) {
    optim::Parameter own = parameters_[buckets_->slices()[i].parameter];
    own.tensor = buckets_->slice(i).requires_grad_();
    own_.push_back(std::move(own));
  }
}

RankGradients::~RankGradients() {
  if (weights_) weights_->set_on_backward_end({});
}

void RankGradients::set_optimizer(optim::AdamW& optimizer) {
  optimizer_ = &optimizer;
  std::map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < own_.size(); ++i) place[own_[i].name] = i;
  for (const optim::Parameter& parameter : optimizer.parameters())
    index_of_.push_back(place.at(parameter.name));
}

void RankGradients::begin(std::size_t /*micro_batches*/) {
  optimizer_->zero_grad();
  buckets_->begin();
}

void RankGradients::before_backward(bool last) {
  buckets_->before_backward(last);
}

void RankGradients::after_backward() {
  if (weights_) weights_->end_pass();
  buckets_->after_backward();
}

void RankGradients::finish() {
  const std::vector<bool> here = buckets_->finish();
  // A parameter that no rank has a gradient for is left alone, as on one rank.
  at::Tensor anywhere = at::zeros({static_cast<std::int64_t>(here.size())}, at::kInt);
  auto* const flags = anywhere.mutable_data_ptr<std::int32_t>();
  std::copy(here.begin(), here.end(), flags);
  ranks_->all_reduce(anywhere, "which parameters have gradients");
  std::vector<at::Tensor> gradients;
  for (const std::size_t i : index_of_) {
    const std::size_t parameter = sharded_ ? buckets_->slices()[i].parameter : i;
    gradients.push_back(flags[parameter] > 0 ? buckets_->gradient(i) : at::Tensor());
  }
  optimizer_->set_gradients(std::move(gradients));
}

double RankGradients::global_norm() {
  const double own = optim::global_norm(optimizer_->gradients());
  if (!sharded_) return own;
  at::Tensor square = at::full({1}, own * own, at::kDouble);
  ranks_->all_reduce(square, "the norm of gradients");
  return std::sqrt(square.item<double>());
}

void RankGradients::share_update() {
  if (sharded_) buckets_->gather_parameters();
}

std::optional<dist::Slice> RankGradients::slice_of(const std::string& parameter) const {
  for (const dist::Slice& slice : buckets_->slices())
    if (parameters_[slice.parameter].name == parameter) return slice;
  return std::nullopt;
}

void RankGradients::restore(const std::function<at::Tensor(const optim::Parameter&)>& saved) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < own_.size(); ++i) {
    const dist::Slice& slice = buckets_->slices()[i];
    own_[i].tensor.copy_(
        saved(parameters_[slice.parameter]).reshape(-1).narrow(0, slice.begin, slice.end - slice.begin));
  }
  share_update();
}

void RankGradients::check_same() {
  std::vector<optim::Parameter> whole;
  for (const optim::Parameter& parameter : parameters_)
    if (!weights_ || !weights_->shares(parameter.tensor)) whole.push_back(parameter);
  dist::check_same(tensors_of(whole), names_of(whole), *ranks_);
}

}  // namespace bitrain::train
