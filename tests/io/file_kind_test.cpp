#include <bitrain/io/file_kind.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain::io {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;

std::string name_of(const std::string& head) {
  const std::optional<FileKind> kind = binary_kind(head);
  return kind ? kind->name : "";
}

std::string markup_of(const std::string& head) {
  const std::optional<FileKind> kind = marked_up_kind(head);
  return kind ? kind->name : "";
}

/// `text` of code points below 65,536 in UTF-16 or UTF-32.
std::string wide(const std::u16string& text, bool big, int bytes = 2) {
  std::string result;
  for (const char16_t c : text) {
    std::string unit = {static_cast<char>(c), static_cast<char>(c >> 8)};
    unit.resize(static_cast<std::size_t>(bytes), '\0');
    if (big) unit = std::string(unit.rbegin(), unit.rend());
    result += unit;
  }
  return result;
}

TEST(FileKindTest, ContainersAreNamed) {
  const std::string rest = "\x15\x04\0\x01 and so on"s;
  EXPECT_EQ(name_of("PAR1" + rest), "a Parquet file");
  EXPECT_EQ(name_of("ARROW1\0\0"s + rest), "an Arrow file");
  EXPECT_EQ(name_of("\xff\xff\xff\xff\x88\x01\0\0\x10"s), "an Arrow stream");
  EXPECT_EQ(name_of("SQLite format 3\0\x10"s), "an SQLite database");
  EXPECT_EQ(name_of("\xfd\x37zXZ\0\0\x04"s), "an xz file");
  EXPECT_EQ(name_of("BZh91AY&SY\x01\x8f"s), "a bzip2 file");
  EXPECT_EQ(name_of("\x04\x22\x4d\x18\x64\x40"s), "an lz4 file");
  EXPECT_EQ(name_of("PK\x03\x04\x14\0\0\0\x08\0 data.txt"s), "a ZIP archive");
  EXPECT_EQ(name_of("PK\x03\x04\x14\0\x06\0 [Content_Types].xml ... xl/workbook.xml"s),
            "an Excel workbook (XLSX)");
  EXPECT_EQ(name_of("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0"s), "an old Office file (XLS, DOC)");
  EXPECT_EQ(name_of("data/x.txt"s + std::string(247, '\0') + "ustar  \0"s + std::string(200, '\0')),
            "a tar archive");
  EXPECT_EQ(name_of("\x1f\x8b\x08\0\0"s), "gzip data within packed data");
  EXPECT_EQ(name_of("\x23\xb5\x2f\xfd\x01"s), "zstd data of a format older than 0.8");
  EXPECT_EQ(name_of("%PDF-1.4\n%\xe2\xe3\xcf\xd3\n\x01\x02"s), "PDF");
  EXPECT_THAT(name_of(std::string(100, '\x01')), HasSubstr("no text: of its first 100 bytes 100"));
  try {
    refuse_binary("PAR1" + rest, "x.parquet");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("x.parquet: is a Parquet file; write it as JSONL"));
  }
}

TEST(FileKindTest, PicklesOfAllProtocolsAndTfRecordsAreNamed) {
  for (const std::string& pickle :
       {"(lp0\nVthe cat\np1\naVthe dog\np2\na."s, "(lp1\nS'the cat'\np2\na."s,
        "(dp0\nVtext\np1\nVthe cat\np2\ns."s, "Vthe cat\np0\n."s, "S'the cat'\np0\n."s,
        "(Vthe cat\np0\nVthe dog\np1\ntp2\n."s, "ccollections\nOrderedDict\np0\n(tRp1\n."s,
        "]q\0(X\x07\0\0\0the catq\x01e."s, "}q\0X\x04\0\0\0textq\x01X\x03\0\0\0catq\x02s."s,
        "X\x07\0\0\0the catq\0."s, "(X\x03\0\0\0catq\0X\x03\0\0\0dogq\x01tq\x02."s, "\x80\x02]q\0."s,
        "\x80\x03]q\0."s, "\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8c\x03"s + "cat\x94."s, "\x80\x04N."s})
    EXPECT_EQ(name_of(pickle), "a Python pickle") << pickle;
  // As tf.io.TFRecordWriter writes a record of five bytes.
  EXPECT_EQ(name_of("\x05\0\0\0\0\0\0\0\xea\xb2\x04\x3e"s + "hello" + "\xbb\x1f\x1c\x19"s),
            "a TFRecord file");
}

