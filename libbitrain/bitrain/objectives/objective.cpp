#include <bitrain/objectives/objective.h>

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ne.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/linear_cross_entropy.h>

namespace bitrain::objectives {
namespace {

/// One value a segment, spread over its tokens: [N] on the device of the batch.
template <class T>
at::Tensor per_token(const Batch& batch, const std::vector<T>& values, at::ScalarType dtype) {
  at::Tensor result = at::empty({batch.tokens()}, dtype);
  T* out = result.mutable_data_ptr<T>();
  for (std::size_t s = 0; s < values.size(); ++s) {
    std::fill(out + batch.boundaries[s], out + batch.boundaries[s + 1], values[s]);
  }
  return result.to(batch.labels.device());
}

std::string part_name(std::int32_t language, const std::vector<std::string>& languages) {
  const auto id = static_cast<std::size_t>(language);
  if (language < 0 || id >= languages.size() || languages[id].empty()) return "language/unknown";
  return "language/" + languages[id];
}

/// Adds sum and weight by language to `loss.parts`, with one transfer from the device.
void add_language_parts(LossSum& loss, const Batch& batch, const at::Tensor& losses,
                        const at::Tensor& weights, const std::vector<std::string>& languages) {
  const at::NoGradGuard no_grad;
  const std::int64_t count = 1 + *std::max_element(batch.language_ids.begin(), batch.language_ids.end());
  std::vector<std::int64_t> rows;
  for (std::int32_t id : batch.language_ids) rows.push_back(id < 0 ? count : id);
  const at::Tensor index = per_token(batch, rows, at::kLong);
  at::Tensor sums = at::zeros({2, count + 1}, losses.options().dtype(at::kDouble));
  sums.index_add_(1, index, at::stack({losses.to(at::kDouble), weights.to(at::kDouble)}));
  sums = sums.to(at::kCPU);
  const auto* value = sums.const_data_ptr<double>();
  for (std::int64_t id = 0; id <= count; ++id) {
    const double weight = value[count + 1 + id];
    if (weight == 0) continue;
    LossSum::Part& part = loss.parts[part_name(id == count ? -1 : static_cast<std::int32_t>(id), languages)];
    part.sum += value[id];
    part.weight += weight;
  }
}

}  // namespace

LossSum next_token_loss(models::LanguageModel& model, const Batch& batch, const nn::ForwardContext& context,
                        const std::vector<std::string>& languages) {
  const auto segments = static_cast<std::size_t>(batch.segments());
  if (!batch.weights.empty() && batch.weights.size() != segments) {
    throw StateError("a batch of ", segments, " segments has ", batch.weights.size(), " weights");
  }
  if (!batch.language_ids.empty() && batch.language_ids.size() != segments) {
    throw StateError("a batch of ", segments, " segments has ", batch.language_ids.size(), " language ids");
  }
  const ModelOutput output = model.forward(batch, context);
  at::Tensor weights;
  if (!batch.weights.empty()) weights = per_token(batch, batch.weights, at::kFloat);
  const losses::TokenLosses losses =
      losses::linear_cross_entropy(output.hidden, model.output_head(), batch.labels, context, weights);

  LossSum result;
  result.sum = losses.sum;
  result.weight = losses.count;
  // Backward of shared attention needs all ranks, also those whose tokens are not supervised.
  if (losses.count == 0 && !batch.whole_boundaries.empty())
    result.sum = output.hidden.narrow(0, 0, 1).sum() * 0;
  at::Tensor token_losses = losses.per_token;
  at::Tensor token_weights = at::ne(batch.labels, kIgnoreIndex);
  if (weights.defined()) {
    token_losses = token_losses * weights;
    token_weights = token_weights * weights;
    result.weight = token_weights.sum(at::kDouble).item<double>();
  }
  if (!batch.language_ids.empty()) {
    add_language_parts(result, batch, token_losses, token_weights, languages);
  }
  return result;
}

data::TokenSequence shift_labels(const std::vector<std::int32_t>& tokens,
                                 const std::vector<bool>& supervised) {
  data::TokenSequence sequence;
  std::size_t last = tokens.size();
  while (last > 0 && !supervised[last - 1]) --last;
  if (last < 2) return sequence;  // a first token has nothing before it that could predict it
  sequence.ids.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(last) - 1);
  sequence.labels.resize(last - 1);
  for (std::size_t i = 0; i + 1 < last; ++i) {
    sequence.labels[i] = supervised[i + 1] ? tokens[i + 1] : static_cast<std::int32_t>(kIgnoreIndex);
  }
  return sequence;
}

}  // namespace bitrain::objectives
