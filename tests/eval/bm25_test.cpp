#include <bitrain/eval/bm25.h>

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/text/lexical_words.h>

namespace bitrain::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(LexicalWords, FoldsCaseAndPartsScripts) {
  EXPECT_THAT(text::lexical_words("¿Qué Año-2023? ÁRBOL"), ElementsAre("qué", "año", "2023", "árbol"));
  EXPECT_THAT(text::lexical_words("東京Tokyo"), ElementsAre("東", "京", "tokyo"));
  EXPECT_THAT(text::lexical_words("नमस्ते"), ElementsAre("नमस्ते"));  // Marks belong to their letters.
  EXPECT_THAT(text::lexical_words("a\xff"
                                  "b"),
              ElementsAre("a", "b"));
  EXPECT_THAT(text::lexical_words(" ... "), IsEmpty());
}

TEST(Bm25, IsItsFormula) {
  const std::vector<std::string> documents = {"the cat sat", "the dog sat on the dog", "a bird"};
  const Bm25 index(documents, {.k1 = 1.2, .b = 0.75});
  const double mean = 11.0 / 3;
  const auto weight = [&](double having, double count, double length) {
    const double idf = std::log(1 + (3 - having + 0.5) / (having + 0.5));
    return idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean));
  };
  const auto found = index.search("Dog sat?", 10);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].document, 1);
  EXPECT_NEAR(found[0].score, weight(1, 2, 6) + weight(2, 1, 6), 1e-6);
  EXPECT_EQ(found[1].document, 0);
  EXPECT_NEAR(found[1].score, weight(2, 1, 3), 1e-6);
  EXPECT_NEAR(index.search("bird bird", 1)[0].score, 2 * weight(1, 1, 2), 1e-6);
  EXPECT_THAT(index.search("fish", 10), IsEmpty());
  EXPECT_EQ(index.search("sat", 1).size(), 1U);
  EXPECT_THROW(Bm25({}), DataError);
}

TEST(Bm25, EqualScoresKeepTheOrderOfTheDocuments) {
  const Bm25 index({"x y", "x z", "x w"});
  const auto found = index.search("x", 3);
  EXPECT_EQ(found[0].document, 0);
  EXPECT_EQ(found[1].document, 1);
  EXPECT_EQ(found[2].document, 2);
}

}  // namespace
}  // namespace bitrain::eval
