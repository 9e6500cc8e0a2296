#include <bitrain/data/row_format.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/data/json_values.h>
#include <support/temporary_directory.h>

namespace bitrain::data {
namespace {

using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(kind_name(error.kind())) + ": " + error.what();
  }
  return "no error";
}

class RowFormatTest : public ::testing::Test {
 protected:
  SourceOptions options(const std::string& name, const std::string& contents) const {
    SourceOptions o;
    o.path = (folder_.path() / name).string();
    std::ofstream(o.path, std::ios::binary) << contents;
    return o;
  }
  /// The texts, or the error.
  std::vector<std::string> read(const std::string& name, const std::string& contents,
                                const std::string& format = "auto") const {
    SourceOptions o = options(name, contents);
    o.format = format;
    o.reads = "text";
    try {
      return texts_of(*open_source(o));
    } catch (const Error& error) {
      return {std::string(kind_name(error.kind())) + ": " + error.what()};
    }
  }

  bitrain::test::TemporaryDirectory folder_;
};

const std::string kLines = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";

TEST_F(RowFormatTest, JsonIsReadUnderAnyName) {
  for (const char* name :
       {"x.jsonl", "x.JSONL", "x.jsonlines", "x.ndjson", "x.json", "x.Json", "x.txt", "x", "x.md"})
    EXPECT_THAT(read(name, kLines), ElementsAre("a", "b")) << name;
  for (const std::string& text :
       {"[{\"text\": \"a\"}, {\"text\": \"b\"}]"s,
        "[\n  {\n    \"text\": \"a\"\n  },\n  {\"text\": \"b\"}\n]\n"s,
        "\n\n [ {\"text\":\"a\"}\n,{\"text\":\"b\"} ] \n"s,
        "{\n \"text\": \"a\"\n}\n{\n \"text\": \"b\"\n}\n"s, "{\"text\": \"a\"} {\"text\": \"b\"}\n"s,
        "\xef\xbb\xbf[{\"text\": \"a\"},\r\n{\"text\": \"b\"}]"s})
    for (const char* name : {"x.json", "x.jsonl", "x.txt"})
      EXPECT_THAT(read(name, text), ElementsAre("a", "b")) << name << ": " << text;
}

TEST_F(RowFormatTest, FormatTextForcesLines) {
  EXPECT_THAT(read("x.json", kLines, "text"), ElementsAre("{\"text\": \"a\"}", "{\"text\": \"b\"}"));
  EXPECT_THAT(read("x.csv", "a,b\n", "text"), ElementsAre("a,b"));
  EXPECT_THAT(read("x.html", "<html>\n", "text"), ElementsAre("<html>"));
}

TEST_F(RowFormatTest, TextsThatLookALittleLikeJsonAreTexts) {
  for (const char* line :
       {"{", "{}", "{a}", "{\\bf x}", "{Hello} said he", "{\"Hello\"} said he", "[", "[1]", "[]",
        "[1, 2] see there", "[citation needed]", "[\"quoted\" words]", "(x)", "\"text\": 1"})
    EXPECT_THAT(read("x.txt", std::string(line) + "\nthe cat\n"), ElementsAre(line, "the cat")) << line;
  EXPECT_THAT(read("x.txt", "the cat\n{\"text\": \"a\"}\nthe dog\n").size(), 3u);
}

TEST_F(RowFormatTest, BrokenJsonIsNoText) {
  EXPECT_THAT(read("x.txt", "{\"text\": \"a\", \"n\": NaN}\n" + kLines).front(),
              AllOf(HasSubstr("data error"), HasSubstr("x.txt:1: not valid JSON at byte"), HasSubstr("NaN"),
                    HasSubstr("format text reads it as plain lines")));
  EXPECT_THAT(read("x.txt", "{'text': 'a'}\n{'text': 'b'}\n").front(), HasSubstr("x.txt:1: not valid JSON"));
  EXPECT_THAT(read("x.txt", "# a heading\n" + kLines).front(), HasSubstr("x.txt:1: not valid JSON"));
  EXPECT_THAT(read("x.tsv", kLines), ElementsAre("a", "b"));
  EXPECT_THAT(read("x.tsv", "{\"text\": \"a\"}\tb\n"), ElementsAre("{\"text\": \"a\"}"));
  EXPECT_THAT(read("x.json", "the cat\n").front(), HasSubstr("x.json:1: not valid JSON"));
  EXPECT_THAT(read("x.jsonl", "{\"text\": \"a\"\n" + kLines).front(), HasSubstr("x.jsonl:1: not valid JSON"));
}

