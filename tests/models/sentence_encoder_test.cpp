#include <bitrain/models/sentence_encoder.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using testing::random_batch;
using testing::random_tensor;
using testing::relative_difference;
using testing::tiny_bert;

std::unique_ptr<Dense> filled(std::int64_t in, std::int64_t out, nn::Activation activation) {
  auto dense = std::make_unique<Dense>(in, out, true, activation);
  dense->linear.weight = random_tensor({out, in}, 1);
  dense->linear.bias = random_tensor({out}, 2);
  return dense;
}

TEST(SentenceEncoder, PoolsMapsAndNormalises) {
  const Batch batch = random_batch({5, 1, 9}, 23);
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = tiny_bert()->forward(batch, {}).hidden;
  const at::Tensor pooled =
      nn::pool_segments(hidden, batch.boundaries, {nn::Pooling::kCls, nn::Pooling::kMean});

  SentenceEncoder plain(tiny_bert(), {{nn::Pooling::kCls, nn::Pooling::kMean}, false});
  EXPECT_EQ(plain.dimension(), 32);
  EXPECT_TRUE(at::equal(plain.forward(batch, {}), pooled));

  std::vector<std::unique_ptr<Dense>> maps;
  maps.push_back(filled(32, 6, nn::Activation::kTanh));
  maps.push_back(filled(6, 4, nn::Activation::kIdentity));
  const at::Tensor inner = (pooled.matmul(maps[0]->linear.weight.t()) + maps[0]->linear.bias).tanh();
  at::Tensor expected = inner.matmul(maps[1]->linear.weight.t()) + maps[1]->linear.bias;
  expected = expected / expected.square().sum(1, true).sqrt();
  SentenceEncoder whole(tiny_bert(), {{nn::Pooling::kCls, nn::Pooling::kMean}, true}, std::move(maps));
  EXPECT_EQ(whole.dimension(), 4);
  EXPECT_LT(relative_difference(whole.forward(batch, {}), expected), 1e-6);
  EXPECT_NE(whole.find("dense.1.linear"), nullptr);
  EXPECT_NE(whole.find("transformer.encoder.layer.0.attention.self.query"), nullptr);
}

TEST(SentenceEncoder, PackedIsOneByOneInBfloat16Too) {
  const Batch batch = random_batch({5, 1, 9}, 23);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    SentenceEncoder model(tiny_bert(dtype), {{nn::Pooling::kMean}, true});
    const at::NoGradGuard no_grad;
    const at::Tensor whole = model.forward(batch, {});
    EXPECT_EQ(whole.scalar_type(), at::kFloat);
    EXPECT_LT((whole.square().sum(1) - 1).abs().max().item<double>(), 1e-6);
    const auto* ids = batch.input_ids.const_data_ptr<std::int64_t>();
    const std::vector<std::int32_t> row(ids + 6, ids + 15);
    EXPECT_LT(relative_difference(model.forward(make_batch({row}, {row}), {})[0], whole[2]),
              dtype == at::kFloat ? 1e-6 : 2e-2);
  }
}

// BabelBERT: a word's vector is the mean of its subwords, without [CLS] and [SEP].
TEST(SentenceEncoder, MarginsStayOutOfPoolingAndOfItsGradient) {
  const Batch batch = random_batch({5, 2, 3}, 23);
  SentenceEncoder model(tiny_bert(), {{nn::Pooling::kMean}, false});
  const at::Tensor hidden = model.encoder().forward(batch, {}).hidden.detach().requires_grad_();
  const at::Tensor whole = model.embed(hidden, batch.boundaries, {});
  model.set_margins({1, 1});
  const at::Tensor inner = model.embed(hidden, batch.boundaries, {});
  EXPECT_LT(relative_difference(inner[0], hidden.narrow(0, 1, 3).mean(0)), 1e-6);
  EXPECT_LT(relative_difference(inner[2], hidden[8]), 1e-6);
  EXPECT_TRUE(at::equal(inner[1], whole[1]));  // Nothing but margins.
  inner[0].sum().backward();
  EXPECT_EQ(hidden.grad()[0].abs().sum().item<double>(), 0);
  EXPECT_EQ(hidden.grad()[4].abs().sum().item<double>(), 0);
  EXPECT_NEAR(hidden.grad()[2][0].item<double>(), 1.0 / 3, 1e-6);
  // The same word has the same vector beside any others: there is no padding to pool.
  const auto* ids = batch.input_ids.const_data_ptr<std::int64_t>();
  const std::vector<std::int32_t> row(ids, ids + 5);
  EXPECT_LT(relative_difference(model.forward(make_batch({row}, {row}), {})[0], inner[0]), 1e-5);
  model.set_margins({});
  EXPECT_TRUE(at::equal(model.embed(hidden, batch.boundaries, {}), whole));
  EXPECT_THROW(model.set_margins({-1, 0}), ConfigError);
}

TEST(SentenceEncoder, GradientsReachTheEncoder) {
  std::vector<std::unique_ptr<Dense>> maps;
  maps.push_back(filled(16, 4, nn::Activation::kTanh));
  SentenceEncoder model(tiny_bert(at::kBFloat16), {{nn::Pooling::kMean}, true}, std::move(maps));
  model.visit_tensors([](const std::string&, at::Tensor& tensor) { tensor.set_requires_grad(true); });
  const at::Tensor y = model.forward(random_batch({5, 7}, 23), {});
  (y * random_tensor(y.sizes(), 3)).sum().backward();
  model.visit_tensors([](const std::string& name, at::Tensor& tensor) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_EQ(tensor.grad().scalar_type(), tensor.scalar_type()) << name;
  });
}

TEST(SentenceEncoder, PartsThatDoNotFitAreNamed) {
  std::vector<std::unique_ptr<Dense>> maps;
  maps.push_back(filled(32, 6, nn::Activation::kTanh));
  EXPECT_THAT(
      [&] {
        SentenceEncoder(tiny_bert(), {{nn::Pooling::kMean}, false}, std::move(maps));
      },
      ::testing::ThrowsMessage<ConfigError>(
          ::testing::HasSubstr("dense map 0 takes 32 features, but is given 16")));
  EXPECT_THROW(SentenceEncoder(tiny_bert(), {{}, false}), ConfigError);
}

}  // namespace
}  // namespace bitrain::models
