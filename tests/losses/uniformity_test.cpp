#include <bitrain/losses/uniformity.h>

#include <cmath>

#include <gtest/gtest.h>

#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <bitrain/base/error.h>
#include <bitrain/nn/unit_rows.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

using bitrain::testing::random_tensor;

double by_hand(const at::Tensor& z) {
  const at::Tensor wide = z.to(at::kDouble).contiguous();
  const auto* values = wide.const_data_ptr<double>();
  const std::int64_t batch = z.size(0);
  const std::int64_t dim = z.size(1);
  double sum = 0;
  for (std::int64_t i = 0; i < batch; ++i) {
    for (std::int64_t j = 0; j < batch; ++j) {
      double distance = 0;
      for (std::int64_t k = 0; k < dim; ++k)
        distance += std::pow(values[i * dim + k] - values[j * dim + k], 2);
      if (j != i) sum += std::exp(-2 * distance);
    }
  }
  return std::log(sum / static_cast<double>(batch * (batch - 1)));
}

TEST(Uniformity, EqualsTheLoop) {
  const at::Tensor few = nn::unit_rows(random_tensor({7, 5}, 1, at::kDouble));
  EXPECT_NEAR(uniformity(few), by_hand(few), 1e-12);
  const at::Tensor many = nn::unit_rows(random_tensor({1100, 4}, 2));  // Three tiles each way.
  EXPECT_NEAR(uniformity(many), by_hand(many), 1e-5);
}

TEST(Uniformity, IsZeroForCollapsedEmbeddingsAndMinusEightForOpposite) {
  EXPECT_NEAR(uniformity(nn::unit_rows(at::ones({600, 16}))), 0, 1e-5);
  EXPECT_NEAR(uniformity(at::tensor(std::vector<float>{1, -1}).unsqueeze(1)), -8, 1e-5);
  EXPECT_LT(uniformity(nn::unit_rows(random_tensor({64, 64}, 1))), -3);
}

TEST(Uniformity, RefusesBadInput) {
  EXPECT_THROW((void)uniformity(at::ones({1, 4})), DataError);
  EXPECT_THROW((void)uniformity(at::ones({4})), StateError);
  EXPECT_THROW((void)uniformity(at::ones({4, 4}).to(at::kLong)), StateError);
  EXPECT_THROW((void)uniformity({}), StateError);
}

}  // namespace
}  // namespace bitrain::losses
