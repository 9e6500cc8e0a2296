#include <bitrain/data/sentence_windows.h>

#include <cstdlib>
#include <limits>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

namespace bitrain::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

TEST(SplitSentences, LinesAreSentencesWhereThereAreSome) {
  EXPECT_THAT(split_sentences("One. And more\r\n\n  two \nthree?\n"),
              ElementsAre("One. And more", "two", "three?"));
  EXPECT_THAT(split_sentences("\n One. Two.\n"), ElementsAre("One.", "Two."));  // No break within.
}

TEST(SplitSentences, EndAtTheStopsOfTheirScript) {
  EXPECT_THAT(split_sentences("He came.  \"Who?!\" She left... Then (so it was.) Silence"),
              ElementsAre("He came.", "\"Who?!\"", "She left...", "Then (so it was.)", "Silence"));
  EXPECT_THAT(split_sentences("¿Quién vino? ¡Él! Nadie más."),
              ElementsAre("¿Quién vino?", "¡Él!", "Nadie más."));
  EXPECT_THAT(split_sentences("他来了。她说：「走吧！」然后呢？"),
              ElementsAre("他来了。", "她说：「走吧！」", "然后呢？"));
  EXPECT_THAT(split_sentences("वह आया। वह गई॥ अंत"), ElementsAre("वह आया।", "वह गई॥", "अंत"));
  EXPECT_THAT(split_sentences("من جاء؟ جاء هو. انتهى"), ElementsAre("من جاء؟", "جاء هو.", "انتهى"));
  EXPECT_THAT(split_sentences("وہ آیا۔ وہ گئی۔"), ElementsAre("وہ آیا۔", "وہ گئی۔"));
  EXPECT_THAT(split_sentences("Он пришёл. Она ушла."), ElementsAre("Он пришёл.", "Она ушла."));
}

TEST(SplitSentences, StopsWithinASentenceAreLeft) {
  EXPECT_THAT(split_sentences("It is 3.5 km, e.g. by bus. Mr. x went to example.org today."),
              ElementsAre("It is 3.5 km, e.g. by bus.", "Mr. x went to example.org today."));
  EXPECT_THAT(split_sentences("J. R. R. Tolkien wrote. É. Zola too."),
              ElementsAre("J. R. R. Tolkien wrote.", "É. Zola too."));
  EXPECT_THAT(split_sentences("\"Why?\" he asked. No answer."),
              ElementsAre("\"Why?\" he asked.", "No answer."));
  EXPECT_THAT(split_sentences("ประโยคหนึ่ง ประโยคสอง"), ElementsAre("ประโยคหนึ่ง ประโยคสอง"));
}

TEST(SplitSentences, AnyBytesAreKept) {
  EXPECT_THAT(split_sentences(""), IsEmpty());
  EXPECT_THAT(split_sentences(" \n\r\n "), IsEmpty());
  EXPECT_THAT(split_sentences("..."), ElementsAre("..."));
  EXPECT_THAT(split_sentences("a\xff. \xe3\x80"), ElementsAre("a\xff.", "\xe3\x80"));
}

const std::vector<std::int64_t> kSentences = {0, 7, 1, 2, 0, 1, 5};

TEST(SentenceWindows, EverySentenceWithANeighbourIsCentreOnceAnEpoch) {
  const SentenceWindows pairs(kSentences, 2, 3);
  ASSERT_EQ(pairs.size(), 7 + 2 + 5);
  EXPECT_EQ(pairs.skipped(), 4);
  std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> orders;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<std::pair<std::int64_t, std::int64_t>> seen;
    orders.emplace_back();
    for (std::int64_t i = 0; i < pairs.size(); ++i) {
      const SentencePlace centre = pairs.at(epoch * pairs.size() + i).centre;
      EXPECT_LT(centre.sentence, kSentences[static_cast<std::size_t>(centre.document)]);
      EXPECT_GT(kSentences[static_cast<std::size_t>(centre.document)], 1);
      orders.back().emplace_back(centre.document, centre.sentence);
      seen.insert(orders.back().back());
    }
    EXPECT_EQ(seen.size(), 14U);
  }
  EXPECT_NE(orders[0], orders[1]);
}

