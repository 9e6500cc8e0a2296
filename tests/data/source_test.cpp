#include <bitrain/data/source.h>

#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/fields/fields.h>
#include <support/temporary_directory.h>

namespace bitrain::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SourceTest : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& contents) const {
    const std::string path = (folder_.path() / name).string();
    std::ofstream(path, std::ios::binary) << contents;
    return path;
  }
  SourceOptions options(const std::string& name, const std::string& contents) const {
    SourceOptions o;
    o.path = write(name, contents);
    o.language = "en";
    return o;
  }

  bitrain::test::TemporaryDirectory folder_;
};

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(kind_name(error.kind())) + ": " + error.what();
  }
  return "no error";
}

TEST_F(SourceTest, ReadsLinesByNumberWithAnyLineEnd) {
  SourceCounts counts;
  auto source = open_source(options("a.txt", "\xef\xbb\xbfone\r\n\ntwo\n   \nthree"), Split::kAll, &counts);
  ASSERT_EQ(source->size(), 3);
  EXPECT_THAT(texts_of(*source), ElementsAre("one", "two", "three"));
  EXPECT_EQ(source->at(1).id, 2);
  EXPECT_EQ(source->at(1).language, "en");
  EXPECT_EQ(source->at(1).source, "en");
  EXPECT_EQ(counts.rows, 5);
  EXPECT_EQ(counts.blank, 2);
  EXPECT_EQ(counts.bytes, 11);
  EXPECT_THROW((void)source->at(3), StateError);
}

TEST_F(SourceTest, ReadsGzipAndZstdAsThePlainFile) {
  for (const std::string& name : {std::string("x.tsv.gz"), std::string("y.tsv.zst"), std::string("z.tsv")}) {
    const std::string plain = write("plain.tsv", "v\tone\tuno\nv\ttwo\tdos\n");
    const std::string path = (folder_.path() / name).string();
    const std::string tool = name.back() == 'z' ? "gzip -c " : name.back() == 't' ? "zstd -qc " : "cat ";
    if (std::system((tool + plain + " > " + path + " 2>/dev/null").c_str()) != 0) {
      GTEST_SKIP() << tool << "is not installed";
    }
    SourceOptions o;
    o.path = path;
    o.column = 3;
    EXPECT_THAT(texts_of(*open_source(o)), ElementsAre("uno", "dos")) << name;
  }
}

TEST_F(SourceTest, ReadsPairsFromTsv) {
  SourceOptions o = options("a.tsv", "verse\tone\tuno\nverse\ttwo\t\nverse\tthree\ttres\textra\n");
  o.column = 2;
  o.pair_column = 3;
  o.pair_language = "es";
  SourceCounts counts;
  auto source = open_source(o, Split::kAll, &counts);
  ASSERT_EQ(source->size(), 2);
  EXPECT_EQ(counts.blank, 1);  // an empty cell
  EXPECT_EQ(source->at(1).text, "three");
  EXPECT_EQ(source->at(1).pair_text, "tres");
  EXPECT_EQ(source->at(1).pair_language, "es");
  EXPECT_THAT(source->languages(), ElementsAre("en", "es"));
}

TEST_F(SourceTest, MissingColumnsNameFileAndLine) {
  SourceOptions o = options("short.tsv", "a\tb\nonly\n");
  o.column = 2;
  EXPECT_THAT(message_of([&] { (void)open_source(o); }),
              AllOf(HasSubstr("data error"), HasSubstr("short.tsv:2: has 1 column, column 2")));
  o.skip_invalid = true;
  SourceCounts counts;
  EXPECT_EQ(open_source(o, Split::kAll, &counts)->size(), 1);
  EXPECT_EQ(counts.invalid, 1);
}

TEST_F(SourceTest, InvalidUtf8NamesFileAndLine) {
  SourceOptions o = options("latin1.txt",
                            "good\nma\xf1"
                            "ana\n");
  EXPECT_THAT(message_of([&] { (void)open_source(o); }),
              AllOf(HasSubstr("data error"), HasSubstr("latin1.txt:2: byte 3 is not UTF-8"),
                    HasSubstr("iconv"), HasSubstr("skip_invalid")));
  o.skip_invalid = true;
  SourceCounts counts;
  EXPECT_THAT(texts_of(*open_source(o, Split::kAll, &counts)), ElementsAre("good"));
  EXPECT_EQ(counts.invalid, 1);
}

