#include <bitrain/eval/word_vectors.h>

#include <fstream>
#include <limits>

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <eval/random_rows.h>
#include <support/temporary_directory.h>

namespace bitrain::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WordVectorFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text, const char* name = "words.vec") {
    const std::filesystem::path path = folder_.path() / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string refusal(const std::string& text, const WordVectorOptions& options = {}) {
    return message_of<DataError>([&] { (void)read_word_vectors(write(text), options); });
  }

 private:
  test::TemporaryDirectory folder_;
};

TEST_F(WordVectorFile, IsReadWithAndWithoutItsFirstLine) {
  // fastText ends its lines with a space; a word may have U+00A0 inside.
  const std::string rows =
      "the 1 -2.5 3e-2 \nm\xC2\xA0s 0 4 5\r\n\nca\xC3\xB1"
      "a\t0.25\t1e-50\t7";
  for (const std::string heading : {"3 3\n", ""}) {
    const WordVectors read = read_word_vectors(write(heading + rows));
    EXPECT_THAT(read.words, ElementsAre("the", "m\xC2\xA0s",
                                        "ca\xC3\xB1"
                                        "a"));
    EXPECT_EQ(read.rows.at("ca\xC3\xB1"
                           "a"),
              2);
    EXPECT_TRUE(read.vectors.equal(
        at::tensor({1.0F, -2.5F, 0.03F, 0.0F, 4.0F, 5.0F, 0.25F, 0.0F, 7.0F}).view({3, 3})));
    EXPECT_EQ(read.duplicates, 0);
  }
}

TEST_F(WordVectorFile, StopsAtTheFirstWords) {
  // What comes after is not looked at: neither the count nor a broken line.
  const WordVectors read = read_word_vectors(write("9 2\na 1 2\nb 3 4\nc broken\n"), {.max_words = 2});
  EXPECT_THAT(read.words, ElementsAre("a", "b"));
  EXPECT_EQ(read.vectors.sizes(), (at::IntArrayRef{2, 2}));
  EXPECT_EQ(read_word_vectors(write("a 1\nb 2\nc 3\n"), {.max_words = 0}).words.size(), 3U);
}

TEST_F(WordVectorFile, KeepsTheFirstOfEqualWordsOrRefuses) {
  const std::string text = "4 2\na 1 2\nb 3 4\na 5 6\nc 7 8\n";
  const WordVectors read = read_word_vectors(write(text), {.max_words = 3});
  EXPECT_THAT(read.words, ElementsAre("a", "b", "c"));
  EXPECT_EQ(read.duplicates, 1);
  EXPECT_TRUE(read.vectors.equal(at::tensor({1.0F, 2.0F, 3.0F, 4.0F, 7.0F, 8.0F}).view({3, 2})));
  EXPECT_THAT(refusal(text, {.duplicates = "error"}), HasSubstr("words.vec:4: 'a' has come before"));
}

TEST_F(WordVectorFile, ErrorsNameTheLine) {
  EXPECT_THAT(refusal("2 3\na 1 2 3\nb 1 2\n"), HasSubstr("words.vec:3: 'b' has 2 numbers, not 3"));
  EXPECT_THAT(refusal("a 1 2 3\nb 1 2 3 4\n"), HasSubstr("words.vec:2: 'b' has 4 numbers, not 3"));
  EXPECT_THAT(refusal("2 3\na 1 2\n"), HasSubstr("words.vec:2: 'a' has 2 numbers, not 3"));
  EXPECT_THAT(refusal("a\nb 1\n"), HasSubstr("words.vec:1: 'a' has 0 numbers"));
  EXPECT_THAT(refusal("a 1 2\nb 1 2x\n"), HasSubstr("words.vec:2: '2x' is no finite number"));
  EXPECT_THAT(refusal("a 1 nan\n"), HasSubstr("words.vec:1: 'nan' is no finite number"));
  EXPECT_THAT(refusal("a 1 1e39\n"), HasSubstr("'1e39' is no finite number"));
  EXPECT_THAT(refusal("3 1\na 1\nb 2\n"), HasSubstr("ends after 2 words; its first line says 3"));
  EXPECT_THAT(refusal("1 1\na 1\nb 2\n"), HasSubstr("ends after 2 words; its first line says 1"));
  EXPECT_THAT(refusal("0 300\n"), HasSubstr("words.vec:1: 0 vectors of 300 numbers are none"));
  EXPECT_THAT(refusal("5 -1\n"), HasSubstr("words.vec:1: 5 vectors of -1 numbers are none"));
  EXPECT_THAT(refusal(""), HasSubstr("no word vectors"));
  EXPECT_THROW((void)read_word_vectors("/nowhere/words.vec"), IoError);
  EXPECT_THROW((void)read_word_vectors(write("a 1\n"), {.max_words = -1}), ConfigError);
  EXPECT_THROW((void)read_word_vectors(write("a 1\n"), {.duplicates = "last"}), ConfigError);
}

