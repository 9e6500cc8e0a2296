#include <bitrain/base/matmul.h>

#include <algorithm>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

namespace bitrain {
namespace {

/// What the machine does, in force again when the test ends.
class As {
 public:
  explicit As(NarrowProducts kind) : before_(set_narrow_products(kind)) {}
  ~As() { set_narrow_products(before_); }
  As(const As&) = delete;
  As& operator=(const As&) = delete;

 private:
  NarrowProducts before_;
};

at::Tensor random(std::int64_t rows, std::int64_t columns, at::ScalarType dtype) {
  return at::randn({rows, columns}).to(dtype);
}

/// One rounding to bfloat16 away from the float32 product, whose own sums differ in order.
void expect_rounded(const at::Tensor& narrow, const at::Tensor& exact) {
  EXPECT_TRUE(at::allclose(narrow.to(at::kFloat), exact, 1.0 / 128, 1e-4));
}

class MatmulTest : public testing::TestWithParam<NarrowProducts> {};

TEST_P(MatmulTest, ProductsAreTheFloat32OnesRounded) {
  const As as(GetParam());
  for (const auto type : {at::kBFloat16, at::kFloat, at::kDouble}) {
    for (const std::int64_t rows : {1, 7, 64, 130}) {
      const at::Tensor x = random(rows, 96, type);
      const at::Tensor w = random(80, 96, type);
      const at::Tensor bias = random(1, 80, type).view({80});
      const at::Tensor exact = at::mm(x.to(at::kDouble), w.to(at::kDouble).t()).to(at::kFloat);
      const at::Tensor with_bias = exact + bias.to(at::kFloat);
      EXPECT_EQ(product(x, w.t()).scalar_type(), type);
      expect_rounded(product(x, w.t()), exact);
      expect_rounded(product(x, w.t(), bias), with_bias);
      at::Tensor out = at::zeros({rows + 2, 80}, x.options());
      product_into(out.narrow(0, 1, rows), x, w.t());
      expect_rounded(out.narrow(0, 1, rows), exact);
      EXPECT_EQ(out[0].abs().max().item<double>(), 0);
      EXPECT_EQ(out[rows + 1].abs().max().item<double>(), 0);
      product_into(out.narrow(0, 1, rows), x, w.t(), bias);
      expect_rounded(out.narrow(0, 1, rows), with_bias);
      at::Tensor sum = bias.unsqueeze(0).repeat({rows, 1});
      add_product(sum, x, w.t(), -0.5);
      expect_rounded(sum, bias.to(at::kFloat) - 0.5 * exact);
    }
  }
}

std::string machine_name(const testing::TestParamInfo<NarrowProducts>& machine) {
  static constexpr const char* kNames[] = {"Quick", "Half", "Absent"};
  return kNames[static_cast<int>(machine.param)];
}

INSTANTIATE_TEST_SUITE_P(Machines, MatmulTest,
                         testing::Values(NarrowProducts::kQuick, NarrowProducts::kHalf,
                                         NarrowProducts::kAbsent),
                         machine_name);

TEST(Matmul, ADecodedWeightMayStayFloat32WhereProductsAreWide) {
  const at::Tensor x = random(64, 96, at::kBFloat16);
  const at::Tensor w = random(80, 96, at::kBFloat16);
  for (const NarrowProducts kind : {NarrowProducts::kHalf, NarrowProducts::kAbsent}) {
    const As as(kind);
    ASSERT_TRUE(computes_wide(x, 80));
    EXPECT_TRUE(at::equal(product(x, w.to(at::kFloat).t()), product(x, w.t())));
  }
}

TEST(Matmul, ComputesWideWhereCopiesAreWorthIt) {
  const at::Tensor x = random(64, 96, at::kBFloat16);
  {
    const As as(NarrowProducts::kQuick);
    EXPECT_FALSE(computes_wide(x, 96));
    EXPECT_TRUE(computes_wide(x.to(at::kHalf), 96));  // No x86 of ours sums float16 products in float32.
  }
  {
    const As as(NarrowProducts::kHalf);
    EXPECT_TRUE(computes_wide(x, 96));
    EXPECT_FALSE(computes_wide(x, 8));  // An adapter's rank.
    EXPECT_FALSE(computes_wide(x.narrow(0, 0, 8), 96));
  }
  const As as(NarrowProducts::kAbsent);
  EXPECT_TRUE(computes_wide(x.narrow(0, 0, 1), 8));
  EXPECT_FALSE(computes_wide(x.to(at::kFloat), 96));
  EXPECT_FALSE(computes_wide(x.to(at::kDouble), 96));
}

TEST(Matmul, TheNumberOfThreadsChangesNoBit) {
  const As as(NarrowProducts::kHalf);
  const int before = at::get_num_threads();
  struct Shape {
    std::int64_t tokens;
    std::int64_t in;
    std::int64_t out;
  };
  for (const auto& [tokens, in, out] : {Shape{2048, 256, 704}, Shape{1000, 704, 256}, Shape{512, 256, 8000},
                                        Shape{3333, 64, 96}, Shape{1500, 128, 16}, Shape{70, 1024, 300}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
      if (dtype == at::kBFloat16 && std::min({tokens, in, out}) < 64) continue;  // LibTorch's own.
      const at::Tensor x = random(tokens, in, dtype);
      const at::Tensor w = random(out, in, dtype);
      const at::Tensor dy = random(tokens, out, dtype);
      const at::Tensor bias = random(1, out, dtype).view(-1);
      std::vector<at::Tensor> first;
      for (const int threads : {1, 2, 3, 4, 8}) {
        at::set_num_threads(threads);
        std::vector<at::Tensor> now = {product(x, w.t(), bias), product(dy, w), product(dy.t(), x)};
        now.push_back(at::zeros_like(now[0]));
        product_into(now.back(), x, w.t());
        add_product(now.back(), x, w.t(), 0.5);
        if (first.empty()) first = now;
        for (std::size_t i = 0; i < now.size(); ++i)
          EXPECT_TRUE(at::equal(now[i], first[i])) << i << ": " << tokens << " x " << in << " x " << out
                                                   << " " << dtype << " on " << threads << " threads";
      }
    }
  }
  at::set_num_threads(before);
}

TEST(Matmul, Float32IsLibTorchsBitForBit) {
  const As as(NarrowProducts::kAbsent);
  const at::Tensor x = random(70, 96, at::kFloat);
  const at::Tensor w = random(96, 80, at::kFloat);
  EXPECT_TRUE(at::equal(product(x, w), at::mm(x, w)));
}

}  // namespace
}  // namespace bitrain
