#include <bitrain/losses/linear_cross_entropy.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/nn/functional.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using bitrain::testing::expect_gradients;
using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;
using Tensors = std::vector<at::Tensor>;

constexpr std::int64_t kTokens = 23;
constexpr std::int64_t kDim = 24;
constexpr std::int64_t kVocab = 51;

at::Tensor labels_of(const std::vector<std::int64_t>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong));
}

// Every third position ignored.
at::Tensor some_labels() {
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < kTokens; ++i) labels.push_back(i % 3 == 1 ? kIgnoreIndex : i * 17 % kVocab);
  return labels_of(labels);
}

struct HeadOptions {
  bool bias = false;
  bool lora = false;
  bool rows = false;
  double dropout = 0;
};

// Tensors of a head in a fixed order: hidden, weight, and by option bias, a, b, rows.
Tensors draw_parts(const HeadOptions& options, at::ScalarType dtype) {
  Tensors parts = {random_tensor({kTokens, kDim}, 1, dtype), random_tensor({kVocab, kDim}, 2, dtype)};
  if (options.bias) parts.push_back(random_tensor({kVocab}, 3, dtype));
  if (options.lora) {
    parts.push_back(random_tensor({4, kDim}, 4, dtype));
    parts.push_back(random_tensor({kVocab, 4}, 5, dtype));
  }
  if (options.rows) parts.push_back(random_tensor({3, kDim}, 6, dtype));
  for (at::Tensor& part : parts) part.requires_grad_();
  return parts;
}

void fill_head(nn::Linear& head, const Tensors& parts, const HeadOptions& options) {
  std::size_t next = 1;
  head.weight = parts[next++];
  if (options.bias) head.bias = parts[next++];
  if (options.lora) {
    nn::LowRank adapter;
    adapter.a = parts[next++];
    adapter.b = parts[next++];
    adapter.scale = 0.5;
    adapter.dropout = options.dropout;
    adapter.dropout_stream = 77;
    head.adapters = {adapter};
  }
  if (options.rows) head.trainable_rows = nn::TrainableRows{labels_of({0, 17, 50}), parts[next++]};
}

nn::ForwardContext training() {
  nn::ForwardContext context;
  context.training = true;
  context.dropout = {.seed = 5, .step = 2, .first_token = 40};
  return context;
}

TokenLosses run(const Tensors& parts, const HeadOptions& options, const at::Tensor& labels,
                const at::Tensor& weights, std::int64_t chunk) {
  nn::Linear head(kDim, kVocab, false, parts[0].options());
  fill_head(head, parts, options);
  return linear_cross_entropy(parts[0], head, labels, training(), weights, {.chunk_tokens = chunk});
}

// The same from full logits.
at::Tensor plain_loss(const Tensors& parts, const HeadOptions& options, const at::Tensor& labels,
                      const at::Tensor& weights) {
  const at::Tensor& hidden = parts[0];
  std::size_t next = 2;
  at::Tensor weight = parts[1];
  const at::Tensor bias = options.bias ? parts[next++] : at::Tensor();
  at::Tensor delta;
  if (options.lora) {
    const at::Tensor x = nn::dropout(hidden, options.dropout, training().dropout, 77);
    delta = at::matmul(at::matmul(x, parts[next].t()), parts[next + 1].t()) * 0.5;
    next += 2;
  }
  if (options.rows) {  // They replace the base and the adapter.
    weight = weight.index_copy(0, labels_of({0, 17, 50}), parts[next++]);
    if (delta.defined()) delta = delta.index_fill(1, labels_of({0, 17, 50}), 0);
  }
  at::Tensor logits = at::matmul(hidden, weight.t());
  if (bias.defined()) logits = logits + bias;
  if (delta.defined()) logits = logits + delta;
  const at::Tensor kept = labels.ne(kIgnoreIndex);
  const at::Tensor losses =
      -at::log_softmax(logits, 1).gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1) *
      kept.to(logits.dtype());
  return (weights.defined() ? losses * weights.to(losses.scalar_type()) : losses).sum();
}

void compare(const HeadOptions& options, at::ScalarType dtype, std::int64_t chunk,
             const at::Tensor& weights) {
  const double tolerance = dtype == at::kFloat ? 1e-5 : 3e-2;
  const Tensors parts = draw_parts(options, dtype);
  Tensors wide;
  for (const at::Tensor& part : parts) wide.push_back(part.detach().to(at::kDouble).requires_grad_());
  const at::Tensor labels = some_labels();
  const TokenLosses result = run(parts, options, labels, weights, chunk);
  const at::Tensor expected = plain_loss(wide, options, labels, weights);
  EXPECT_EQ(result.count, 15);
  EXPECT_EQ(result.sum.scalar_type(), at::kFloat);
  EXPECT_LT(relative_difference(result.sum, expected), tolerance);
  const auto gradients = torch::autograd::grad({result.sum * 3.0}, parts);
  const auto wanted = torch::autograd::grad({expected * 3.0}, wide);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(gradients[i].scalar_type(), dtype);
    EXPECT_LT(relative_difference(gradients[i], wanted[i]), tolerance) << "part " << i;
  }
}

TEST(LinearCrossEntropy, MatchesFullLogits) {
  const at::Tensor weights = random_tensor({kTokens}, 9).abs();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const std::int64_t chunk : {1, 7, 15, 4096}) {
      SCOPED_TRACE("chunks of " + std::to_string(chunk));
      compare({}, dtype, chunk, {});
      compare({.bias = true, .lora = true}, dtype, chunk, weights);
      compare({.lora = true, .dropout = 0.3}, dtype, chunk, weights);
      compare({.bias = true, .rows = true}, dtype, chunk, {});
      compare({.bias = true, .lora = true, .rows = true, .dropout = 0.1}, dtype, chunk, weights);
    }
  }
}