TEST_F(RowFormatTest, DamagedArraysNameTheLine) {
  const auto error = [&](const std::string& text) { return read("x.json", text).front(); };
  EXPECT_THAT(error("[\n{\"text\": \"a\"},\n{\"text\": \"b\"}\n"),
              HasSubstr("x.json:4: not valid JSON: the file ends"));
  EXPECT_THAT(error("[{\"text\": \"a\"},\n]"),
              HasSubstr("x.json:2: not valid JSON: nothing follows a comma"));
  EXPECT_THAT(error("[{\"text\": \"a\"}\n{\"text\": \"b\"}]"),
              HasSubstr("x.json:2: not valid JSON: a comma is missing"));
  EXPECT_THAT(error("[{\"text\": \"a\"}]\n[]"), HasSubstr("x.json:2: not valid JSON: something follows"));
  EXPECT_THAT(error("[{\"text\": \"a\"},\n{\"text\": \"b]"),
              HasSubstr("x.json:2: not valid JSON: what begins here"));
  EXPECT_THAT(error("[,{\"text\": \"a\"}]"), HasSubstr("a comma before the first"));
  EXPECT_THAT(error("[]"), HasSubstr("has no text: the file is empty"));
  EXPECT_THAT(error("[\n{\"text\": \"a\"},\n{\"text\": tru}]"),
              HasSubstr("x.json:3 (row 2): not valid JSON"));
  EXPECT_THAT(error("[\"a\", \"b\"]"), HasSubstr("x.json:1 (row 1): is a text; a row must be an object"));
  EXPECT_THAT(
      error("{\"version\": 1, \"data\": [{\"text\": \"a\"}]}"),
      AllOf(HasSubstr("has no key 'text'; its keys are 'version', 'data'"), HasSubstr("jq -c '.data[]'")));
}

TEST_F(RowFormatTest, RowsOfAnArrayAreCountedForSplits) {
  SourceOptions o = options("x.json", R"([{"text":"1"},{"text":"2"},{"text":3},{"text":"4"},{"text":"5"}])");
  o.held_out_every = 2;
  o.skip_invalid = true;
  SourceCounts counts;
  const SourcePtr held = open_source(o, Split::kHeldOut, &counts);
  EXPECT_THAT(texts_of(*held), ElementsAre("2", "4"));
  EXPECT_EQ(counts.invalid, 1);
  EXPECT_EQ(row_name(held->at(1)), o.path + ", row 4");
  EXPECT_THAT(texts_of(*open_source(o, Split::kTrain)), ElementsAre("1", "5"));
  o.max_rows = 2;
  EXPECT_EQ(open_source(o)->size(), 2);
}

TEST_F(RowFormatTest, WhatIsNeitherTextNorRowsIsRefusedByName) {
  EXPECT_THAT(
      read("x.csv", "id,text\n1,a\n").front(),
      AllOf(HasSubstr("data error"), HasSubstr("x.csv: is CSV by its name"), HasSubstr("format: tsv")));
  EXPECT_THAT(read("x.CSV.gz", "id,text\n1,a\n").front(), HasSubstr("is CSV by its name"));
  EXPECT_THAT(read("x.csv", "id\ttext\n", "tsv"), ElementsAre("id"));
  EXPECT_THAT(read("x.jsonl", "<!doctype html><p>404</p>\n").front(),
              AllOf(HasSubstr("x.jsonl: is HTML"), HasSubstr("the download went wrong")));
  EXPECT_THAT(read("x.txt", std::string("PAR1\x15\0\x15PAR1", 11), "text").front(),
              HasSubstr("is a Parquet file"));
  EXPECT_THAT(read("x.tsv", std::string("\xff\xfe"
                                        "a\0\t\0b\0\n\0",
                                        10))
                  .front(),
              HasSubstr("x.tsv: is UTF-16 text"));
}

TEST_F(RowFormatTest, FilesCutWithinTheirFirstBytesAreTruncated) {
  EXPECT_THAT(read("x.txt.gz", "\x1f").front(), AllOf(HasSubstr("format error"), HasSubstr("truncated")));
  EXPECT_THAT(read("x.txt.zst", "\x28").front(), AllOf(HasSubstr("format error"), HasSubstr("truncated")));
  EXPECT_THAT(read("x.txt", "("), ElementsAre("("));
}

TEST_F(RowFormatTest, ColumnsAndKeysNeedTheirFormat) {
  SourceOptions o = options("x.txt", "a\tb\n");
  o.column = 2;
  EXPECT_THAT(
      message_of([&] { (void)open_source(o); }),
      AllOf(HasSubstr("config error"), HasSubstr("column 2 is asked for"), HasSubstr("set format to tsv")));
  o.format = "tsv";
  EXPECT_THAT(texts_of(*open_source(o)), ElementsAre("b"));
  o.text_field = "text";
  EXPECT_THAT(message_of([&] { (void)open_source(o); }), HasSubstr("keys of rows are for JSONL"));
}

TEST_F(RowFormatTest, JsonThatGoesOnBehindTheHeadIsTold) {
  const std::string padding(100'000, 'x');
  EXPECT_THAT(read("x.txt", "{\n\"text\": \"a\",\n\"n\": \"" + padding + "\"\n}\n{\"text\": \"b\"}"),
              ElementsAre("a", "b"));
  EXPECT_THAT(read("x.txt", "{\"text\": \"a\", \"n\": \"" + padding + "\"}\n{\"text\": \"b\"}"),
              ElementsAre("a", "b"));
  EXPECT_THAT(read("x.txt", "[{\"text\": \"a\", \"n\": \"" + padding + "\"}, {\"text\": \"b\"}]"),
              ElementsAre("a", "b"));
}

TEST_F(RowFormatTest, ValuesAreCutAtTheirBrackets) {
  const std::string text = "{\"a\": \"}\\\"{\"}\n[1, [2]] \"x, y\" 5 true";
  JsonValues values(text, "f");
  std::vector<std::string> found;
  for (std::string_view value; values.next(value);) found.emplace_back(value);
  EXPECT_THAT(found, ElementsAre("{\"a\": \"}\\\"{\"}", "[1, [2]]", "\"x, y\"", "5", "true"));
}

}  // namespace
}  // namespace bitrain::data
