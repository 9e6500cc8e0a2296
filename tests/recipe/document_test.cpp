#include <bitrain/recipe/document.h>

#include <fstream>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

#include "support/temporary_directory.h"

namespace bitrain::recipe {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const ConfigError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no ConfigError";
  return "";
}

std::string parse_error(const std::string& text) {
  return message_of([&] { (void)parse_yaml(text, "r.yaml"); });
}

std::string override_error(const std::string& text, const std::string& assignment) {
  Node root = parse_yaml(text, "r.yaml");
  return message_of([&] { apply_override(root, assignment); });
}

TEST(Document, KeepsPlacesAndOrder) {
  const Node root = parse_yaml("b: 1\na:\n  inner: [x, y]\n", "r.yaml");
  ASSERT_EQ(root.kind, Node::Kind::kMap);
  ASSERT_EQ(root.members.size(), 2U);
  EXPECT_EQ(root.members[0].key, "b");
  EXPECT_EQ(root.find("b")->mark.text(), "r.yaml:1:1");
  const Node* inner = root.find("a")->find("inner");
  ASSERT_NE(inner, nullptr);
  EXPECT_EQ(inner->mark.text(), "r.yaml:3:3");
  ASSERT_EQ(inner->items.size(), 2U);
  EXPECT_EQ(inner->items[1].scalar, "y");
  EXPECT_EQ(inner->items[1].mark.text(), "r.yaml:3:14");
  EXPECT_EQ(root.find("missing"), nullptr);
}

TEST(Document, ScalarsKeepTheirSpelling) {
  const Node root = parse_yaml("a: no\nb: 1e-4\nc: 1_000\nd: 'null'\ne: null\nf: ~\ng:\nh: ''\n", "r.yaml");
  EXPECT_EQ(root.find("a")->scalar, "no");
  EXPECT_EQ(root.find("b")->scalar, "1e-4");
  EXPECT_EQ(root.find("c")->scalar, "1_000");
  EXPECT_EQ(root.find("d")->kind, Node::Kind::kScalar);
  EXPECT_EQ(root.find("d")->scalar, "null");
  for (const char* nothing : {"e", "f", "g"})
    EXPECT_EQ(root.find(nothing)->kind, Node::Kind::kNull) << nothing;
  EXPECT_EQ(root.find("h")->kind, Node::Kind::kScalar);
}

TEST(Document, DescribesWhatStandsThere) {
  const Node root = parse_yaml("a: [1]\nb: {c: 1}\nc:\nd: word\n", "r.yaml");
  EXPECT_EQ(root.find("a")->describe(), "a list");
  EXPECT_EQ(root.find("b")->describe(), "a map");
  EXPECT_EQ(root.find("c")->describe(), "nothing");
  EXPECT_EQ(root.find("d")->describe(), "'word'");
}

TEST(Document, AnEmptyTextIsNothing) {
  EXPECT_EQ(parse_yaml("", "r.yaml").kind, Node::Kind::kNull);
  EXPECT_EQ(parse_yaml("# only a remark\n", "r.yaml").kind, Node::Kind::kNull);
}

TEST(Document, AliasesAreFollowed) {
  const Node root = parse_yaml("a: &side {path: x}\nb: *side\n", "r.yaml");
  ASSERT_NE(root.find("b")->find("path"), nullptr);
  EXPECT_EQ(root.find("b")->find("path")->scalar, "x");
}

TEST(Document, BadYamlIsNamedWithItsPlace) {
  EXPECT_THAT(parse_error("a: 1\nb: [1, 2\nc: 3\n"), StartsWith("r.yaml:3:"));
  EXPECT_THAT(parse_error("a: 1\n\tb: 2\n"), StartsWith("r.yaml:2:"));
  EXPECT_THAT(parse_error("a: *nobody\n"), StartsWith("r.yaml:1:4"));
}

TEST(Document, KeysAreUniqueAndPlain) {
  EXPECT_EQ(parse_error("a: 1\nb: 2\na: 3\n"), "r.yaml:3:1: a: this key is there already");
  EXPECT_THAT(parse_error("x:\n  a: 1\n  a: 2\n"), StartsWith("r.yaml:3:3: a:"));
  EXPECT_THAT(parse_error("? [x]\n: 1\n"), HasSubstr("a key must be a plain word"));
}

