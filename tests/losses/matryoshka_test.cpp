#include <bitrain/losses/matryoshka.h>

#include <cmath>

#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/losses/distillation.h>
#include <bitrain/nn/unit_rows.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using bitrain::testing::expect_gradients;
using bitrain::testing::random_tensor;
using bitrain::testing::relative_difference;
using Tensors = std::vector<at::Tensor>;

// Not the same for embeddings of another length.
at::Tensor dot_loss(const Tensors& t) {
  return (t[0] * t[1]).sum(1).square();
}

TEST(Matryoshka, IsTheWeightedSumOverWidths) {
  const at::Tensor a = random_tensor({3, 6}, 1, at::kDouble);
  const at::Tensor b = random_tensor({3, 6}, 2, at::kDouble);
  const MatryoshkaOptions options{.dims = {6, 4, 1}, .weights = {1, 0.5, 2}, .normalize = false};
  at::Tensor plain = dot_loss({a, b});
  plain = plain + 0.5 * dot_loss({a.slice(1, 0, 4), b.slice(1, 0, 4)});
  plain = plain + 2 * dot_loss({a.slice(1, 0, 1), b.slice(1, 0, 1)});
  EXPECT_LT(relative_difference(matryoshka(dot_loss, {a, b}, options), plain), 1e-14);
}

TEST(Matryoshka, NormalizesEachWidth) {
  const at::Tensor a = random_tensor({3, 6}, 1, at::kDouble);
  const at::Tensor b = random_tensor({3, 6}, 2, at::kDouble);
  const auto cut = [](const at::Tensor& x, std::int64_t dim) { return nn::unit_rows(x.slice(1, 0, dim)); };
  const at::Tensor plain = dot_loss({cut(a, 6), cut(b, 6)}) + dot_loss({cut(a, 2), cut(b, 2)});
  EXPECT_LT(relative_difference(matryoshka(dot_loss, {a, b}, {.dims = {2, 6}}), plain), 1e-14);
}

TEST(Matryoshka, OneFullWidthIsTheLossItself) {
  const at::Tensor a = random_tensor({3, 6}, 1, at::kDouble);
  const at::Tensor b = random_tensor({3, 6}, 2, at::kDouble);
  EXPECT_TRUE(matryoshka(dot_loss, {a, b}, {.dims = {6}, .normalize = false}).equal(dot_loss({a, b})));
}

TEST(Matryoshka, GradientsInFloat64) {
  for (const bool normalize : {false, true}) {
    const MatryoshkaOptions options{.dims = {2, 5}, .weights = {0.3, 1}, .normalize = normalize};
    expect_gradients(
        [&](const Tensors& t) {
          return matryoshka(
              [](const Tensors& cut) {
                return similarity_distillation(cut[0], cut[0].square()) + dot_loss(cut);
              },
              t, options);
        },
        {random_tensor({3, 6}, 1, at::kDouble), random_tensor({3, 6}, 2, at::kDouble).requires_grad_()});
  }
}

TEST(Matryoshka, RefusesBadInput) {
  const Tensors both = {random_tensor({3, 6}, 1), random_tensor({3, 6}, 2)};
  EXPECT_THROW((void)matryoshka(dot_loss, both, {}), ConfigError);
  EXPECT_THROW((void)matryoshka(dot_loss, both, {.dims = {0}}), ConfigError);
  EXPECT_THROW((void)matryoshka(dot_loss, both, {.dims = {4, 2, 4}}), ConfigError);
  EXPECT_THROW((void)matryoshka(dot_loss, both, {.dims = {4, 2}, .weights = {1}}), ConfigError);
  EXPECT_THROW((void)matryoshka(dot_loss, both, {.dims = {4}, .weights = {-1}}), ConfigError);
  EXPECT_THROW((void)matryoshka(dot_loss, both, {.dims = {4}, .weights = {std::nan("")}}), ConfigError);
  EXPECT_THROW((void)matryoshka(dot_loss, both, {.dims = {7}}), StateError);
  EXPECT_THROW((void)matryoshka(dot_loss, {}, {.dims = {4}}), StateError);
  EXPECT_THROW((void)matryoshka(dot_loss, {both[0], at::Tensor()}, {.dims = {4}}), StateError);
}

}  // namespace
}  // namespace bitrain::losses