TEST(FileKindTest, ByteOrderMarksAreTakenOff) {
  EXPECT_EQ(without_byte_order_marks("\xef\xbb\xbf\xef\xbb\xbfthe cat"), "the cat");
  EXPECT_EQ(without_byte_order_marks("the \xef\xbb\xbf"), "the \xef\xbb\xbf");
  EXPECT_EQ(without_byte_order_marks(""), "");
  EXPECT_EQ(markup_of("\xef\xbb\xbf\xef\xbb\xbf<html>"), "HTML");
}

TEST(FileKindTest, WideEncodingsAreNamedWithAndWithoutMark) {
  EXPECT_EQ(name_of("\xff\xfe" + wide(u"the cat\n", false)), "UTF-16 text");
  EXPECT_EQ(name_of("\xfe\xff" + wide(u"the cat\n", true)), "UTF-16 text");
  EXPECT_EQ(name_of("\xff\xfe\0\0"s + wide(u"the cat\n", false, 4)), "UTF-32 text");
  EXPECT_EQ(name_of("\0\0\xfe\xff"s + wide(u"the cat\n", true, 4)), "UTF-32 text");
  const auto scripts = {u"the cat sat on the mat\n", u"кошка сидит на ковре и смотрит\n",
                        u"बिल्ली चटाई पर बैठी है\n", u"القط يجلس على السجادة\n", u"แมวนั่งบนเสื่อและมองดูเราอยู่\n"};
  for (const std::u16string line : scripts) {
    const std::u16string text = line + line + line + line;
    EXPECT_THAT(name_of(wide(text, false)), HasSubstr("UTF-16 text (little-endian"));
    EXPECT_THAT(name_of(wide(text, true)), HasSubstr("UTF-16 text (big-endian"));
    EXPECT_THAT(name_of(wide(text, false, 4)), HasSubstr("UTF-32 text (little-endian"));
    EXPECT_THAT(name_of(wide(text, true, 4)), HasSubstr("UTF-32 text (big-endian"));
  }
  EXPECT_THAT(binary_kind(wide(u"the cat", false))->remedy, HasSubstr("iconv -f UTF-16LE -t UTF-8"));
}

TEST(FileKindTest, TextsAreTexts) {
  for (const std::string& text : {""s,
                                  "a"s,
                                  "the cat\n"s,
                                  "PAR1 of the book\n"s,
                                  "BZh is a word\n"s,
                                  "ORC and GGUF\n"s,
                                  "PK\n"s,
                                  "Rar! said he\n"s,
                                  "tabs\t1\t0\t1\t0\t1\t0\t1\t0\n"s,
                                  "1\t0\t1\t0\t1\t0\t1\t0\t1\t0\n1\t0\t1\t0\n"s,
                                  "nul \0 inside a line of a text\n"s,
                                  "\x1b[31mred\x1b[0m \x0c page\n"s,
                                  "caf\xe9 in Latin-1\n"s,
                                  "แมวนั่งบนเสื่อ\n"s,
                                  "{\"text\": \"x\"}\n"s,
                                  "<doc id=1>\n"s,
                                  "version 2\n"s,
                                  "Vienna\nis a city\n"s,
                                  "(list) of words\np0\n"s,
                                  "(dp) and (lp)\n"s,
                                  "cat\ndog\np. 4\n"s,
                                  "c\n\np0 of the page\n"s,
                                  "S'il vous plait\n"s,
                                  "X and Y\n"s}) {
    EXPECT_EQ(name_of(text), "") << text;
    EXPECT_EQ(markup_of(text), "") << text;
  }
}

TEST(FileKindTest, MarkupIsNamed) {
  EXPECT_EQ(markup_of("<!DOCTYPE html>\n<html>"), "HTML");
  EXPECT_EQ(markup_of("\xef\xbb\xbf \n<HTML lang=en>"), "HTML");
  EXPECT_EQ(markup_of("<?xml version=\"1.0\"?>\n<tmx>"), "XML");
  EXPECT_EQ(markup_of("{\\rtf1\\ansi"), "RTF");
}

}  // namespace
}  // namespace bitrain::io
