#include <bitrain/nn/shared_attention.h>

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/dist/thread_ranks.h>
#include <bitrain/nn/functional.h>

#include "support/gradcheck.h"

namespace bitrain::nn {
namespace {

using bitrain::testing::random_tensor;

struct Heads {
  std::int64_t queries;
  std::int64_t keys;
};

TEST(SharedAttention, IsThatOfOneRankWithItsGradients) {
  const std::vector<std::int32_t> boundaries = {0, 3, 14, 15, 29};
  for (const auto& [heads, kv_heads] : {Heads{4, 4}, Heads{4, 2}, Heads{6, 2}, Heads{5, 1}}) {
    const auto whole = [&, h = heads, kv = kv_heads](std::uint64_t seed, bool keys) {
      return random_tensor({29, keys ? kv : h, 8}, seed, at::kDouble);
    };
    std::vector<at::Tensor> inputs = {whole(1, false), whole(2, true), whole(3, true)};
    const at::Tensor slope = whole(4, false);
    for (at::Tensor& input : inputs) input.requires_grad_();
    const at::Tensor expected = packed_attention(inputs[0], inputs[1], inputs[2], boundaries, 0.3);
    (expected * slope).sum().backward();
    for (const std::int64_t ranks : {1, 2, 3, 4}) {
      SCOPED_TRACE(std::to_string(heads) + " heads on " + std::to_string(ranks));
      dist::run_ranks(ranks, [&](dist::Communicator& world) {
        const std::int64_t begin = token_begin(29, world.rank(), ranks);
        const std::int64_t count = token_begin(29, world.rank() + 1, ranks) - begin;
        std::vector<at::Tensor> own;
        for (const at::Tensor& input : inputs)
          own.push_back(input.detach().narrow(0, begin, count).clone().requires_grad_());
        const at::Tensor attended = shared_attention(own[0], own[1], own[2], boundaries, 0.3, world);
        EXPECT_LT((attended - expected.detach().narrow(0, begin, count)).abs().max().item<double>(), 1e-12);
        (attended * slope.narrow(0, begin, count)).sum().backward();
        for (std::size_t i = 0; i < own.size(); ++i)
          EXPECT_LT((own[i].grad() - inputs[i].grad().narrow(0, begin, count)).abs().max().item<double>(),
                    1e-12)
              << i;
        if (ranks > 1) {
          EXPECT_EQ(world.traffic().at("all_to_all").calls, 4);
        }
      });
    }
  }
}

TEST(SharedAttention, RefusesMoreRanksThanHeads) {
  EXPECT_THROW(dist::run_ranks(3,
                               [](dist::Communicator& world) {
                                 const at::Tensor x = random_tensor({2, 2, 8}, 1);
                                 (void)shared_attention(x, x, x, {0, 6}, 1, world);
                               }),
               ConfigError);
  EXPECT_THROW(dist::run_ranks(2,
                               [](dist::Communicator& world) {
                                 const at::Tensor x = random_tensor({2, 2, 8}, 1);
                                 (void)shared_attention(x, x, x, {0, 6}, 1, world);
                               }),
               StateError);
}

TEST(TokenShare, KeepsPositionsLabelsAndLanguages) {
  Batch batch =
      make_batch({{1, 2, 3}, {4, 5, 6, 7, 8}, {9}}, {{2, 3, -100}, {5, 6, 7, 8, -100}, {-100}}, {0, 1, 2});
  batch.first_token = 100;
  batch.weights = {1, 2, 3};
  std::int64_t begin = 0;
  for (std::int64_t rank = 0; rank < 4; ++rank) {
    const Batch share = token_share(batch, rank, 4);
    const std::int64_t count = share.tokens();
    EXPECT_EQ(begin, token_begin(9, rank, 4));
    EXPECT_TRUE(at::equal(share.input_ids, batch.input_ids.narrow(0, begin, count)));
    EXPECT_TRUE(at::equal(share.labels, batch.labels.narrow(0, begin, count)));
    EXPECT_TRUE(at::equal(share.position_ids, batch.position_ids.narrow(0, begin, count)));
    EXPECT_EQ(share.first_token, 100 + begin);
    EXPECT_EQ(share.longest_segment(), 5);
    EXPECT_EQ(share.whole_boundaries, batch.boundaries);
    begin += count;
  }
  EXPECT_EQ(begin, 9);
  const Batch second =
      token_share(batch, 1, 4);  // Tokens 2 and 3: the end of one segment, the begin of another.
  EXPECT_EQ(second.boundaries, (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(second.language_ids, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(second.weights, (std::vector<float>{1, 2}));
  EXPECT_EQ(token_share(batch, 0, 1).tokens(), 9);
  EXPECT_EQ(token_share(make_batch({}, {}), 1, 4).tokens(), 0);
  EXPECT_THROW((void)token_share(batch, 0, 10), DataError);
  batch.group_ids = {0, 0, 1};
  EXPECT_THROW((void)token_share(batch, 0, 2), StateError);
}

}  // namespace
}  // namespace bitrain::nn
