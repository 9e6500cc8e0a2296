#include <bitrain/models/generation.h>

#include <cmath>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/softmax.h>

#include <bitrain/base/error.h>
#include <bitrain/models/llama/config.h>

#include "support/gradcheck.h"
#include "support/tiny_llama.h"

namespace bitrain::models {
namespace {

using testing::tiny_llama;

/// Greedy decoding without a cache.
std::vector<std::int32_t> uncached(LanguageModel& model, std::vector<std::int32_t> ids, std::size_t count) {
  const at::NoGradGuard no_grad;
  std::vector<std::int32_t> result;
  while (result.size() < count) {
    const at::Tensor logits = testing::logits_of(model, make_batch({ids}, {ids}));
    ids.push_back(static_cast<std::int32_t>(logits[logits.size(0) - 1].argmax().item<std::int64_t>()));
    result.push_back(ids.back());
  }
  return result;
}

GenerationOptions endless(std::int64_t count) {
  GenerationOptions options;
  options.max_new_tokens = count;
  options.stop_tokens = {-1};
  return options;
}

TEST(Generation, CachedEqualsUncached) {
  const auto model = tiny_llama();
  EXPECT_EQ(generate(*model, {1, 5, 9}, endless(20)), uncached(*model, {1, 5, 9}, 20));
}

TEST(Generation, StopsAtStopTokensTheLimitAndTheCallback) {
  const auto model = tiny_llama();
  const std::vector<std::int32_t> all = generate(*model, {1, 5, 9}, endless(8));
  ASSERT_EQ(all.size(), 8U);
  GenerationOptions options = endless(8);
  options.stop_tokens = {all[3]};
  const auto first = std::find(all.begin(), all.end(), all[3]);
  EXPECT_EQ(generate(*model, {1, 5, 9}, options), std::vector<std::int32_t>(all.begin(), first));
  std::vector<std::int32_t> heard;
  const auto until_three = [&](std::int32_t id) {
    heard.push_back(id);
    return heard.size() < 3;
  };
  EXPECT_EQ(generate(*model, {1, 5, 9}, endless(8), until_three), heard);
  EXPECT_EQ(heard.size(), 3U);
  // By default the model's own end tokens stop.
  model->config().eos_token_id = {all[0]};
  EXPECT_TRUE(generate(*model, {1, 5, 9}).empty());
}

TEST(Generation, DrawsFollowTheProbabilitiesAndTheSeed) {
  const auto model = tiny_llama();
  const std::vector<std::int32_t> prompt{1, 5, 9};
  GenerationOptions options = endless(1);
  options.temperature = 1.5;
  const at::NoGradGuard no_grad;
  const at::Tensor logits = testing::logits_of(*model, make_batch({prompt}, {prompt}))[2] / 1.5;
  const at::Tensor expected = at::softmax(logits, -1);
  std::map<std::int32_t, int> counts;
  constexpr int kDraws = 3000;
  for (int i = 0; i < kDraws; ++i) {
    options.seed = i;
    ++counts[generate(*model, prompt, options).at(0)];
  }
  for (std::int32_t id = 0; id < 23; ++id) {
    const double p = expected[id].item<double>();
    EXPECT_NEAR(counts[id] / static_cast<double>(kDraws), p, 5 * std::sqrt(p * (1 - p) / kDraws) + 1e-3)
        << id;
  }
  options = endless(30);
  options.temperature = 1.0;
  options.seed = 4;
  const std::vector<std::int32_t> once = generate(*model, prompt, options);
  EXPECT_EQ(once, generate(*model, prompt, options));
  options.seed = 5;
  EXPECT_NE(once, generate(*model, prompt, options));
}

TEST(Generation, TopKTopPAndVocabularyNarrowTheChoice) {
  const auto model = tiny_llama();
  const std::vector<std::int32_t> prompt{1, 5, 9};
  const std::int32_t likeliest = generate(*model, prompt, endless(1)).at(0);
  const auto drawn = [&](GenerationOptions options, std::int64_t vocab_size = 0) {
    std::set<std::int32_t> ids;
    options.temperature = 4.0;
    for (int i = 0; i < 200; ++i) {
      options.seed = i;
      ids.insert(generate(*model, prompt, options, {}, vocab_size).at(0));
    }
    return ids;
  };
  GenerationOptions options = endless(1);
  options.top_k = 1;
  EXPECT_EQ(drawn(options), std::set<std::int32_t>{likeliest});
  options.top_k = 3;
  EXPECT_EQ(drawn(options).size(), 3U);
  options = endless(1);
  options.top_p = 0.0;
  EXPECT_EQ(drawn(options), std::set<std::int32_t>{likeliest});
  options.top_p = 0.5;
  EXPECT_LT(drawn(options).size(), drawn(endless(1)).size());
  for (const std::int32_t id : drawn(endless(1), 4)) EXPECT_LT(id, 4);
}

TEST(Generation, BadInputIsRefused) {
  const auto model = tiny_llama();
  EXPECT_THROW((void)generate(*model, {}), DataError);
  EXPECT_THAT(
      [&] {
        (void)generate(*model, {1, 23});
      },
      ::testing::ThrowsMessage<DataError>(::testing::HasSubstr("id 23")));
  GenerationOptions options;
  options.max_new_tokens = 0;
  EXPECT_THROW((void)generate(*model, {1}, options), ConfigError);
  options = {};
  options.temperature = -1;
  EXPECT_THROW((void)generate(*model, {1}, options), ConfigError);
  options = {};
  options.top_p = 1.5;
  EXPECT_THROW((void)generate(*model, {1}, options), ConfigError);
  options = {};
  options.repetition_penalty = 0;
  EXPECT_THROW((void)generate(*model, {1}, options), ConfigError);
}

}  // namespace
}  // namespace bitrain::models
