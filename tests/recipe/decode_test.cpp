#include <bitrain/recipe/decode.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitrain::recipe {

struct Inner {
  std::int64_t count = 3;
  std::string mode = "slow";
};
template <class Visitor>
void visit_fields(Visitor& v, Inner& o) {
  v.field("count", o.count, in_range(1, 10), "How many.");
  v.field("mode", o.mode, one_of({"slow", "quick", "cosine"}), "How.");
}

struct Everything {
  bool flag = false;
  std::int64_t whole = 7;
  double number = 0.5;
  std::string text = "x";
  Inner inner;
  std::vector<std::string> list;
  std::vector<Inner> inners;
  std::optional<double> maybe = 1.0;
  std::map<std::string, double> weights;
  std::string needed;
};
template <class Visitor>
void visit_fields(Visitor& v, Everything& o) {
  v.field("flag", o.flag, any(), "A flag.");
  v.field("whole", o.whole, any(), "Whole.");
  v.field("number", o.number, above(0), "Above 0.");
  v.field("text", o.text, any(), "Text.");
  v.field("inner", o.inner, any(), "Nested.");
  v.field("list", o.list, not_empty(), "List.");
  v.field("inners", o.inners, any(), "Structs.");
  v.field("maybe", o.maybe, any(), "Maybe.");
  v.field("weights", o.weights, at_least(0), "Map.");
  v.field("needed", o.needed, required(not_empty()), "Needed.");
}

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Read {
  Everything value;
  std::vector<std::string> problems;
};

/// Reads the text as an Everything. `needed` is given unless the text is to be taken as it is.
Read read(const std::string& text, bool whole_text = false) {
  const Node node = parse_yaml(whole_text ? text : text + "\nneeded: n\n", "r.yaml");
  Problems problems;
  Read result;
  decode_to(node, "", any(), result.value, problems);
  for (const Problem& problem : problems.list()) result.problems.push_back(problem.text());
  return result;
}

TEST(Decode, EveryType) {
  const Read got = read(
      "flag: true\nwhole: -12\nnumber: 1e-4\ntext: word\ninner: {count: 4, mode: quick}\n"
      "list: [a, b]\ninners: [{count: 1}, {mode: cosine}]\nmaybe: 2.5\nweights: {es: 0.8, en: 1}");
  EXPECT_THAT(got.problems, IsEmpty());
  EXPECT_TRUE(got.value.flag);
  EXPECT_EQ(got.value.whole, -12);
  EXPECT_EQ(got.value.number, 1e-4);
  EXPECT_EQ(got.value.text, "word");
  EXPECT_EQ(got.value.inner.count, 4);
  EXPECT_EQ(got.value.inner.mode, "quick");
  EXPECT_THAT(got.value.list, ElementsAre("a", "b"));
  ASSERT_EQ(got.value.inners.size(), 2U);
  EXPECT_EQ(got.value.inners[0].count, 1);
  EXPECT_EQ(got.value.inners[1].count, 3);  // What is not written keeps its default.
  EXPECT_EQ(got.value.inners[1].mode, "cosine");
  EXPECT_EQ(got.value.maybe, 2.5);
  EXPECT_EQ(got.value.weights, (std::map<std::string, double>{{"en", 1}, {"es", 0.8}}));
}

TEST(Decode, WhatIsNotWrittenKeepsItsDefault) {
  const Read got = read("inner:");
  EXPECT_THAT(got.problems, IsEmpty());
  EXPECT_EQ(got.value.whole, 7);
  EXPECT_EQ(got.value.inner.count, 3);
  EXPECT_EQ(got.value.maybe, 1.0);
}

TEST(Decode, NoIsNorwegianWhereTextIsWanted) {
  EXPECT_EQ(read("text: no").value.text, "no");
  EXPECT_THAT(read("flag: no").problems, ElementsAre("r.yaml:1:1: flag: should be true or false, not 'no'"));
  EXPECT_THAT(read("flag: 1").problems, ElementsAre(HasSubstr("should be true or false, not '1'")));
}

