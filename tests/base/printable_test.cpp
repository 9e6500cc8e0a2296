#include <string>

#include <gtest/gtest.h>

#include <bitrain/base/log.h>
#include <bitrain/base/printable.h>

namespace bitrain {
namespace {

TEST(Printable, LeavesTextOfAllLanguagesAsItIs) {
  for (const char* text :
       {"plain", "a\nb\tc", "Größe, naïve, Ελληνικά", "한국어 日本語 中文", "हिन्दी \u200dक्ष",
        "\u0645\u062a\u0646 \u200f(RTL)\u200e", "👩‍👩‍👧 🏴", "\u00a0\u00ad\ufeff", ""})
    EXPECT_EQ(printable(text), text);
}

TEST(Printable, SpellsOutWhatATerminalWouldObey) {
  EXPECT_EQ(printable("\x1b[2Jclear"), "\\x1b[2Jclear");
  EXPECT_EQ(printable("ok\rerror"), "ok\\x0derror");
  EXPECT_EQ(printable("\a\b\x7f"), "\\x07\\x08\\x7f");
  EXPECT_EQ(printable(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\u009b31m"), "\\u009b31m");  // CSI in one character.
  EXPECT_EQ(printable("\u0085"), "\\u0085");
}

TEST(Printable, SpellsOutWhatTurnsTextRoundOrBreaksLines) {
  EXPECT_EQ(printable("a\u202etxt.exe"), "a\\u202etxt.exe");
  EXPECT_EQ(printable("\u2066\u2069\u202a\u202c"), "\\u2066\\u2069\\u202a\\u202c");
  EXPECT_EQ(printable("a\u2028b\u2029"), "a\\u2028b\\u2029");
}

TEST(Printable, SpellsOutBytesThatAreNoText) {
  EXPECT_EQ(printable("a\xff\xfe z"), "a\\xff\\xfe z");
  EXPECT_EQ(printable("\xc2"), "\\xc2");
  EXPECT_EQ(printable("\x9b"
                      "31m"),
            "\\x9b31m");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // A surrogate.
  EXPECT_EQ(printable("\xe2\x80"), "\\xe2\\x80");
}

TEST(Shortened, SaysHowMuchIsLeftOut) {
  EXPECT_EQ(shortened("abc", 3), "abc");
  EXPECT_EQ(shortened(std::string(100, 'a'), 3), "aaa... (97 bytes more)");
  EXPECT_EQ(shortened("a\u00e9\u00e9", 2), "a... (4 bytes more)");  // Never half a character.
  EXPECT_EQ(shortened("\xbf\xbf\xbf", 2), "... (3 bytes more)");
}

TEST(Printable, IsWhatTheLogWrites) {
  std::string said;
  const LogSink before = set_log_sink([&](LogLevel, const std::string& line) { said = line; });
  log_warn("the model '", "\x1b]0;owned\a\u202e", "' is\nnot there");
  set_log_sink(before);
  EXPECT_EQ(said, "the model '\\x1b]0;owned\\x07\\u202e' is\nnot there");
}

}  // namespace
}  // namespace bitrain
