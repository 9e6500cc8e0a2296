#include <bitrain/nn/embedding.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"

namespace bitrain::nn {
namespace {

using testing::expect_gradients;
using testing::random_tensor;
using testing::relative_difference;

at::Tensor ids_of(const std::vector<std::int64_t>& ids) {
  at::Tensor result =
      at::zeros({static_cast<std::int64_t>(ids.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(ids.begin(), ids.end(), result.mutable_data_ptr<std::int64_t>());
  return result;
}

/// 9 rows of 4, with an adapter of rank 3 and rows 2 and 7 trained.
struct Adapted {
  explicit Adapted(at::ScalarType dtype = at::kDouble) : table(9, 4, dtype) {
    table.weight = random_tensor({9, 4}, 1, dtype);
    LowRank adapter;
    adapter.a = random_tensor({3, 9}, 2, at::kDouble);
    adapter.b = random_tensor({4, 3}, 3, at::kDouble);
    adapter.scale = 0.5;
    table.adapters = {adapter};
    table.trainable_rows = TrainableRows{ids_of({2, 7}), random_tensor({2, 4}, 4, at::kDouble)};
  }
  Embedding table;
};

TEST(Embedding, RowsAreThoseOfTheMergedTable) {
  Adapted adapted;
  const at::Tensor ids = ids_of({2, 0, 8, 7, 2, 5});
  const at::Tensor merged = adapted.table.merged_weight(at::kFloat);
  EXPECT_LT(relative_difference(adapted.table.forward(ids, {}), merged.index_select(0, ids)), 1e-6);
  EXPECT_LT(relative_difference(merged[7], adapted.table.trainable_rows->rows[1]), 1e-6);
  adapted.table.adapters[0].enabled = false;
  adapted.table.trainable_rows.reset();
  EXPECT_TRUE(at::equal(adapted.table.forward(ids, {}), adapted.table.weight.index_select(0, ids)));
  EXPECT_TRUE(at::equal(adapted.table.merged_weight(at::kDouble), adapted.table.weight));
}

TEST(Embedding, GradientsOfTableAdapterAndTrainedRows) {
  Adapted adapted;
  Embedding& table = adapted.table;
  const at::Tensor ids = ids_of({2, 0, 8, 7, 2, 5, 0});
  std::vector<at::Tensor> inputs{table.weight, table.adapters[0].a, table.adapters[0].b,
                                 table.trainable_rows->rows};
  for (at::Tensor& input : inputs) input.set_requires_grad(true);
  expect_gradients(
      [&](const std::vector<at::Tensor>& values) {
        table.weight = values[0];
        table.adapters[0].a = values[1];
        table.adapters[0].b = values[2];
        table.trainable_rows->rows = values[3];
        return table.forward(ids, {});
      },
      inputs);
}

TEST(Embedding, OutputHasTheTablesDtype) {
  Adapted adapted(at::kBFloat16);
  EXPECT_EQ(adapted.table.forward(ids_of({2, 3}), {}).scalar_type(), at::kBFloat16);
}

TEST(Embedding, IdsOutsideTheTableAreRefused) {
  Adapted adapted;
  adapted.table.weight = adapted.table.weight.to(at::kFloat);
  EXPECT_THROW((void)adapted.table.forward(ids_of({0, 9}), {}), DataError);
  EXPECT_THROW((void)adapted.table.forward(ids_of({-1}), {}), DataError);
}

}  // namespace
}  // namespace bitrain::nn
