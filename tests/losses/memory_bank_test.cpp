#include <bitrain/losses/memory_bank.h>

#include <cmath>
#include <map>

#include <gtest/gtest.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <bitrain/base/error.h>

#include "support/gradcheck.h"

namespace bitrain::losses {
namespace {

/// [n, 2] embeddings (number, -number), so that each can be told.
at::Tensor numbered(std::int64_t first, std::int64_t n) {
  const at::Tensor numbers = at::arange(first, first + n).to(at::kFloat).unsqueeze(1);
  return numbers * at::tensor(std::vector<float>{1, -1});
}

std::vector<int> numbers(const LanguageMemoryBank& bank, std::int32_t language) {
  const at::Tensor rows = bank.candidates(language);
  std::vector<int> found;
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    EXPECT_EQ(rows[i][0].item<float>(), -rows[i][1].item<float>());
    found.push_back(static_cast<int>(rows[i][0].item<float>()));
  }
  return found;
}

using Numbers = std::vector<int>;

TEST(LanguageMemoryBank, KeepsTheNewestOfEachLanguageOldestFirst) {
  LanguageMemoryBank bank(3, 4, 2);
  EXPECT_EQ(bank.candidates(0).sizes(), at::IntArrayRef({0, 2}));
  bank.push(numbered(0, 3), {1, 0, 1});
  EXPECT_EQ(numbers(bank, 0), Numbers({1}));
  EXPECT_EQ(numbers(bank, 1), Numbers({0, 2}));
  bank.push(numbered(10, 4), {1, 1, 0, 1});
  EXPECT_EQ(numbers(bank, 0), Numbers({1, 12}));
  EXPECT_EQ(numbers(bank, 1), Numbers({2, 10, 11, 13}));
  bank.push(numbered(20, 7), {1, 1, 1, 1, 1, 1, 0});  // More than fit.
  EXPECT_EQ(numbers(bank, 0), Numbers({1, 12, 26}));
  EXPECT_EQ(numbers(bank, 1), Numbers({22, 23, 24, 25}));
  EXPECT_EQ(bank.size(1), 4);
  EXPECT_EQ(bank.size(2), 0);
}

// Against a plain list, over many pushes of every size.
TEST(LanguageMemoryBank, EqualsAList) {
  for (const std::int64_t capacity : {1, 5, 8}) {
    LanguageMemoryBank bank(2, capacity, 2);
    std::vector<Numbers> wanted(2);
    std::int32_t next = 0;
    for (std::int32_t push = 0; push < 40; ++push) {
      std::vector<std::int32_t> languages;
      const std::int32_t count = push * 7 % 11;
      for (std::int32_t i = 0; i < count; ++i) languages.push_back((push + i * i) % 3 == 0 ? 1 : 0);
      bank.push(numbered(next, count), languages);
      for (std::int32_t i = 0; i < count; ++i) {
        Numbers& own = wanted[languages[i]];
        own.push_back(next + i);
        if (static_cast<std::int64_t>(own.size()) > capacity) own.erase(own.begin());
      }
      next += count;
      for (const std::int32_t language : {0, 1}) ASSERT_EQ(numbers(bank, language), wanted[language]);
    }
  }
}

TEST(LanguageMemoryBank, HasNoGradientAndCopiesOut) {
  LanguageMemoryBank bank(1, 2, 2);
  const at::Tensor embeddings = numbered(1, 2).requires_grad_();
  bank.push(embeddings * 2, {0, 0});
  const at::Tensor before = bank.candidates(0);
  EXPECT_FALSE(before.requires_grad());
  const at::Tensor query = at::ones({2}).requires_grad_();
  const auto gradients =
      torch::autograd::grad({(before * query).sum() + embeddings.sum()}, {embeddings, query});
  EXPECT_TRUE(gradients[0].equal(at::ones({2, 2})));  // From the second term alone.
  bank.push(numbered(7, 2), {0, 0});
  EXPECT_TRUE(before.equal(numbered(1, 2) * 2));
  before.zero_();
  EXPECT_EQ(numbers(bank, 0), Numbers({7, 8}));
}

TEST(LanguageMemoryBank, GoesOnFromItsState) {
  LanguageMemoryBank bank(3, 4, 2);
  bank.push(numbered(0, 9), {0, 0, 2, 0, 0, 2, 0, 0, 0});
  std::map<std::string, at::Tensor> saved;
  for (const auto& [name, tensor] : bank.state()) saved[name] = tensor;
  EXPECT_EQ(saved.size(), 2);
  const auto lookup = [&](const std::string& name) {
    const auto found = saved.find(name);
    return found == saved.end() ? std::nullopt : std::optional<at::Tensor>(found->second);
  };
  LanguageMemoryBank resumed(3, 4, 2);
  resumed.push(numbered(50, 1), {1});  // Gives way to the state.
  resumed.load_state(lookup);
  for (LanguageMemoryBank* each : {&bank, &resumed}) each->push(numbered(20, 3), {0, 2, 1});
  for (const std::int32_t language : {0, 1, 2})
    EXPECT_EQ(numbers(resumed, language), numbers(bank, language));

  LanguageMemoryBank narrow(3, 2, 2);
  narrow.push(numbered(50, 1), {1});
  EXPECT_THROW(narrow.load_state(lookup), StateError);
  EXPECT_EQ(numbers(narrow, 1), Numbers({50}));
  LanguageMemoryBank wide(3, 4, 5);
  EXPECT_THROW(wide.load_state(lookup), StateError);
}

TEST(LanguageMemoryBank, RefusesBadInput) {
  EXPECT_THROW(LanguageMemoryBank(0, 1, 1), ConfigError);
  EXPECT_THROW(LanguageMemoryBank(1, 0, 1), ConfigError);
  EXPECT_THROW(LanguageMemoryBank(1, 1, 0), ConfigError);
  LanguageMemoryBank bank(2, 4, 2);
  EXPECT_THROW(bank.push(numbered(0, 2), {0, 2}), DataError);
  EXPECT_THROW(bank.push(numbered(0, 2), {-1, 0}), DataError);
  EXPECT_THROW(bank.push(numbered(0, 2), {0}), StateError);
  EXPECT_THROW(bank.push(at::zeros({2, 3}), {0, 0}), StateError);
  EXPECT_THROW(bank.push({}, {}), StateError);
  at::Tensor broken = numbered(0, 2);
  broken[1][0].fill_(std::nan(""));
  EXPECT_THROW(bank.push(broken, {0, 0}), DataError);
  EXPECT_EQ(bank.size(0), 0);  // Nothing of a refused batch stays.
  EXPECT_THROW((void)bank.candidates(2), DataError);
  EXPECT_THROW((void)bank.size(-1), DataError);
}

}  // namespace
}  // namespace bitrain::losses