TEST_F(SourceTest, ReadsPairsWithHardNegativesFromJson) {
  SourceOptions o = options("pairs.jsonl", R"({"query": "q", "positive": "p", "negatives": ["n", "m"]})"
                                           "\n"
                                           R"({"query": "r", "positive": "s"})"
                                           "\n"
                                           R"({"query": "t", "positive": "u", "negatives": "v"})"
                                           "\n");
  o.text_field = "query";
  o.pair_field = "positive";
  o.language = "en";
  o.pair_language = "es";
  const auto source = open_source(o);
  EXPECT_THAT(source->languages(), ElementsAre("en", "es"));
  EXPECT_EQ(source->at(0).text, "q");
  EXPECT_EQ(source->at(0).pair_text, "p");
  EXPECT_EQ(source->at(0).pair_language, "es");
  EXPECT_THAT(source->at(0).negatives, ElementsAre("n", "m"));
  EXPECT_TRUE(source->at(1).negatives.empty());
  EXPECT_THAT(source->at(2).negatives, ElementsAre("v"));
  for (const char* bad : {R"({"query": "q"})", R"({"query": "q", "positive": 3})",
                          R"({"query": "q", "positive": "p", "negatives": [1]})"}) {
    SourceOptions broken = options("bad.jsonl", std::string(bad) + "\n");
    broken.text_field = "query";
    broken.pair_field = "positive";
    EXPECT_THAT(message_of([&] { (void)open_source(broken); }), HasSubstr("bad.jsonl:1")) << bad;
  }
  SourceOptions blank = options("blank.jsonl", R"({"query": "", "positive": "p"})"
                                               "\n"
                                               R"({"query": "q", "positive": " "})"
                                               "\n"
                                               R"({"query": "q", "positive": "p"})"
                                               "\n");
  blank.text_field = "query";
  blank.pair_field = "positive";
  SourceCounts counts;
  EXPECT_EQ(open_source(blank, Split::kAll, &counts)->at(0).id, 2);
  EXPECT_EQ(counts.blank, 2);
  SourceOptions text = options("pairs.txt", "a\n");
  text.pair_field = "positive";
  EXPECT_THAT(message_of([&] { (void)open_source(text); }), HasSubstr("pair_field is for JSONL"));
}

TEST_F(SourceTest, ReadsScoredPairsFromJson) {
  const auto scored = [&](const std::string& rows) {
    SourceOptions o = options("scored.jsonl", rows);
    o.pair_field = "pair";
    o.score_field = "score";
    return o;
  };
  const auto source = open_source(scored(R"({"text": "a", "pair": "b", "score": 4.5})"
                                         "\n"
                                         R"({"text": "c", "pair": "d", "score": 0})"
                                         "\n"));
  EXPECT_EQ(source->at(0).score, 4.5);
  EXPECT_EQ(source->at(1).score, 0.0);
  for (const char* bad : {R"({"text": "a", "pair": "b"})", R"({"text": "a", "pair": "b", "score": "5"})",
                          R"({"text": "a", "pair": "b", "score": null})"})
    EXPECT_THAT(message_of([&] { (void)open_source(scored(std::string(bad) + "\n")); }),
                AllOf(HasSubstr("scored.jsonl:1"), HasSubstr("'score' is missing or not a number")))
        << bad;
  SourceOptions unscored = scored(R"({"text": "a", "pair": "b", "score": 1})"
                                  "\n");
  unscored.score_field.clear();
  EXPECT_FALSE(open_source(unscored)->at(0).score.has_value());
}

TEST_F(SourceTest, BrokenJsonRowsNameFileAndLine) {
  const std::string good = "{\"text\": \"a\"}\n";
  for (const char* bad :
       {"{\"text\": ", "{\"text\": 3}", "{\"text\": null}", "[1]", "{\"other\": \"x\"}",
        "{\"prompt\": \"p\"}", "{\"text\": \"a\", \"text\": \"b\"}", "{\"text\": \"a\"} {}"}) {
    SourceOptions o = options("bad.jsonl", good + bad + "\n");
    EXPECT_THAT(message_of([&] { (void)open_source(o); }), HasSubstr("bad.jsonl:2")) << bad;
    o.skip_invalid = true;
    SourceCounts counts;
    EXPECT_EQ(open_source(o, Split::kAll, &counts)->size(), 1);
    EXPECT_EQ(counts.invalid, 1) << bad;
  }
}

