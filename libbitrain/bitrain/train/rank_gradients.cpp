#include <bitrain/train/rank_gradients.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

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

RankGradients::RankGradients(const std::vector<optim::Parameter>& parameters,
                             std::shared_ptr<dist::Communicator> ranks, const dist::ParallelOptions& options,
                             bool accumulate_in_float32)
    : parameters_(parameters), ranks_(std::move(ranks)), sharded_(options.shard != "none") {
  if (options.shard == "parameters")
    throw UnsupportedError(
        "parallel.shard: parameters is known to `bitrain plan` alone so far; gradients shares the most that "
        "can "
        "be");
  dist::BucketOptions buckets;
  buckets.bucket_bytes = options.bucket_mib << 20;
  buckets.accumulate_in_float32 = accumulate_in_float32;
  buckets.reduce_narrow = options.reduce_dtype == "bfloat16";
  buckets.shard = sharded_;
  buckets.shard_gradients = options.shard == "gradients";
  check_same();
  buckets_ = std::make_unique<dist::GradientBuckets>(tensors_of(parameters_), names_of(parameters_), ranks_,
                                                     buckets);
  if (!sharded_) {
    own_ = parameters_;
    return;
  }
  for (const dist::Slice& slice : buckets_->slices()) {
    optim::Parameter own = parameters_[slice.parameter];
    own.tensor = own.tensor.detach().view(-1).narrow(0, slice.begin, slice.end - slice.begin);
    own.tensor.requires_grad_();
    own_.push_back(std::move(own));
  }
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

void RankGradients::check_same() {
  dist::check_same(tensors_of(parameters_), names_of(parameters_), *ranks_);
}

}  // namespace bitrain::train