TEST(Decode, WholeNumbers) {
  EXPECT_EQ(read("whole: 1_000_000").value.whole, 1'000'000);
  EXPECT_EQ(read("whole: -12_000").value.whole, -12'000);
  EXPECT_EQ(read("whole: +5").value.whole, 5);
  EXPECT_EQ(read("whole: -9223372036854775808").value.whole, INT64_MIN);
  for (const char* bad : {"1.5", "1e3", "wide", "9223372036854775808", "0x10", "+-5", "_", "1_0", "10_00",
                          "1_0000", "1__000", "_100", "1_000_", "''", "+", "1 2"}) {
    const Read got = read(std::string("whole: ") + bad);
    EXPECT_THAT(got.problems, ElementsAre(HasSubstr("whole: should be a whole number"))) << bad;
    EXPECT_EQ(got.value.whole, 7) << bad;
  }
}

TEST(Decode, Numbers) {
  EXPECT_EQ(read("number: 2").value.number, 2.0);
  EXPECT_EQ(read("number: .5").value.number, 0.5);
  EXPECT_EQ(read("number: +2.5e3").value.number, 2500.0);
  for (const char* bad : {"1,5", "fast", "inf", "nan", ".inf", "1e999", "+-5", "1e"}) {
    const Read got = read(std::string("number: ") + bad);
    EXPECT_THAT(got.problems, ElementsAre(HasSubstr("number: should be a number"))) << bad;
    EXPECT_EQ(got.value.number, 0.5) << bad;
  }
}

TEST(Decode, Ranges) {
  EXPECT_THAT(read("inner: {count: 1}").problems, IsEmpty());
  EXPECT_THAT(read("inner: {count: 10}").problems, IsEmpty());
  EXPECT_THAT(read("inner: {count: 0}").problems,
              ElementsAre("r.yaml:1:9: inner.count: must be at least 1 and at most 10, not 0"));
  EXPECT_THAT(read("inner: {count: 11}").problems, ElementsAre(HasSubstr("at most 10, not 11")));
  EXPECT_THAT(read("number: 0").problems, ElementsAre(HasSubstr("number: must be above 0, not 0")));
  EXPECT_THAT(read("weights: {es: -1}").problems, ElementsAre(HasSubstr("weights.es: must be at least 0")));
}

TEST(Decode, ChoicesNameTheNearest) {
  EXPECT_THAT(read("inner: {mode: cosin}").problems,
              ElementsAre("r.yaml:1:9: inner.mode: 'cosin' is none of slow, quick, cosine (did you mean "
                          "'cosine'?)"));
}

TEST(Decode, WrongShapes) {
  EXPECT_THAT(read("whole: [1]").problems, ElementsAre(HasSubstr("should be a whole number, not a list")));
  EXPECT_THAT(read("whole:").problems, ElementsAre(HasSubstr("should be a whole number, not nothing")));
  EXPECT_THAT(read("number: {a: 1}").problems, ElementsAre(HasSubstr("should be a number, not a map")));
  EXPECT_THAT(read("text: [a]").problems, ElementsAre(HasSubstr("should be text, not a list")));
  EXPECT_THAT(read("inner: 3").problems, ElementsAre(HasSubstr("inner: should be a map, not '3'")));
  EXPECT_THAT(read("list: {a: 1}").problems, ElementsAre(HasSubstr("list: should be a list, not a map")));
  EXPECT_THAT(read("weights: [1]").problems, ElementsAre(HasSubstr("weights: should be a map, not a list")));
  EXPECT_THAT(read("inners: [{count: 1}, 4]").problems,
              ElementsAre(HasSubstr("inners[1]: should be a map, not '4'")));
}

TEST(Decode, ListsAndOptionals) {
  EXPECT_THAT(read("list: all-linear").value.list, ElementsAre("all-linear"));
  EXPECT_THAT(read("list: []").problems, ElementsAre(HasSubstr("list: must not be empty")));
  const Read none = read("maybe: null");
  EXPECT_THAT(none.problems, IsEmpty());
  EXPECT_FALSE(none.value.maybe.has_value());
}

TEST(Decode, UnknownKeysNameTheNearest) {
  EXPECT_THAT(read("a_flag: 1\nwohle: 3\ninner: {cuont: 1}").problems,
              ElementsAre(HasSubstr("r.yaml:3:9: inner.cuont: there is no such key (did you mean 'count'?)"),
                          HasSubstr("r.yaml:1:1: a_flag: there is no such key"),
                          "r.yaml:2:1: wohle: there is no such key (did you mean 'whole'?)"));
}

TEST(Decode, RequiredKeys) {
  EXPECT_THAT(read("whole: 1", true).problems, ElementsAre(HasSubstr("needed: is missing")));
  EXPECT_THAT(read("needed: ''", true).problems, ElementsAre(HasSubstr("needed: must not be empty")));
  EXPECT_THAT(read("needed:", true).problems, ElementsAre(HasSubstr("needed: must not be empty")));
}

TEST(Decode, AllProblemsAtOnce) {
  const Read got = read("flag: maybe\nwhole: x\nnumber: -1\ninner: {count: 0, mode: z}\nextra: 1", true);
  EXPECT_EQ(got.problems.size(), 7U) << ::testing::PrintToString(got.problems);
}

TEST(ToJson, WritesEveryFieldAndReadsBack) {
  Everything value;
  value.inners = {{9, "quick"}};
  value.weights = {{"es", 0.25}};
  value.needed = "n";
  value.list = {"a"};
  value.maybe.reset();
  const io::Json json = to_json(value);
  std::vector<std::string> keys;
  for (const auto& [key, item] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, field_names<Everything>());
  EXPECT_TRUE(json["maybe"].is_null());
  const Read back = read(json.dump(), true);  // JSON is YAML.
  EXPECT_THAT(back.problems, IsEmpty());
  EXPECT_EQ(to_json(back.value), json);
}

}  // namespace
}  // namespace bitrain::recipe
