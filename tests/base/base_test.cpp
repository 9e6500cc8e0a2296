#include <algorithm>
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <bitrain/base/registry.h>
#include <bitrain/base/rng.h>
#include <bitrain/base/strings.h>

namespace bitrain {
namespace {

// Known-answer tests of Random123 (Salmon et al.), file kat_vectors, philox4x32 with 10 rounds.
TEST(Philox, GivesThePublishedVectors) {
  using Block = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32(~0ULL, ~0ULL, ~0ULL), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32(0x299f31d0a4093822ULL, 0x0370734413198a2eULL, 0x85a308d3243f6a88ULL),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, IsAFunctionOfSeedPurposeAndIndex) {
  RandomStream a(7, "mixture", 3);
  RandomStream b(7, "mixture", 3);
  RandomStream other_index(7, "mixture", 4);
  RandomStream other_purpose(7, "dropout", 3);
  const std::uint64_t first = a.next_u64();
  EXPECT_EQ(first, b.next_u64());
  EXPECT_NE(first, other_index.next_u64());
  EXPECT_NE(first, other_purpose.next_u64());
}

TEST(RandomStream, DrawsHaveTheRightMoments) {
  RandomStream stream(1, "moments");
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = stream.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 4 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 4 * std::sqrt(2.0 / kDraws));
  std::array<int, 3> counts{};
  for (int i = 0; i < kDraws; ++i) ++counts[stream.choice({1, 0, 3})];
  EXPECT_EQ(counts[1], 0);
  EXPECT_NEAR(counts[0], kDraws / 4.0, 4 * std::sqrt(kDraws * 0.1875));
}

TEST(PermuteIndex, IsAPermutationForEverySize) {
  for (const std::uint64_t size : {1U, 2U, 3U, 5U, 16U, 17U, 1000U}) {
    std::set<std::uint64_t> seen;
    bool moved = false;
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t at = permute_index(99, size, i);
      EXPECT_LT(at, size);
      moved |= at != i;
      seen.insert(at);
    }
    EXPECT_EQ(seen.size(), size);
    EXPECT_TRUE(moved || size <= 4);
  }
}

TEST(Strings, NamesTheNearestAndStaysSilentWhenNothingIsNear) {
  EXPECT_EQ(closest_name("learning_rte", {"learning_rate", "warmup"}), "learning_rate");
  EXPECT_EQ(closest_name("zzzzzz", {"learning_rate", "warmup"}), "");
}

TEST(Strings, FindsTheFirstInvalidByte) {
  EXPECT_EQ(find_invalid_utf8("plain, ñ, 한, 😀"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("ab\xff"), 2U);
  EXPECT_EQ(find_invalid_utf8("a\xc0\xaf"), 1U);     // overlong
  EXPECT_EQ(find_invalid_utf8("\xed\xa0\x80"), 0U);  // surrogate
  EXPECT_EQ(find_invalid_utf8("\xe4\xbd"), 0U);      // cut short
}

TEST(Strings, FormatsForPeople) {
  EXPECT_EQ(with_thousands(1234567), "1,234,567");
  EXPECT_EQ(with_thousands(-12), "-12");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_seconds(3723), "1:02:03");
}

TEST(Registry, ListsNamesAndTheNearest) {
  Registry<int()> registry("schedule");
  registry.add("cosine", [] { return 1; });
  EXPECT_EQ(registry.get("cosine")(), 1);
  EXPECT_THROW(registry.add("cosine", [] { return 2; }), ConfigError);
  try {
    (void)registry.get("cosin");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'cosine'"), std::string::npos);
  }
}

TEST(Batch, HoldsSegmentsWithoutPadding) {
  const Batch batch = make_batch({{1, 2, 3}, {4, 5}}, {{2, 3, -100}, {5, -100}}, {0, 1});
  EXPECT_EQ(batch.tokens(), 5);
  EXPECT_EQ(batch.segments(), 2);
  EXPECT_EQ(batch.longest_segment(), 3);
  EXPECT_EQ(batch.position_ids.const_data_ptr<std::int64_t>()[3], 0);
  EXPECT_THROW(make_batch({{1}}, {{}}), DataError);
  EXPECT_THROW(make_batch({{}}, {{}}), DataError);
}

TEST(Error, CarriesKindAndContext) {
  try {
    try {
      throw DataError("row ", 3, " has no text");
    } catch (Error& error) {
      error.add_context("file.tsv");
      throw;
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_STREQ(error.what(), "file.tsv: row 3 has no text");
  }
}

}  // namespace
}  // namespace bitrain