TEST(LinearCrossEntropy, GradientsInFloat64) {
  const HeadOptions options{.bias = true, .lora = true, .rows = true, .dropout = 0.2};
  Tensors parts = draw_parts(options, at::kDouble);
  for (at::Tensor& part : parts) part = part.detach().mul(0.3).requires_grad_();
  const at::Tensor weights = random_tensor({kTokens}, 9).abs();
  expect_gradients([&](const Tensors& t) { return run(t, options, some_labels(), weights, 4).sum; }, parts,
                   1e-6);
}

TEST(LinearCrossEntropy, LossesByTokenAndWithoutGradient) {
  const Tensors parts = draw_parts({.lora = true}, at::kFloat);
  const at::Tensor labels = some_labels();
  const TokenLosses trained = run(parts, {.lora = true}, labels, {}, 5);
  at::NoGradGuard no_grad;
  const TokenLosses evaluated = run(parts, {.lora = true}, labels, {}, 5);
  EXPECT_FALSE(evaluated.sum.requires_grad());
  EXPECT_FALSE(trained.per_token.requires_grad());
  EXPECT_TRUE(evaluated.per_token.equal(trained.per_token));
  EXPECT_EQ(evaluated.per_token.size(0), kTokens);
  EXPECT_EQ(evaluated.per_token[1].item<float>(), 0.0F);
  EXPECT_GT(evaluated.per_token[0].item<float>(), 0.0F);
  EXPECT_FLOAT_EQ(evaluated.per_token.sum().item<float>(), evaluated.sum.item<float>());
}

TEST(LinearCrossEntropy, FrozenPartsGetNoGradient) {
  Tensors parts = draw_parts({.lora = true}, at::kFloat);
  parts[0] = parts[0].detach();
  parts[1] = parts[1].detach();
  const TokenLosses result = run(parts, {.lora = true}, some_labels(), {}, 5);
  const auto gradients = torch::autograd::grad({result.sum}, {parts[2], parts[3]});
  EXPECT_GT(gradients[0].abs().sum().item<double>(), 0);
  EXPECT_GT(gradients[1].abs().sum().item<double>(), 0);
}

TEST(LinearCrossEntropy, FourBitHeadEqualsItsDecodedSelf) {
  const at::Tensor hidden = random_tensor({kTokens, 64}, 1).requires_grad_();
  const at::Tensor weight = random_tensor({128, 64}, 2);
  nn::Linear head(64, 128, false);
  head.quantized = quant::quantize(weight);
  head.weight = at::Tensor();
  nn::Linear dense(64, 128, false);
  dense.weight = quant::dequantize(*head.quantized, at::kFloat);
  const TokenLosses four_bit = linear_cross_entropy(hidden, head, some_labels(), training());
  const TokenLosses plain = linear_cross_entropy(hidden, dense, some_labels(), training());
  EXPECT_EQ(four_bit.sum.item<float>(), plain.sum.item<float>());
  const auto gradient = torch::autograd::grad({four_bit.sum}, {hidden});
  const auto expected = torch::autograd::grad({plain.sum}, {hidden});
  EXPECT_TRUE(gradient[0].equal(expected[0]));
}

TEST(LinearCrossEntropy, NothingSupervised) {
  const Tensors parts = draw_parts({.bias = true}, at::kFloat);
  const at::Tensor labels = at::zeros({kTokens}, at::TensorOptions().dtype(at::kLong)).fill_(kIgnoreIndex);
  const TokenLosses result = run(parts, {.bias = true}, labels, {}, 5);
  EXPECT_EQ(result.count, 0);
  EXPECT_EQ(result.sum.item<float>(), 0.0F);
  for (const at::Tensor& gradient : torch::autograd::grad({result.sum}, parts)) {
    EXPECT_EQ(gradient.abs().sum().item<double>(), 0.0);
  }
}

TEST(LinearCrossEntropy, BackwardTwiceIsRefused) {
  const Tensors parts = draw_parts({}, at::kFloat);
  const TokenLosses result = run(parts, {}, some_labels(), {}, 5);
  (void)torch::autograd::grad({result.sum}, parts, {}, /*retain_graph=*/true);
  EXPECT_THROW((void)torch::autograd::grad({result.sum}, parts), StateError);
}

TEST(LinearCrossEntropy, BadInputsAreNamed) {
  const Tensors parts = draw_parts({}, at::kFloat);
  at::Tensor labels = some_labels();
  EXPECT_THROW((void)run(parts, {}, labels.narrow(0, 0, 5), {}, 5), StateError);
  EXPECT_THROW((void)run(parts, {}, labels.to(at::kInt), {}, 5), StateError);
  EXPECT_THROW((void)run(parts, {}, labels, at::ones({3}), 5), StateError);
  EXPECT_THROW((void)run(parts, {}, labels, {}, 0), ConfigError);
  labels[4] = -1;
  EXPECT_THROW((void)run(parts, {}, labels, {}, 5), DataError);
  labels[4] = kVocab;
  try {
    (void)run(parts, {}, labels, {}, 5);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_STREQ(error.what(),
                 "label 51 at position 4 is outside the vocabulary of 51 rows: does the tokenizer belong to "
                 "this model?");
  }
}

}  // namespace
}  // namespace bitrain::losses
