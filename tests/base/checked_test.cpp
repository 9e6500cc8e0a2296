#include <cstdint>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/checked.h>

namespace bitrain {
namespace {

using ::testing::StrEq;
using ::testing::ThrowsMessage;

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

TEST(Checked, CountsWhatCanBeCounted) {
  EXPECT_EQ(checked_product<std::int64_t>({3, 5, 7}, "a * b * c"), 105);
  EXPECT_EQ(checked_product({kMost, std::int64_t{1}}, "a * b"), kMost);
  EXPECT_EQ(checked_sum({kMost - 1, std::int64_t{1}}, "a + b"), kMost);
}

TEST(Checked, NamesWhatCannot) {
  const auto says =
      ThrowsMessage<ConfigError>(StrEq("a and b is beyond what can be counted: lower one of them"));
  EXPECT_THAT([] { (void)checked_product({kMost, std::int64_t{2}}, "a and b"); }, says);
  EXPECT_THAT([] { (void)checked_sum({kMost, std::int64_t{1}}, "a and b"); }, says);
  EXPECT_THAT([] { (void)checked_sum<std::uint64_t>({~std::uint64_t{0}, 1}, "a and b"); }, says);
}

}  // namespace
}  // namespace bitrain