TEST(Document, BytesThatAreNoText) {
  EXPECT_EQ(parse_error("ok: 1\nb: \xff\xfe\n"), "r.yaml:2:4: not UTF-8: save the recipe as UTF-8");
  EXPECT_THAT(parse_error("ok: 1\n\x04"), StartsWith("r.yaml:2:1: a control character"));
  EXPECT_THAT(parse_error(std::string("a: 1\0", 5)), StartsWith("r.yaml:1:5: a control character"));
  EXPECT_EQ(parse_yaml("a:\tñ\r\n", "r.yaml").find("a")->scalar, "ñ");
}

TEST(Document, OneDocumentOnly) {
  EXPECT_THAT(parse_error("a: 1\n---\nb: 2\n"), HasSubstr("more than one YAML document"));
  EXPECT_EQ(parse_yaml("---\na: 1\n", "r.yaml").members.size(), 1U);
  EXPECT_EQ(parse_yaml("a: 1\n...\n# end\n", "r.yaml").members.size(), 1U);
}

// yaml-cpp's parser makes no step at these: reading document after document would never end.
TEST(Document, StrayCommas) {
  EXPECT_THAT(parse_error(", a: 1\n"), HasSubstr("text after its end"));
  EXPECT_THAT(parse_error("[1] , 2\n"), HasSubstr("text after its end"));
}

