#include <bitrain/train/sharded_weights.h>

#include <algorithm>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <bitrain/base/error.h>
#include <bitrain/dist/gather_text.h>
#include <bitrain/models/encoder.h>
#include <bitrain/models/language_model.h>
#include <bitrain/nn/embedding.h>
#include <bitrain/nn/linear.h>

namespace bitrain::train {
std::shared_ptr<ShardedWeights> ShardedWeights::attach(nn::Module& model,
                                                       std::shared_ptr<dist::Communicator> ranks) {
  auto weights = std::dynamic_pointer_cast<ShardedWeights>(nn::keeper_of(model));
  if (!weights) {
    weights.reset(new ShardedWeights(std::move(ranks)));
    weights->find_units(model);
    for (std::size_t i = 0; i < weights->units_.size(); ++i)
      weights->units_[i].module->set_keeper(weights, i);
    // A tied head is in use when the embedding whose weight it has is.
    model.visit_modules([&](const std::string&, nn::Module& module) {
      auto* head = dynamic_cast<nn::Linear*>(&module);
      if (head == nullptr || !head->shares_weight) return;
      for (const Unit& unit : weights->units_) {
        const auto* embedding = dynamic_cast<const nn::Embedding*>(unit.module);
        if (embedding != nullptr && embedding->weight.is_same(head->weight))
          head->set_keeper(weights, embedding->index());
      }
    });
  }
  weights->find_tensors();
  return weights;
}

void ShardedWeights::find_units(nn::Module& module) {
  std::vector<nn::Unit*> tables;
  module.visit_modules([&](const std::string&, nn::Module& part) {
    if (auto* decoder = dynamic_cast<models::LanguageModel*>(&part)) {
      tables.push_back(&decoder->input_embeddings());
      if (!decoder->tied()) tables.push_back(&decoder->output_head());
    }
    if (auto* encoder = dynamic_cast<models::EncoderModel*>(&part))
      tables.push_back(&encoder->input_embeddings());
  });
  const std::function<void(nn::Module&)> visit = [&](nn::Module& part) {
    auto* unit = dynamic_cast<nn::Unit*>(&part);
    const bool map =
        dynamic_cast<nn::Linear*>(&part) != nullptr || dynamic_cast<nn::Embedding*>(&part) != nullptr;
    if (unit != nullptr && (!map || std::find(tables.begin(), tables.end(), unit) != tables.end())) {
      units_.emplace_back();
      units_.back().module = unit;
      return;
    }
    for (const auto& [name, child] : part.children()) visit(*child);
  };
  visit(module);
}

void ShardedWeights::find_tensors() {
  unit_of_.clear();
  for (std::size_t i = 0; i < units_.size(); ++i)
    units_[i].module->visit_all([&](at::Tensor& tensor) { unit_of_[tensor.unsafeGetTensorImpl()] = i; });
}

void ShardedWeights::share_rest(std::size_t unit) {
  std::map<at::ScalarType, std::vector<at::Tensor>> by_type;
  units_[unit].module->visit_all([&](at::Tensor& tensor) {
    if (tensor.numel() > 0 && shared_.insert(tensor.unsafeGetTensorImpl()).second)
      by_type[tensor.scalar_type()].push_back(tensor);
  });
  for (auto& [type, tensors] : by_type) {
    auto block = std::make_shared<dist::ShardedBlock>(
        std::move(tensors), ranks_, to_text("frozen ", c10::toString(type), " weights of layer ", unit));
    block->keep_share(pool_);
    units_[unit].blocks.push_back(std::move(block));
  }
}

void ShardedWeights::share_rest() {
  for (std::size_t i = 0; i < units_.size(); ++i) share_rest(i);
}

void ShardedWeights::add_trained(std::size_t unit, std::shared_ptr<dist::ShardedBlock> block) {
  Unit& owner = units_[unit];
  const at::ScalarType type = block->own().scalar_type();
  owner.blocks.insert(owner.blocks.begin(), std::move(block));
  ++owner.trained;
  owner.module->visit_all([&](at::Tensor& tensor) {
    if (tensor.requires_grad() && tensor.scalar_type() == type) shared_.insert(tensor.unsafeGetTensorImpl());
  });
}

void ShardedWeights::make_whole(std::size_t unit) {
  const at::NoGradGuard no_grad;
  Unit& owner = units_[unit];
  bool mixed = false;
  owner.module->visit_all([&](at::Tensor& tensor) {
    mixed = mixed || (tensor.requires_grad() && shared_.count(tensor.unsafeGetTensorImpl()) > 0);
  });
  if (!mixed || owner.trained > 0) return;
  bring(unit);
  owner.module->visit_all([&](at::Tensor& tensor) {
    if (shared_.erase(tensor.unsafeGetTensorImpl()) > 0) tensor.set_data(tensor.detach().clone());
  });
  owner.blocks.clear();  // Not by drop, which would move the tensors with it.
}

std::int64_t ShardedWeights::unit_of(const at::Tensor& tensor) const {
  const auto found = unit_of_.find(tensor.unsafeGetTensorImpl());
  return found == unit_of_.end() ? -1 : static_cast<std::int64_t>(found->second);
}

bool ShardedWeights::is_there(const Unit& unit) {
  return std::all_of(unit.blocks.begin(), unit.blocks.end(),
                     [](const auto& block) { return block->present(); });
}

/// Starts to bring a unit together, where it is not there; idle ones make room, those that have been idle
/// longest first.
void ShardedWeights::gather(std::size_t unit) {
  constexpr std::size_t kAtATime = 2;
  units_[unit].wanted = ++time_;
  if (is_there(units_[unit])) return;
  const auto holds_memory = [&](std::size_t i) {
    const auto& blocks = units_[i].blocks;
    return std::any_of(blocks.begin(), blocks.end(), [](const auto& block) { return block->present(); });
  };
  std::vector<std::size_t> others;
  for (std::size_t i = 0; i < units_.size(); ++i)
    if (i != unit && holds_memory(i)) others.push_back(i);
  std::sort(others.begin(), others.end(),
            [&](std::size_t a, std::size_t b) { return units_[a].wanted < units_[b].wanted; });
  std::size_t held = others.size() + 1;
  for (const std::size_t i : others) {
    if (held <= kAtATime || units_[i].in_use) continue;
    for (const auto& block : units_[i].blocks) block->drop();
    --held;
  }
  for (const auto& block : units_[unit].blocks) block->start_gather();
}

void ShardedWeights::bring(std::size_t unit) {
  gather(unit);
  for (const auto& block : units_[unit].blocks) block->wait();
}

/// Brings it, and meanwhile the next one.
void ShardedWeights::use(std::size_t unit, bool upwards) {
  bring(unit);
  units_[unit].in_use = true;
  last_ = unit;
  if (upwards && unit + 1 < units_.size()) gather(unit + 1);
  if (!upwards && unit > 0) gather(unit - 1);
}

void ShardedWeights::enter(std::size_t unit) {
  // A pass goes up, but for layers that are computed again in backward, which go down.
  use(unit, unit == last_ ? unit == 0 : unit > last_);
}

void ShardedWeights::leave(std::size_t unit) {
  units_[unit].in_use = false;
}

void ShardedWeights::enter_backward(std::size_t unit) {
  use(unit, false);
}

void ShardedWeights::leave_backward(std::size_t unit) {
  leave(unit);
  if (units_[unit].passes > 0 && --units_[unit].passes == 0 && on_backward_end_) on_backward_end_(unit);
}

void ShardedWeights::end_pass() {
  outputs_.clear();
  for (std::size_t i = units_.size(); i-- > 0;) {
    leave(i);
    // Backward ends here where nothing below is trained.
    if (std::exchange(units_[i].passes, 0) > 0 && on_backward_end_) on_backward_end_(i);
  }
}

void ShardedWeights::pass_without_loss() {
  std::vector<at::Tensor> roots;
  std::vector<at::Tensor> zeros;
  for (const at::Tensor& output : std::exchange(outputs_, {})) {
    roots.push_back(output);
    zeros.push_back(at::zeros_like(output));
  }
  if (!roots.empty()) torch::autograd::backward(roots, zeros);
}

/// Rank 0 says which unit it wants, or with nothing that it wants no more. It may be long about what it does
/// with one, so the others wait as long as it lives.
std::string ShardedWeights::announce(const std::string& unit) {
  ranks_->await(0, "what rank 0 does with the weights");
  return dist::broadcast_text(unit, 0, *ranks_, "which layer rank 0 reads");
}

void ShardedWeights::fetch(const at::Tensor& weight) {
  const std::int64_t unit = unit_of(weight);
  if (unit < 0) return;
  const auto index = static_cast<std::size_t>(unit);
  if (!is_there(units_[index])) {
    if (!leading_)
      throw StateError("a weight that ranks hold in shares was read outside of ShardedWeights::lead");
    announce(std::to_string(unit));
  }
  bring(index);
}

void ShardedWeights::lead(const std::function<void()>& work) {
  if (ranks_->rank() > 0) {
    for (std::string unit = announce({}); !unit.empty(); unit = announce({})) bring(std::stoull(unit));
    return;
  }
  leading_ = true;
  const auto end = [&] {
    leading_ = false;
    announce({});
  };
  try {
    work();
  } catch (...) {
    end();
    throw;
  }
  end();
}

std::int64_t ShardedWeights::bytes() const {
  std::int64_t bytes = 0;
  for (const Unit& unit : units_)
    for (const auto& block : unit.blocks) {
      bytes += static_cast<std::int64_t>(block->own().nbytes());
      if (block->present()) bytes += block->layout().numel * block->own().element_size();
    }
  return bytes;
}

}  // namespace bitrain::train
