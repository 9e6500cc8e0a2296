#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/io/json.h>
#include <bitrain/text/later_characters.h>
#include <bitrain/text/oniguruma.h>
#include <bitrain/text/pattern.h>
#include <bitrain/text/plain_expression.h>

namespace bitrain::text {
namespace {

using io::Json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::vector<Pattern::Range> found(const Pattern& pattern, std::string_view text) {
  std::vector<Pattern::Range> matches;
  pattern.find_all(text, matches);
  return matches;
}
std::vector<Pattern::Range> found(const std::string& expression, std::string_view text) {
  return found(Pattern(expression, "here"), text);
}

TEST(PlainExpression, TakesThePublishedOnes) {
  const char* const kPlain[] = {
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)",
      R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[一-龥぀-ゟ゠-ヿ]+)",
      "[a-]|[-a]|[^-a]|a{2}|a{2,}|a{2,3}?|(?:ab)+|(a)(?=b)|(?>a)b|[&a]",
  };
  for (const char* expression : kPlain) EXPECT_TRUE(is_plain_expression(expression)) << expression;
}

TEST(PlainExpression, LeavesOutWhatEnginesReadInTwoWays) {
  const char* const kOthers[] = {
      "",
      "a*",
      "|a",
      "a|",
      "a?",
      "(?=a)",
      R"(\h)",
      R"(\w)",
      R"(\b)",
      "[[:alpha:]]",
      "[a[b]]",
      "[a&&b]",
      "a{1,2}+",
      "a{2}?",
      "a{,2}",
      "a{3,1}",
      "a**",
      "a{1}{2}",
      "a{",
      "a{2000}",
      "(a?)+b",
      "(?=a)+b",
      "^a",
      "a$",
      ".",
      R"(\v)",
      R"(\R)",
      R"(\X)",
      R"(\Aa)",
      R"(\x{41})",
      R"(\u0041)",
      R"(\101)",
      R"(\p{Han})",
      R"(\p{^L})",
      R"(\pL)",
      R"([\S\s])",
      "(?i)a",
      "(?<=a)b",
      "(?<!a)b",
      "(?<n>a)",
      R"((a)\1)",
      "(?#a)b",
      "(?x:a)",
      "(*FAIL)",
      "[]a]",
      "[^]a]",
      "[a-b-c]",
      R"([a-\s])",
      "[b-a]",
      "[",
      "(",
      ")",
      "]",
      "a)",
      "(a",
      R"(\)",
      "[a",
      "[a-",
      R"([\)",
      "(?i:ss)",
      "(?i:st)",
      "(?i:ffi)",
      "(?i:s(?:s))",
      "(?i:[s]s)",
      "(?i:s?s)",
      "(?i:é)",
      R"((?i:\p{L}))",
      "(?i:[^s])",
      "(?i:[a-z])",
      R"(\p{L)",
      "{2}",
      R"(\Qa)",
  };
  for (const char* expression : kOthers) EXPECT_FALSE(is_plain_expression(expression)) << expression;
  EXPECT_FALSE(is_plain_expression(std::string(100, '(') + "a" + std::string(100, ')')));
  EXPECT_FALSE(is_plain_expression(std::string("a\0b", 3)));
}

TEST(Pattern, FindsWhatOnigurumaFinds) {
  EXPECT_THAT(found(R"(\h+)", "fox"), ElementsAre(Pair(0, 1)));
  EXPECT_THAT(found(R"(\p{N}{1,3}+)", "12345"), ElementsAre(Pair(0, 5)));
  EXPECT_THAT(found("[a-m[x]&&[^b]]+", "abxn"), ElementsAre(Pair(0, 1), Pair(2, 3)));
  EXPECT_THAT(found("[[:punct:]]+", "a$.b"), ElementsAre(Pair(1, 3)));
  EXPECT_THAT(found("[^[:punct:]]+", "a$.b"), ElementsAre(Pair(0, 1), Pair(3, 4)));
  EXPECT_THAT(found(R"(\R*x)", "\xC2\x85\r\nx"), ElementsAre(Pair(0, 5)));
  EXPECT_THAT(found(R"(\p{Word}+)", "\xC2\xB2"), ElementsAre(Pair(0, 2)));
  EXPECT_THAT(found("a{,2}b", "aaab"), ElementsAre(Pair(1, 4)));
  EXPECT_THAT(found("^b", "a\nb"), ElementsAre(Pair(2, 3)));
  EXPECT_THAT(found("[.a.]+", "b.a"),
              ElementsAre(Pair(1, 3)));  // PCRE2 takes "[.a.]" for a collating element.
}