TEST(Document, NestingHasAnEnd) {
  const auto brackets = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(parse_yaml(brackets(60), "r.yaml").kind, Node::Kind::kList);
  // The three ways to go deep: caught after parsing, by brackets, by dashes, by indentation.
  for (const int depth : {70, 300, 100'000})
    EXPECT_THAT(parse_error(brackets(depth)), HasSubstr("nested deeper than 64")) << depth;
  std::string dashes;
  for (int i = 0; i < 50'000; ++i) dashes += "- ";
  EXPECT_THAT(parse_error(dashes + "x"), HasSubstr("nested deeper than 64"));
  std::string indented;
  for (int i = 0; i < 600; ++i) indented += std::string(i, ' ') + "a:\n";
  EXPECT_THAT(parse_error(indented), StartsWith("r.yaml"));
}

TEST(Document, AliasesDoNotExplode) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before;
    for (int k = 0; k < 8; ++k) bomb += ", " + before;
    bomb += "]\n";
  }
  EXPECT_THAT(parse_error(bomb), HasSubstr("do aliases repeat one another?"));
  EXPECT_THAT(parse_error("&a [*a]\n"), StartsWith("r.yaml:1:"));
}

TEST(Document, LoadsFilesUnderTheirName) {
  const test::TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "mine.yaml";
  std::ofstream(path) << "a: 1\na: 2\n";
  EXPECT_THAT(message_of([&] { (void)load_yaml(path); }), StartsWith(path.string() + ":2:1"));
  EXPECT_THROW((void)load_yaml(directory.path() / "none.yaml"), IoError);
}

TEST(Override, ReplacesAndMakesMaps) {
  Node root = parse_yaml("a: {b: 1, c: 2}\nempty:\n", "r.yaml");
  apply_override(root, "a.b=3");
  EXPECT_EQ(root.find("a")->find("b")->scalar, "3");
  EXPECT_EQ(root.find("a")->find("b")->mark.text(), "on the command line");
  EXPECT_EQ(root.find("a")->find("c")->scalar, "2");
  apply_override(root, "x.y.z=deep");
  EXPECT_EQ(root.find("x")->find("y")->find("z")->scalar, "deep");
  apply_override(root, "empty.k=v");
  EXPECT_EQ(root.find("empty")->find("k")->scalar, "v");
  apply_override(root, "a=");
  EXPECT_EQ(root.find("a")->kind, Node::Kind::kNull);
}

TEST(Override, ListsMapsAndQuotedTextsAreYaml) {
  Node root = parse_yaml("a: 1\n", "r.yaml");
  apply_override(root, "w={source: 1, target: 2}");
  EXPECT_EQ(root.find("w")->find("target")->scalar, "2");
  apply_override(root, "l=[p, q]");
  EXPECT_EQ(root.find("l")->items.at(1).scalar, "q");
  apply_override(root, "text=a=b");
  EXPECT_EQ(root.find("text")->scalar, "a=b");
}

TEST(Override, OtherTextsStayAsTheyWereTyped) {
  for (const std::string text :
       {"/x/out #2", "&a b", "*a", "!tag b", "a: b", "- a", "| a",   "> a",  "%a",          "@a",
        "`a`",       "a, b", "#1", "? a",    "no",   "1e4", "C:\\x", "a\tb", "a 'b' \"c\"", "ñ ~"}) {
    Node root = parse_yaml("dir: 1\n", "r.yaml");
    apply_override(root, "dir=" + text);
    ASSERT_EQ(root.find("dir")->kind, Node::Kind::kScalar) << text;
    EXPECT_EQ(root.find("dir")->scalar, text);
  }
  for (const std::string nothing : {"", " ", "~", "null"}) {
    Node root = parse_yaml("dir: 1\n", "r.yaml");
    apply_override(root, "dir=" + nothing);
    EXPECT_EQ(root.find("dir")->kind, Node::Kind::kNull) << nothing;
  }
  Node root = parse_yaml("dir: 1\n", "r.yaml");
  apply_override(root, "dir=\"null\"");
  EXPECT_EQ(root.find("dir")->scalar, "null");
  EXPECT_THAT(override_error("a: 1\n", "a=\xff"), HasSubstr("not UTF-8"));
  EXPECT_THAT(override_error("a: 1\n", "a=x\x1b[1m"), HasSubstr("a control character"));
}

TEST(Override, BadOnes) {
  for (const char* bad : {"nonsense", "=1", ""})
    EXPECT_THAT(override_error("a: 1\n", bad), HasSubstr("is no override")) << bad;
  EXPECT_THAT(override_error("a: 1\n", "a..b=1"), HasSubstr("an empty key"));
  EXPECT_THAT(override_error("a: 1\n", ".a=1"), HasSubstr("an empty key"));
  EXPECT_THAT(override_error("a: word\n", "a.b=1"), HasSubstr("'word' stands where 'b' should be"));
  EXPECT_THAT(override_error("a: [1]\n", "a.b=1"), HasSubstr("a list stands where 'b' should be"));
  EXPECT_THAT(override_error("a: 1\n", "a=[1, 2"), StartsWith("on the command line:"));
}

TEST(ProblemsTest, AllAtOnce) {
  Problems problems;
  EXPECT_NO_THROW(problems.raise());
  problems.add({"r.yaml", 2, 3}, "a.b", "is wrong");
  EXPECT_EQ(message_of([&] { problems.raise(); }), "r.yaml:2:3: a.b: is wrong");
  problems.add({"on the command line", 0, 0}, "", "also");
  EXPECT_EQ(message_of([&] { problems.raise(); }),
            "2 problems:\n  r.yaml:2:3: a.b: is wrong\n  on the command line: also");
}

// Found by fuzzing: yaml-cpp's LoadAll never came back from these.
TEST(Document, DamagedTextEndsInAnError) {
  for (const std::string& text :
       {std::string("&a\0\0*a,a, b]", 13), std::string(", train: {x: 1}}\n  c: {y: [\"x\", 'y']}\n"),
        std::string("a: \x01"), std::string("a: \xff\xfe")})
    EXPECT_THROW((void)parse_yaml(text, "x.yaml"), ConfigError) << text;
}

TEST(Document, SizeHasAnEndBeforeItIsBuilt) {
  std::string list = "a: [";
  for (int i = 0; i < 500'000; ++i) list += "1,";
  EXPECT_THAT(parse_error(list + "1]"), HasSubstr("more than 200000 values"));
  EXPECT_THAT(parse_error("a: " + std::string(std::size_t{5} << 20, '9')),
              HasSubstr("r.yaml: a recipe of 5.0 MiB; the most is 4.0 MiB"));
}

TEST(Document, ManyKeysAreReadInOneGo) {
  std::string text;
  for (int i = 0; i < 60'000; ++i) text += "key" + std::to_string(i) + ": 1\n";
  EXPECT_EQ(parse_yaml(text, "r.yaml").members.size(), 60'000U);
  EXPECT_THAT(parse_error(text + "key17: 2\n"),
              HasSubstr("r.yaml:60001:1: key17: this key is there already"));
}

TEST(ProblemsTest, ThousandsAreNotAllShown) {
  Problems problems;
  for (int i = 0; i < 60'000; ++i) problems.add({"r.yaml", i + 1, 1}, "key", "there is no such key");
  const std::string message = message_of([&] { problems.raise(); });
  EXPECT_THAT(message, StartsWith("60000 problems:"));
  EXPECT_THAT(message, HasSubstr("r.yaml:50:1"));
  EXPECT_THAT(message, HasSubstr("and 59950 more"));
  EXPECT_LT(message.size(), 4000U);
}

}  // namespace
}  // namespace bitrain::recipe
