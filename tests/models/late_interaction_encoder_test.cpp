#include <bitrain/models/late_interaction_encoder.h>

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"
#include "support/tiny_bert.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using ::testing::HasSubstr;
using testing::random_batch;
using testing::relative_difference;
using ::testing::ThrowsMessage;
using testing::tiny_bert;

LateInteractionEncoder make_model(at::ScalarType dtype = at::kFloat) {
  return {tiny_bert(dtype), 6};
}

TEST(LateInteractionEncoder, GivesUnitVectorsOfTheProjectedHiddenStates) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    LateInteractionEncoder model = make_model(dtype);
    initialise_projection(model, 3);
    const at::NoGradGuard no_grad;
    const Batch batch = random_batch({5, 1, 9}, 23);
    const at::Tensor vectors = model.forward(batch, {});
    EXPECT_EQ(vectors.sizes(), at::IntArrayRef({15, 6}));
    EXPECT_EQ(vectors.scalar_type(), dtype == at::kDouble ? at::kDouble : at::kFloat);
    const at::Tensor hidden = model.encoder().forward(batch, {}).hidden.to(at::kDouble);
    const at::Tensor projected = at::mm(hidden, model.projection().linear.weight.to(at::kDouble).t());
    const at::Tensor wanted = projected / at::linalg_vector_norm(projected, 2, {1}, true);
    EXPECT_LT(relative_difference(vectors, wanted), dtype == at::kBFloat16 ? 2e-2 : 1e-5);
  }
}

TEST(LateInteractionEncoder, HasTheNamesOfItsParts) {
  LateInteractionEncoder model = make_model();
  EXPECT_EQ(model.dimension(), 6);
  EXPECT_NE(model.find("transformer.encoder.layer.1.output"), nullptr);
  EXPECT_NE(model.find("projection.linear"), nullptr);
  EXPECT_FALSE(model.projection().linear.bias.defined());
  EXPECT_EQ(model.options().query_length, 32);
  EXPECT_EQ(punctuation().size(), 32U);
}

TEST(LateInteractionEncoder, NanInTheWeightsReachesTheVectors) {
  LateInteractionEncoder model = make_model();
  initialise_projection(model, 3);
  const at::NoGradGuard no_grad;
  model.projection().linear.weight[0][0].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(model.forward(random_batch({3}, 23), {}).isnan().all().item<bool>());
}

TEST(LateInteractionEncoder, RefusesProjectionsThatDoNotFit) {
  EXPECT_THAT([] { LateInteractionEncoder(tiny_bert(), 0); },
              ThrowsMessage<ConfigError>(HasSubstr("at least 1 feature")));
  EXPECT_THAT(
      [] {
        LateInteractionEncoder(tiny_bert(), std::make_unique<Dense>(17, 6, false, nn::Activation::kIdentity));
      },
      ThrowsMessage<ConfigError>(HasSubstr("takes 17 features, but the encoder gives 16")));
}

}  // namespace
}  // namespace bitrain::models
