#include <bitrain/text/training_text.h>

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain::text {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;
using namespace std::string_literals;

struct Result {
  std::vector<std::string> parts;
  std::string changes;
  std::int64_t lines = 0;
};

Result take(const std::vector<std::string>& lines, const TrainingTextRules& rules = {}) {
  const NextLine next = lines_of(lines);
  TrainingText text(next, rules);
  Result result;
  for (std::string part; text.next(part);) result.parts.push_back(part);
  result.changes = text.changes();
  result.lines = text.lines();
  return result;
}

TEST(TrainingText, LinesThatFitAreTakenAsTheyAre) {
  const Result result = take({"one two", "", "  ", "tab\tand \u2581", "\u2584\u2586"});
  EXPECT_THAT(result.parts, ElementsAre("one two", "  ", "tab\tand \u2581", "\u2584\u2586"));
  EXPECT_EQ(result.lines, 5);
  EXPECT_EQ(result.changes, "");
}

TEST(TrainingText, LinesAreCutAroundReservedCharacters) {
  const Result result = take({"a\u2585b", "\u2585\u2585c d\u2585", "x\0y\0\0z"s, "\u2585", "\0"s, "plain"});
  EXPECT_THAT(result.parts, ElementsAre("a", "b", "c d", "x", "y", "z", "plain"));
  EXPECT_THAT(result.changes, AllOf(HasSubstr("of 6 lines"), HasSubstr("5 held U+2585 or NUL")));
}

TEST(TrainingText, LongLinesAreCutAtSpaces) {
  TrainingTextRules rules;
  rules.max_bytes = 16;
  const Result result = take({"0123456789 abcdef", "0123456789abcdef", "aa bb cc dd ee ff gg"}, rules);
  EXPECT_THAT(result.parts,
              ElementsAre("0123456789", "abcdef", "0123456789abcdef", "aa bb cc dd ee", "ff gg"));
  EXPECT_THAT(result.changes, AllOf(HasSubstr("of 3 lines"), HasSubstr("2 were longer than 16 bytes")));
  rules.spaces_begin_words = false;  // Then nothing puts the space back.
  EXPECT_THAT(take({"0123456789 abcdef"}, rules).parts, ElementsAre("0123456789", " abcdef"));
}

TEST(TrainingText, NoByteIsLost) {
  TrainingTextRules rules;
  rules.max_bytes = 16;
  rules.spaces_begin_words = false;
  for (const std::string& line : {"                                        "s,
                                  "\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"s,
                                  "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22\u0e44\u0e21\u0e48\u0e21\u0e35"s,
                                  "\U0001F469\U0001F469\U0001F469\U0001F469\U0001F469 a \U0001F469"s,
                                  "a  b                  c  0123456789abcdefghi   "s}) {
    const Result result = take({line}, rules);
    std::string joined;
    for (const std::string& part : result.parts) {
      EXPECT_LE(part.size(), 16U);
      EXPECT_FALSE(part.empty());
      joined += part;
    }
    EXPECT_EQ(joined, line);
    EXPECT_GT(result.parts.size(), 1U);
  }
}

TEST(TrainingText, ACutSpaceIsTheOneThatTheTrainerPutsBack) {
  TrainingTextRules rules;
  rules.max_bytes = 16;
  const Result result = take({"0123456789abc   defghi"}, rules);
  // "▁0123456789abc▁▁" and "▁defghi" together are what the trainer would make of the line.
  EXPECT_THAT(result.parts, ElementsAre("0123456789abc  ", "defghi"));
}

TEST(TrainingText, LongWordsAreCutBetweenCharacters) {
  TrainingTextRules rules;
  rules.max_word = 3;
  const Result result = take({"ab abc abcd", "\u0e01\u0e02\u0e03\u0e04", "    a"}, rules);
  EXPECT_THAT(result.parts, ElementsAre("ab ab", "c ab", "cd", "\u0e01\u0e02\u0e03", "\u0e04", "   ", "a"));
  EXPECT_THAT(result.changes, HasSubstr("had more than 3 characters between two spaces"));
}

TEST(TrainingText, BlankLinesMayBeNoText) {
  TrainingTextRules rules;
  rules.blanks_are_text = false;
  EXPECT_THAT(take({"   ", "\t\t", "\u3000\u200b", "\x01\x02"}, rules).parts, IsEmpty());
  EXPECT_THAT(take({"   ", " a "}, rules).parts, ElementsAre(" a "));
}

TEST(TrainingText, ManyReservedCharactersTakeLinearTime) {
  const Result result = take({std::string(1 << 22, '\0') + "end"});
  EXPECT_THAT(result.parts, ElementsAre("end"));
}

TEST(TrainingText, BytesThatAreNoTextAreNamed) {
  EXPECT_THAT([] { take({"good", "b\xFFx"}); }, ThrowsMessage<DataError>("line 2: byte 2 is not UTF-8"));
}

}  // namespace
}  // namespace bitrain::text