TEST_F(SourceTest, EmptySourcesAreErrors) {
  EXPECT_THAT(message_of([&] { (void)open_source(options("e.txt", "")); }),
              AllOf(HasSubstr("data error"), HasSubstr("e.txt"), HasSubstr("has no text")));
  EXPECT_THROW((void)open_source(options("blank.txt", "\n \n")), DataError);
  EXPECT_THAT(message_of([&] { (void)open_source(options("one.txt", "a\n"), Split::kHeldOut); }),
              HasSubstr("held out for evaluation"));
  EXPECT_THROW((void)make_source("none", "en", {}), DataError);
  SourceOptions missing;
  missing.path = (folder_.path() / "missing.txt").string();
  EXPECT_THROW((void)open_source(missing), IoError);
}

TEST_F(SourceTest, ContradictingOptionsAreErrors) {
  auto with = [&](auto change) {
    SourceOptions o = options("a.txt", "a\nb\n");
    change(o);
    return message_of([&] { (void)open_source(o); });
  };
  EXPECT_THAT(with([](auto& o) { o.format = "tvs"; }), HasSubstr("did you mean 'tsv'"));
  EXPECT_THAT(with([](auto& o) { o.column = 0; }), HasSubstr("column must be at least 1"));
  EXPECT_THAT(with([](auto& o) { o.held_out_last = o.held_out_every = 2; }), HasSubstr("not both"));
  EXPECT_THAT(with([](auto& o) { o.held_out_every = 1; }), HasSubstr("nothing to train on"));
  EXPECT_THAT(with([](auto& o) { o.pair_column = 2; }), HasSubstr("TSV"));
  EXPECT_THAT(with([](auto& o) { o.max_rows = -1; }), HasSubstr("max_rows must be at least 0"));
}

TEST_F(SourceTest, HeldOutRowsAndTrainingRowsPartTheFile) {
  for (const bool every : {false, true}) {
    SourceOptions o = options("n.txt", "1\n2\n\n4\n5\n6\n7\n8\n");
    (every ? o.held_out_every : o.held_out_last) = every ? 4 : 2;
    const auto train = texts_of(*open_source(o, Split::kTrain));
    const auto held = texts_of(*open_source(o, Split::kHeldOut));
    if (every) {
      EXPECT_THAT(held, ElementsAre("4", "8"));
      EXPECT_THAT(train, ElementsAre("1", "2", "5", "6", "7"));
    } else {
      EXPECT_THAT(held, ElementsAre("7", "8"));
      EXPECT_THAT(train, ElementsAre("1", "2", "4", "5", "6"));
    }
  }
}

TEST_F(SourceTest, JoinsConsecutiveLinesButNotAcrossHeldOutRows) {
  SourceOptions o = options("n.txt", "1\n2\n3\n4\n5\n6\n7\n");
  o.lines_per_document = 2;
  o.line_joiner = " ";
  EXPECT_THAT(texts_of(*open_source(o)), ElementsAre("1 2", "3 4", "5 6", "7"));
  o.held_out_every = 4;
  EXPECT_THAT(texts_of(*open_source(o, Split::kTrain)), ElementsAre("1 2", "3", "5 6", "7"));
}

TEST_F(SourceTest, JoinsTheTranslationsOfADocumentToo) {
  SourceOptions o = options("n.tsv", "a\tA\nb\tB\nc\tC\n");
  o.pair_column = 2;
  o.lines_per_document = 2;
  const SourcePtr source = open_source(o);
  ASSERT_EQ(source->size(), 2);
  EXPECT_EQ(source->at(0).text, "a\nb");
  EXPECT_EQ(source->at(0).pair_text, "A\nB");
  EXPECT_EQ(source->at(1).pair_text, "C");
}

TEST_F(SourceTest, BlankLinesPartDocumentsOnRequest) {
  SourceOptions o = options("p.txt", "1\n2\n\n3\n\n\n4\n5\n");
  o.lines_per_document = 0;
  EXPECT_THAT(texts_of(*open_source(o)), ElementsAre("1\n2", "3", "4\n5"));
}

TEST_F(SourceTest, MaxRowsStopsReading) {
  SourceOptions o = options("n.txt", "1\n2\n\xff\n");
  o.max_rows = 2;
  EXPECT_EQ(open_source(o)->size(), 2);
}

TEST(Options, EveryFieldIsListed) {
  EXPECT_EQ(field_names<SourceOptions>().size(), 23u);
}

}  // namespace
}  // namespace bitrain::data