TEST(SentenceWindows, ContextsAreEvenlyDrawnFromTheWindowAndNeverTheCentre) {
  const SentenceWindows pairs(kSentences, 2, 3);
  constexpr std::int64_t kEpochs = 6000;
  std::map<std::pair<std::int64_t, std::int64_t>, std::map<std::int64_t, int>> drawn;
  for (std::int64_t k = 0; k < kEpochs * pairs.size(); ++k) {
    const WindowPair pair = pairs.at(k);
    ASSERT_EQ(pair.context.document, pair.centre.document);
    ++drawn[{pair.centre.document, pair.centre.sentence}][pair.context.sentence];
  }
  const auto expect_even = [&](std::int64_t document, std::int64_t sentence,
                               const std::set<std::int64_t>& contexts) {
    std::set<std::int64_t> seen;
    for (const auto& [context, count] : drawn[{document, sentence}]) {
      seen.insert(context);
      EXPECT_NEAR(count, kEpochs / static_cast<double>(contexts.size()), 200);
    }
    EXPECT_EQ(seen, contexts);
  };
  expect_even(1, 0, {1, 2});
  expect_even(1, 1, {0, 2, 3});
  expect_even(1, 3, {1, 2, 4, 5});
  expect_even(1, 6, {4, 5});
  expect_even(3, 0, {1});
  expect_even(3, 1, {0});
}

TEST(SentenceWindows, AreAFunctionOfSeedEpochAndPlace) {
  const std::vector<std::int64_t> sentences(30, 9);
  const SentenceWindows pairs(sentences, 3, 3), same(sentences, 3, 3), other(sentences, 3, 4);
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::int64_t>> by_epoch;
  int equal = 0;
  for (std::int64_t k = 2 * pairs.size() - 1; k >= 0; --k) {
    EXPECT_EQ(pairs.at(k), same.at(k));
    equal += pairs.at(k) == other.at(k);
    by_epoch[{pairs.at(k).centre.document, pairs.at(k).centre.sentence}].push_back(
        pairs.at(k).context.sentence);
  }
  EXPECT_LT(equal, 20);
  int repeated = 0;
  for (const auto& [centre, contexts] : by_epoch) repeated += contexts.at(0) == contexts.at(1);
  EXPECT_LT(repeated, 110);  // Of 270, with about 5 sentences in a window.
}

TEST(SentenceWindows, AWindowWiderThanTheDocumentIsTheDocument) {
  const SentenceWindows pairs({3}, std::numeric_limits<std::int64_t>::max(), 1);
  std::set<std::int64_t> contexts;
  for (std::int64_t k = 0; k < 300; ++k)
    if (pairs.at(k).centre.sentence == 0) contexts.insert(pairs.at(k).context.sentence);
  EXPECT_THAT(contexts, ElementsAre(1, 2));
}

TEST(SentenceWindows, CorporaWithoutPairsAreNamed) {
  EXPECT_THAT(
      [] {
        SentenceWindows({1, 1, 0}, 2, 1);
      },
      ThrowsMessage<DataError>(HasSubstr("no document has two sentences")));
  EXPECT_THAT([] { SentenceWindows({}, 2, 1); }, ThrowsMessage<DataError>(HasSubstr("no document")));
  EXPECT_THAT(
      [] {
        SentenceWindows({3, -1}, 2, 1);
      },
      ThrowsMessage<DataError>(HasSubstr("document 1 has -1 sentences")));
  EXPECT_THAT([] { SentenceWindows({3}, 0, 1); }, ThrowsMessage<ConfigError>(HasSubstr("at least 1, not 0")));
}

}  // namespace
}  // namespace bitrain::data