TEST(Pattern, FindsTheSameInLongTexts) {
  for (const char* expression : {R"(\w+)", R"([a-z]+)", R"((?<=x)\w+(?= ))"}) {  // Both engines.
    const Pattern pattern{std::string(expression), "here"};
    for (const std::size_t words : {3U, 300U, 30'000U}) {
      std::string text;
      for (std::size_t i = 0; i < words; ++i) text += "xabcdefgh ";
      EXPECT_EQ(found(pattern, text).size(), words) << expression;
      EXPECT_EQ(found(pattern, "x" + std::string(words, 'y') + " ").size(), 1U) << expression;
    }
  }
}

TEST(Pattern, GoesThroughEmptyMatchesAsTokenizersDoes) {
  EXPECT_THAT(found("x*", "axx"), ElementsAre(Pair(0, 0), Pair(1, 3)));
  EXPECT_THAT(found("x*", "é"), ElementsAre(Pair(0, 0), Pair(2, 2)));
  EXPECT_THAT(found("x*", ""), ElementsAre());
  EXPECT_THAT(found(Pattern(Json{{"String", ""}}, "here"), "aé"),
              ElementsAre(Pair(0, 0), Pair(1, 1), Pair(3, 3)));
  EXPECT_THAT(found(Pattern(Json{{"String", "a"}}, "here"), "aab"), ElementsAre(Pair(0, 1), Pair(1, 2)));
}

TEST(Pattern, TakesTheMongolianSeparatorForNoBlank) {
  EXPECT_THAT(found(R"(\s+)", "a\xE1\xA0\x8E b"), ElementsAre(Pair(4, 5)));
  EXPECT_THAT(found(R"([^\s]+)", "\xE1\xA0\x8E "), ElementsAre(Pair(0, 3)));
}

TEST(Pattern, KnowsCharactersOfUnicode16) {
  EXPECT_THAT(found(R"(\p{L}+)", "\xF0\x90\xB5\x90."), ElementsAre(Pair(0, 4)));        // Garay.
  EXPECT_THAT(found(R"([[:alpha:]]+)", "\xF0\xB1\x8D\x90."), ElementsAre(Pair(0, 4)));  // Han.
  EXPECT_THROW(static_cast<void>(found("[\xF0\x90\xB5\x90]", "\xF0\x90\xB5\x90")), DataError);
  const Pattern script(std::string(R"(\p{Latin}+)"), "here");
  EXPECT_THROW(static_cast<void>(found(script, "a\xF0\x9E\x80\xB0")), DataError);  // Cyrillic U+1E030.
}

std::string message_of(const std::string& expression) {
  try {
    const Pattern pattern(std::string(expression), "here");
  } catch (const UnsupportedError& error) {
    return error.what();
  }
  return "none";
}

TEST(Pattern, NamesWhatItDoesNotTake) {
  const std::pair<std::string, const char*> refused[] = {
      {R"(\Ga)", R"('\G')"},
      {R"(a\K)", R"('\K')"},
      {R"((?<n>a\g<n>?))", R"('\g')"},
      {R"(\ya)", R"('\y')"},
      {"(?{a})", "a callout"},
      {"(*FAIL)", "a callout"},
      {"(a)?(?(1)b)", "a condition"},
      {"(?L)a", "the option 'L'"},
      {"(?x)a # b", "comments of the extended mode"},
      {R"(\p{Age=6.0})", "the property 'Age=6.0'"},
      {R"([\p{In_Thai}])", "the property 'In_Thai'"},
      {R"(\p{})", "the property ''"},
      {R"(\pL)", "without braces"},
      {R"(\p{L)", "without an end"},
      {"[[:foo:]]", "without the name of a class"},
      {"[[:punct", "without the name of a class"},
      {"(?P:[[:punct:]])", "where an option makes them ASCII"},
      {R"(\ca)", "a control character"},
      {"(a", "here: the expression '(a' is not supported: "},
      {"[a", "here: the expression '[a' is not supported: "},
      {"*", "here: the expression '*' is not supported: "},
      {std::string(5000, 'a'), "5000 bytes"},
  };
  for (const auto& [expression, why] : refused) EXPECT_THAT(message_of(expression), HasSubstr(why));
  std::string nested;
  for (int i = 0; i < 500; ++i) nested = "(" + nested + ".)";
  EXPECT_THAT(message_of(nested), HasSubstr("too many groups"));
  EXPECT_THAT(message_of(std::string(300, '[') + "a" + std::string(300, ']')),
              HasSubstr("nested too deeply"));
}

TEST(Pattern, EndsRunawayExpressions) {
  for (const char* expression : {"(a+)+$", "(?:a|a)+$", R"((?:a+\s?)+$)"}) {
    const Pattern pattern(std::string(expression), "here");
    EXPECT_THROW(static_cast<void>(found(pattern, std::string(3000, 'a') + "d")), DataError) << expression;
  }
}

TEST(Oniguruma, RewordsWhatVersionsReadInTwoWays) {
  const auto reworded = [](std::string_view expression) {
    return in_words_of_all_versions(expression, "here");
  };
  EXPECT_EQ(reworded("[[:punct:]a]"), R"([\p{P}\p{S}a])");
  EXPECT_EQ(reworded("[[:^punct:]a]"), R"([[^\p{P}\p{S}]a])");
  EXPECT_EQ(reworded("[:punct:]"), "[:punct:]");  // A set of letters.
  EXPECT_EQ(reworded(R"(\p{Word}\P{ w_o-rd }\p{^word}\P{^Word})"), R"(\w\W\W\w)");
  EXPECT_EQ(reworded(R"([\R])"), R"([\R])");
  EXPECT_EQ(reworded(R"((?#[:punct:] \) [)[[:alpha:]])"), R"((?#[:punct:] \) [)[[:alpha:]])");
  EXPECT_EQ(reworded(R"(\[[:alpha:]])"), R"(\[[:alpha:]])");
  EXPECT_EQ(reworded(R"([]\]a[b]]\R)"), R"([]\]a[b]](?>\x0D\x0A|[\x0A-\x0D\x{85}\x{2028}\x{2029}]))");
}

TEST(StandIns, HaveTheLengthOfWhatTheyStandFor) {
  const StandIns stand_ins(R"(\p{L}+)", StandIns::For::kOniguruma, "here");
  std::string text = "a\xC3\xA9";
  std::string buffer;
  EXPECT_EQ(stand_ins.apply(text, buffer).data(), text.data());
  for (const char* late : {"\xE0\xA2\x97", "\xF0\x90\xB5\x90", "\xF0\x9F\xA9\xB5", "\xCD\xA3"}) {
    text = std::string("12345678 a") + late + "\xC3\xA9 b";
    const std::string_view seen = stand_ins.apply(text, buffer);
    EXPECT_EQ(seen.size(), text.size());
    EXPECT_NE(seen, text);
    EXPECT_EQ(seen.substr(0, 10), text.substr(0, 10));
    EXPECT_EQ(seen.substr(seen.size() - 4), text.substr(text.size() - 4));
  }
}

TEST(StandIns, RefuseWhatTheExpressionTellsApart) {
  std::string buffer;
  const std::string text = "\xF0\x9F\xA9\xB5";  // U+1FA75.
  const auto apply = [&](const char* expression) {
    return StandIns(expression, StandIns::For::kOniguruma, "here").apply(text, buffer);
  };
  EXPECT_NO_THROW(static_cast<void>(apply(R"([\x{1F300}-\x{1FAFF}])")));
  EXPECT_THROW(static_cast<void>(apply(R"([\x{1FA75}-\x{1FA76}]|\p{S})")), DataError);
  EXPECT_THROW(static_cast<void>(apply("[\xF0\x9F\xA9\xB5-\xF0\x9F\xA9\xB6]")), DataError);
}

}  // namespace
}  // namespace bitrain::text
