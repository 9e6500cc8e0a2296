#include <bitrain/fields/fields.h>

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/fields/check.h>

namespace bitrain::fields {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct File {
  std::string path;
  std::int64_t column = 1;
};
template <class Visitor>
void visit_fields(Visitor& v, File& o) {
  v.field("path", o.path, required(names_file()), "Path.");
  v.field("column", o.column, at_least(1), "Column.");
}
std::string& short_form(File& o) {
  return o.path;
}

struct Options {
  bool flag = true;
  std::int64_t rank = 8;
  double alpha = 16;
  std::string mode = "slow";
  File file;
  std::vector<File> files;
  std::optional<double> maybe;
  std::map<std::string, std::vector<std::int64_t>> groups = {{"b", {1}}, {"a", {2, 3}}};
};
template <class Visitor>
void visit_fields(Visitor& v, Options& o) {
  v.field("flag", o.flag, any(), "Flag.");
  v.field("rank", o.rank, at_least(1), "Rank.");
  v.field("alpha", o.alpha, above(0), "Alpha.");
  v.field("mode", o.mode, one_of({"slow", "quick"}), "Mode.");
  v.field("file", o.file, any(), "File.");
  v.field("files", o.files, any(), "Files.");
  v.field("maybe", o.maybe, in_range(0, 1), "Maybe.");
  v.field("groups", o.groups, at_least(0), "Groups.");
}

Value field(Options& options, const std::string& name) {
  for (const Field& one : fields_of(options))
    if (one.name == name) return one.value;
  throw StateError("no field ", name);
}

std::string problem_of(const Options& options) {
  try {
    check_fields(options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Fields, AreListedInOrder) {
  EXPECT_THAT(field_names<Options>(),
              ElementsAre("flag", "rank", "alpha", "mode", "file", "files", "maybe", "groups"));
  EXPECT_TRUE(has_fields_v<Options>);
  EXPECT_FALSE(has_fields_v<std::string>);
  Options options;
  const Field rank = fields_of(options)[1];
  EXPECT_EQ(rank.rule.minimum, 1);
  EXPECT_STREQ(rank.doc, "Rank.");
}

TEST(Fields, ReferToTheOptions) {
  Options options;
  field(options, "flag").boolean() = false;
  field(options, "rank").integer() = 3;
  field(options, "alpha").number() = 0.5;
  field(options, "mode").text() = "quick";
  field(options, "file").fields()[0].value.text() = "a.txt";
  field(options, "file").short_form()->text() += ".gz";
  EXPECT_FALSE(options.flag);
  EXPECT_EQ(options.rank, 3);
  EXPECT_EQ(options.alpha, 0.5);
  EXPECT_EQ(options.mode, "quick");
  EXPECT_EQ(options.file.path, "a.txt.gz");
  EXPECT_FALSE(field(options, "rank").short_form().has_value());
}

TEST(Fields, ListsOptionalsAndMapsHaveElements) {
  Options options;
  const Value files = field(options, "files");
  EXPECT_EQ(files.kind(), Kind::kList);
  EXPECT_TRUE(files.elements().empty());
  files.add();
  files.add().fields()[1].value.integer() = 4;
  EXPECT_EQ(options.files.size(), 2U);
  EXPECT_EQ(options.files[1].column, 4);
  EXPECT_EQ(files.fresh_element().value.fields()[1].value.integer(), 1);
  files.clear();
  EXPECT_TRUE(options.files.empty());

  const Value maybe = field(options, "maybe");
  EXPECT_TRUE(maybe.elements().empty());
  maybe.add().number() = 0.25;
  EXPECT_EQ(options.maybe, 0.25);
  EXPECT_EQ(maybe.elements().size(), 1U);
  maybe.clear();
  EXPECT_FALSE(options.maybe.has_value());

  const Value groups = field(options, "groups");
  EXPECT_THAT(groups.keys(), ElementsAre("a", "b"));
  EXPECT_EQ(groups.elements()[0].elements()[1].integer(), 3);
  groups.add("a").add().integer() = 9;  // In place of what was there.
  EXPECT_THAT(options.groups["a"], ElementsAre(9));
}

TEST(Fields, AnotherKindIsAnError) {
  Options options;
  EXPECT_THROW((void)field(options, "rank").text(), StateError);
  EXPECT_THROW((void)field(options, "rank").fields(), StateError);
  EXPECT_THROW((void)field(options, "rank").elements(), StateError);
  EXPECT_THROW((void)field(options, "file").add(), StateError);
  EXPECT_THROW((void)field(options, "files").keys(), StateError);
}

TEST(CheckFields, NamesTheOptionWhereverItIs) {
  const auto problem_with = [](void (*change)(Options&)) {
    Options options;
    change(options);
    return problem_of(options);
  };
  EXPECT_EQ(problem_with([](Options&) {}), "");
  EXPECT_EQ(problem_with([](Options& o) { o.rank = 0; }), "rank must be at least 1, not 0");
  EXPECT_EQ(problem_with([](Options& o) { o.alpha = 0; }), "alpha must be above 0, not 0");
  EXPECT_THAT(problem_with([](Options& o) { o.alpha = std::numeric_limits<double>::infinity(); }),
              HasSubstr("alpha must be a finite number"));
  EXPECT_THAT(problem_with([](Options& o) { o.mode = "quik"; }),
              HasSubstr("mode: 'quik' is none of slow, quick (did you mean 'quick'?)"));
  EXPECT_THAT(problem_with([](Options& o) { o.file.column = 0; }),
              HasSubstr("file.column must be at least 1"));
  EXPECT_THAT(problem_with([](Options& o) {
                o.files = {{"a", 1}, {"b", 0}};
              }),
              HasSubstr("files[1].column must be at least 1"));
  EXPECT_THAT(problem_with([](Options& o) { o.maybe = 1.5; }),
              HasSubstr("maybe must be at least 0 and at most 1, not 1.5"));
  EXPECT_THAT(problem_with([](Options& o) {
                o.groups["a"] = {1, -1};
              }),
              HasSubstr("groups.a[1] must be at least 0, not -1"));
}

TEST(BrokenBounds, OfRangesThatLeaveAnEndOut) {
  EXPECT_EQ(broken_bounds(in_half_open_range(0, 1), 1.0), "must be at least 0 and below 1");
  EXPECT_EQ(broken_bounds(in_half_open_range(0, 1), 0.0), "");
  EXPECT_EQ(broken_bounds(above_up_to(0, 1), 0.0), "must be above 0 and at most 1");
  EXPECT_EQ(broken_bounds(above_up_to(0, 1), 1.0), "");
}

}  // namespace
}  // namespace bitrain::fields
