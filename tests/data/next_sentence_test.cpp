#include <bitrain/data/next_sentence.h>

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain::data {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

using Place = std::pair<std::int64_t, std::int64_t>;

Place pair_of(const SentencePlace& place) {
  return {place.document, place.sentence};
}

TEST(NextSentencePairs, EverySentenceWithASuccessorIsFirstOnceAnEpoch) {
  const std::vector<std::int64_t> sentences = {0, 5, 1, 0, 3, 2};
  const NextSentencePairs pairs(sentences, 3);
  ASSERT_EQ(pairs.size(), 4 + 2 + 1);
  std::vector<std::vector<Place>> orders;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<Place> order;
    for (std::int64_t i = 0; i < pairs.size(); ++i)
      order.push_back(pair_of(pairs.at(epoch * pairs.size() + i).first));
    EXPECT_THAT(order, ::testing::UnorderedElementsAre(Place(1, 0), Place(1, 1), Place(1, 2), Place(1, 3),
                                                       Place(4, 0), Place(4, 1), Place(5, 0)));
    orders.push_back(order);
  }
  EXPECT_NE(orders[0], orders[1]);
}

TEST(NextSentencePairs, HalfFollowAndTheOthersComeFromAllOtherDocuments) {
  const std::vector<std::int64_t> sentences = {0, 5, 1, 0, 3, 2};
  const NextSentencePairs pairs(sentences, 3);
  constexpr std::int64_t kSamples = 20000;
  double follows = 0;
  std::map<Place, std::map<Place, int>> drawn;
  for (std::int64_t k = 0; k < kSamples; ++k) {
    const SentencePair pair = pairs.at(k);
    if (pair.follows) {
      ++follows;
      EXPECT_EQ(pair_of(pair.second), Place(pair.first.document, pair.first.sentence + 1));
      continue;
    }
    EXPECT_NE(pair.second.document, pair.first.document);
    ++drawn[pair_of(pair.first)][pair_of(pair.second)];
  }
  EXPECT_NEAR(follows / kSamples, 0.5, 0.012);
  const auto& others = drawn[Place(4, 1)];  // Of 11 sentences, its own document has 3.
  EXPECT_EQ(others.size(), 8U);
  for (const auto& [place, count] : others) EXPECT_NEAR(count, kSamples / 7 / 2 / 8, 60);
}

TEST(NextSentencePairs, AreAFunctionOfSeedAndSample) {
  const std::vector<std::int64_t> sentences(20, 4);
  const NextSentencePairs pairs(sentences, 3), same(sentences, 3), other(sentences, 4);
  int equal = 0;
  for (std::int64_t k = 59; k >= 0; --k) {
    EXPECT_EQ(pairs.at(k).second, same.at(k).second);
    equal += pairs.at(k).first == other.at(k).first;
  }
  EXPECT_LT(equal, 10);
}

TEST(NextSentenceSource, GivesSentencesOfDocumentsAndSaysWhetherTheyFollow) {
  std::vector<Example> documents(3);
  documents[0].text = "a1\na2\na3";
  documents[1].text = "One sentence. Another one.";
  documents[2].text = "c1";
  const SourcePtr source = next_sentence_source(make_source("texts", "en", documents), 3);
  EXPECT_EQ(source->name(), "texts");
  ASSERT_EQ(source->size(), 3);
  int follow = 0;
  for (std::int64_t i = 0; i < 3; ++i) {
    const Example pair = source->at(i);
    EXPECT_EQ(pair.language, "en");
    EXPECT_EQ(pair.pair_language, "en");
    ASSERT_TRUE(pair.follows.has_value());
    const std::string joined = pair.text + "|" + pair.pair_text;
    const bool next = joined == "a1|a2" || joined == "a2|a3" || joined == "One sentence.|Another one.";
    EXPECT_EQ(*pair.follows, next) << joined;
    follow += next;
  }
  EXPECT_EQ(source->at(1).pair_text, source->at(1).pair_text) << "the same each time";
  EXPECT_THROW((void)source->at(3), StateError);
  documents.resize(1);
  try {
    (void)next_sentence_source(make_source("texts", "en", documents), 3);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("source 'texts'"));
  }
}

TEST(NextSentencePairs, CorporaWithoutPairsAreNamed) {
  EXPECT_THAT(
      [] {
        NextSentencePairs({1, 1, 0}, 1);
      },
      ThrowsMessage<DataError>(HasSubstr("no document has two sentences")));
  EXPECT_THAT([] { NextSentencePairs({}, 1); }, ThrowsMessage<DataError>(HasSubstr("no document")));
  EXPECT_THAT(
      [] {
        NextSentencePairs({0, 7}, 1);
      },
      ThrowsMessage<DataError>(HasSubstr("no second document")));
  EXPECT_THAT(
      [] {
        NextSentencePairs({3, -1}, 1);
      },
      ThrowsMessage<DataError>(HasSubstr("document 1 has -1 sentences")));
}

}  // namespace
}  // namespace bitrain::data
