#include <bitrain/kernels/cpu_kernels.h>

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>

#include "support/gradcheck.h"

namespace bitrain::kernels {
namespace {

using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;

struct Shape {
  std::vector<std::int32_t> boundaries;
  std::int64_t heads, kv_heads, head_dim;
  bool causal;
};

// Scores in full, one segment after another, in float64.
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Shape& shape,
                           double scale) {
  std::vector<at::Tensor> outputs;
  const std::int64_t group = shape.heads / shape.kv_heads;
  for (std::size_t s = 0; s + 1 < shape.boundaries.size(); ++s) {
    const std::int64_t begin = shape.boundaries[s];
    const std::int64_t length = shape.boundaries[s + 1] - begin;
    const auto heads_first = [&](const at::Tensor& x, std::int64_t repeat) {
      return x.narrow(0, begin, length).repeat_interleave(repeat, 1).transpose(0, 1);
    };
    at::Tensor scores = at::matmul(heads_first(q, 1), heads_first(k, group).transpose(1, 2)) * scale;
    if (shape.causal) {
      scores = scores + at::full({length, length}, -INFINITY, scores.options()).triu(1);
    }
    outputs.push_back(at::matmul(at::softmax(scores, -1), heads_first(v, group)).transpose(0, 1));
  }
  return at::cat(outputs, 0);
}

ConstRows const_rows(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0)};
}
Rows rows(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0)};
}

void compare(const Kernels& table, const Shape& shape, at::ScalarType dtype) {
  const std::int64_t tokens = shape.boundaries.back();
  const double scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  // k and v are views of one tensor: tokens further apart than heads * head_dim.
  const at::Tensor q = random_tensor({tokens, shape.heads, shape.head_dim}, 1, dtype);
  const at::Tensor kv = random_tensor({tokens, 2 * shape.kv_heads, shape.head_dim}, 2, dtype);
  const at::Tensor k = kv.narrow(1, 0, shape.kv_heads);
  const at::Tensor v = kv.narrow(1, shape.kv_heads, shape.kv_heads);
  const at::Tensor dout = random_tensor(q.sizes(), 3, dtype);
  const AttentionShape call{.type = dtype == at::kFloat ? FloatType::kFloat32 : FloatType::kBFloat16,
                            .boundaries = shape.boundaries.data(),
                            .segments = static_cast<std::int64_t>(shape.boundaries.size()) - 1,
                            .heads = shape.heads,
                            .kv_heads = shape.kv_heads,
                            .head_dim = shape.head_dim,
                            .scale = static_cast<float>(scale),
                            .causal = shape.causal};
  const at::Tensor out = at::full(q.sizes(), NAN, q.options());
  const at::Tensor lse = at::empty({shape.heads, tokens}, q.options().dtype(at::kFloat));
  table.attention(call, const_rows(q), const_rows(k), const_rows(v), rows(out),
                  lse.mutable_data_ptr<float>());

  const at::Tensor wide_q = q.to(at::kDouble).requires_grad_();
  const at::Tensor wide_k = k.to(at::kDouble).requires_grad_();
  const at::Tensor wide_v = v.to(at::kDouble).requires_grad_();
  const at::Tensor expected = plain_attention(wide_q, wide_k, wide_v, shape, scale);
  const double tolerance = dtype == at::kFloat ? 5e-6 : 1e-2;
  EXPECT_LT(relative_difference(out, expected), tolerance);

  const auto gradients = torch::autograd::grad({expected}, {wide_q, wide_k, wide_v}, {dout.to(at::kDouble)});
  const at::Tensor dq = at::full(q.sizes(), NAN, q.options());
  const at::Tensor dk = at::full(k.sizes(), NAN, k.options());
  const at::Tensor dv = at::full(v.sizes(), NAN, v.options());
  table.attention_backward(call, const_rows(dout), const_rows(q), const_rows(k), const_rows(v),
                           const_rows(out), lse.const_data_ptr<float>(), rows(dq), rows(dk), rows(dv));
  EXPECT_LT(relative_difference(dq, gradients[0], 0.1), tolerance);
  EXPECT_LT(relative_difference(dk, gradients[1], 0.1), tolerance);
  EXPECT_LT(relative_difference(dv, gradients[2], 0.1), tolerance);
}

std::string describe(const Shape& shape) {
  return std::to_string(shape.boundaries.back()) + " tokens, " + std::to_string(shape.heads) + "/" +
         std::to_string(shape.kv_heads) + " heads of " + std::to_string(shape.head_dim) +
         (shape.causal ? ", causal" : ", full");
}

class AttentionTest : public ::testing::TestWithParam<const char*> {};

TEST_P(AttentionTest, MatchesFullScores) {
  const Kernels* table = cpu_kernels_for(GetParam());
  if (table == nullptr) GTEST_SKIP() << "this machine has no " << GetParam();
  const std::vector<Shape> shapes = {
      {{0, 1}, 1, 1, 16, true},       {{0, 1, 3, 10}, 2, 1, 32, true},
      {{0, 64, 128}, 2, 2, 64, true}, {{0, 63, 128, 193}, 4, 2, 64, true},
      {{0, 200}, 2, 2, 80, true},     {{0, 0, 90}, 3, 1, 40, true},
      {{0, 130}, 2, 1, 128, true},    {{0, 70, 141}, 6, 2, 256, true},
      {{0, 77}, 2, 2, 24, false},     {{0, 129, 200}, 4, 1, 64, false},
      {{0, 66}, 1, 1, 10, true},      {{0, 300, 301}, 1, 1, 96, false},
      {{0, 1100}, 1, 1, 32, true},    {{0, 20}, 2, 2, 7, true},
  };
  for (const Shape& shape : shapes) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(describe(shape) + (dtype == at::kFloat ? ", float32" : ", bfloat16"));
      compare(*table, shape, dtype);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionTest, ::testing::Values("generic", "avx2", "avx512"));

}  // namespace
}  // namespace bitrain::kernels