TEST_F(WordVectorFile, ReadsBackAsWritten) {
  WordVectors vectors;
  vectors.vectors = draw(500, 7, "vectors") * 1e-3;
  for (int i = 0; i < 500; ++i) vectors.words.push_back("w" + std::to_string(i));
  const std::filesystem::path path = write("", "back.vec");
  write_word_vectors(path, vectors);
  const WordVectors read = read_word_vectors(path);
  EXPECT_EQ(read.words, vectors.words);
  EXPECT_TRUE(read.vectors.equal(vectors.vectors));
  vectors.words[3] = "two words";
  EXPECT_THROW(write_word_vectors(path, vectors), DataError);
  vectors.words.pop_back();
  EXPECT_THROW(write_word_vectors(path, vectors), StateError);
  vectors.words = {"a"};
  vectors.vectors = at::tensor({std::numeric_limits<float>::quiet_NaN()}).view({1, 1});
  EXPECT_THROW(write_word_vectors(path, vectors), DataError);
}

TEST_F(WordVectorFile, DictionariesHavePairs) {
  const std::vector<WordPair> pairs =
      read_dictionary(write("god dios\ngod\tel se\xC3\xB1or \n\nlight   luz \n", "en-es.txt"));
  ASSERT_EQ(pairs.size(), 3U);
  EXPECT_EQ(pairs[1].source, "god");
  EXPECT_EQ(pairs[1].target, "el se\xC3\xB1or");
  EXPECT_EQ(pairs[2].target, "luz");
  const auto refused = [&](const std::string& text) {
    return message_of<DataError>([&] { (void)read_dictionary(write(text, "en-es.txt")); });
  };
  EXPECT_THAT(refused("a b\nc\n"), HasSubstr("en-es.txt:2: not two words"));
  EXPECT_THAT(refused("a b c\n"), HasSubstr("en-es.txt:1: not two words"));
  EXPECT_THAT(refused("a b\nc\t\n"), HasSubstr("en-es.txt:2"));
  EXPECT_THAT(refused("a\tb\tc\n"), HasSubstr("en-es.txt:1"));
  EXPECT_THAT(refused("\n"), HasSubstr("no pairs"));
}

TEST_F(WordVectorFile, CoverageCountsSourceWords) {
  const WordVectors english = read_word_vectors(write("god 1 0\nlight 0 1\nsea 1 1\n"));
  const WordVectors spanish = read_word_vectors(write("luz 0 1\ndios 1 0\nse\xC3\xB1or 2 0\n"));
  const Lexicon lexicon = look_up({{"god", "dios"},
                                   {"god", "se\xC3\xB1or"},
                                   {"god", "jehov\xC3\xA1"},
                                   {"light", "luz"},
                                   {"sea", "mar"},
                                   {"ark", "dios"}},
                                  english, spanish);
  EXPECT_TRUE(lexicon.sources.equal(at::tensor(std::vector<std::int64_t>{0, 0, 1})));
  EXPECT_TRUE(lexicon.targets.equal(at::tensor(std::vector<std::int64_t>{1, 2, 0})));
  EXPECT_EQ(lexicon.source_words, 4);
  EXPECT_EQ(lexicon.covered, 2);
  EXPECT_DOUBLE_EQ(lexicon.coverage(), 0.5);
  EXPECT_THROW((void)look_up({{"luz", "light"}}, english, spanish), DataError);
}

}  // namespace
}  // namespace bitrain::eval
