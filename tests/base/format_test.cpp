#include <bitrain/base/format.h>

#include <sstream>

#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/strings.h>

#include "support/comma_locale.h"

namespace bitrain {
namespace {

TEST(Format, WritesAsPrintf) {
  EXPECT_EQ(format("%.1f %s %5d|%g", 230.04, "x", 7, 1e-7), "230.0 x     7|1e-07");
  EXPECT_EQ(format("%s", std::string(1000, 'a').c_str()), std::string(1000, 'a'));
  EXPECT_EQ(format("%s", ""), "");
}

TEST(Format, TextsDoNotDependOnTheGlobalLocale) {
  const test::CommaLocale commas;
  std::ostringstream other;
  other << 1234567 << ' ' << 0.5;
  ASSERT_EQ(other.str(), "1.234.567 0,5");  // So a plain stream would write.
  EXPECT_EQ(to_text(1234567, ' ', 0.5, " x"), "1234567 0.5 x");
  EXPECT_STREQ(ConfigError("of ", 1234567, " at ", 0.25).what(), "of 1234567 at 0.25");
  EXPECT_EQ(human_seconds(1.25), "1.2 s");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
}

TEST(Strings, LowerAsciiLeavesOtherBytes) {
  EXPECT_EQ(lower_ascii("PiSSA_Niter_16 ÄI"), "pissa_niter_16 Äi");
}

}  // namespace
}  // namespace bitrain
