#include <bitrain/models/generation.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <bitrain/base/error.h>
#include <bitrain/base/rng.h>
#include <bitrain/fields/check.h>
#include <bitrain/models/llama/config.h>

namespace bitrain::models {
namespace {

at::Tensor to_tensor(const std::vector<std::int32_t>& ids, at::Device device) {
  const at::Tensor tensor =
      at::empty({static_cast<std::int64_t>(ids.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(ids.begin(), ids.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor.to(device);
}

/// Chooses one id from the logits of one position.
class Chooser {
 public:
  Chooser(const GenerationOptions& options, std::int64_t choices)
      : options_(options), seen_(static_cast<std::size_t>(choices)), order_(seen_.size()) {}

  void note(std::int32_t id) {
    if (static_cast<std::size_t>(id) < seen_.size()) seen_[static_cast<std::size_t>(id)] = true;
  }

  std::int32_t choose(std::vector<float>& logits, std::int64_t step) {
    if (options_.repetition_penalty != 1.0) penalise(logits);
    if (options_.temperature == 0)
      return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    return draw(logits, step);
  }

 private:
  void penalise(std::vector<float>& logits) const {
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (seen_[i]) logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
  }

  std::int32_t draw(const std::vector<float>& logits, std::int64_t step) {
    std::iota(order_.begin(), order_.end(), 0);
    std::size_t kept = order_.size();
    if (options_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options_.top_k));
    const auto likelier = [&](std::int32_t a, std::int32_t b) {
      const float left = logits[static_cast<std::size_t>(a)];
      const float right = logits[static_cast<std::size_t>(b)];
      return left != right ? left > right : a < b;  // Ties by id, so that the choice is the same anywhere.
    };
    std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept), order_.end(),
                      likelier);
    std::vector<double> weights(kept);
    const double highest = logits[static_cast<std::size_t>(order_[0])];
    for (std::size_t i = 0; i < kept; ++i) {
      weights[i] = std::exp((static_cast<double>(logits[static_cast<std::size_t>(order_[i])]) - highest) /
                            options_.temperature);
    }
    if (options_.top_p < 1) {
      const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
      double sum = 0;
      std::size_t nucleus = 0;
      while (nucleus < kept && (nucleus == 0 || sum < options_.top_p * total)) sum += weights[nucleus++];
      weights.resize(nucleus);
    }
    RandomStream stream(static_cast<std::uint64_t>(options_.seed), "generation",
                        static_cast<std::uint64_t>(step));
    return order_[stream.choice(weights)];
  }

  const GenerationOptions& options_;
  std::vector<bool> seen_;
  std::vector<std::int32_t> order_;
};

}  // namespace

std::vector<std::int32_t> generate(LanguageModel& model, const std::vector<std::int32_t>& prompt,
                                   const GenerationOptions& options, const TokenCallback& on_token,
                                   std::int64_t vocab_size) {
  check_fields(options);
  if (prompt.empty()) throw DataError("generation needs a prompt of at least one token, for example BOS");
  nn::Embedding& embedding = model.input_embeddings();
  const nn::Linear& head = model.output_head();
  for (const std::int32_t id : prompt) {
    if (id < 0 || id >= embedding.num_embeddings()) {
      throw DataError("the prompt holds id ", id, ", outside the model's vocabulary of ",
                      embedding.num_embeddings());
    }
  }
  const at::NoGradGuard no_grad;
  const std::vector<std::int64_t>& stops =
      options.stop_tokens.empty() ? model.config().stop_token_ids() : options.stop_tokens;
  const std::int64_t choices = vocab_size > 0 ? std::min(vocab_size, head.out_features) : head.out_features;
  Chooser chooser(options, choices);
  for (const std::int32_t id : prompt) chooser.note(id);

  KeyValueCache cache;
  std::vector<std::int32_t> generated;
  std::vector<std::int32_t> next = prompt;
  std::vector<float> logits(static_cast<std::size_t>(choices));
  while (static_cast<std::int64_t>(generated.size()) < options.max_new_tokens) {
    const at::Tensor hidden = model.forward_cached(to_tensor(next, embedding.weight.device()), cache);
    const at::Tensor scores = head.forward(hidden.narrow(0, hidden.size(0) - 1, 1), {})
                                  .narrow(1, 0, choices)
                                  .to(at::kCPU, at::kFloat)
                                  .contiguous();
    if (!at::isfinite(scores).all().item<bool>())
      throw DivergedError(
          "the logits have NaN or infinity: what the model computes outgrows its type (float16 ends at "
          "65504; bfloat16 and float32 have room)");
    std::copy_n(scores.const_data_ptr<float>(), choices, logits.begin());
    const std::int32_t id = chooser.choose(logits, static_cast<std::int64_t>(generated.size()));
    if (std::find(stops.begin(), stops.end(), id) != stops.end()) break;
    chooser.note(id);
    generated.push_back(id);
    if (on_token && !on_token(id)) break;
    next = {id};
  }
  return generated;
}

}  // namespace bitrain::models
