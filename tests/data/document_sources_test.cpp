#include <bitrain/data/document_sources.h>

#include <algorithm>
#include <map>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/data/packing.h>
#include <bitrain/data/sentence_windows.h>

namespace bitrain::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

SourcePtr documents(const std::string& name = "source") {
  std::vector<Example> examples(3);
  examples[0].text = "a0\na1\na2\na3";
  examples[1].text = "alone";
  examples[2].text = "c0\nc1";
  return make_source(name, "en", examples);
}

// CCP: a sentence beside one at most `window` places away in the same document.
TEST(WindowSource, GivesSentencesBesideTheirContexts) {
  const SourcePtr pairs = window_source(documents(), 1, 3);
  EXPECT_EQ(pairs->size(), 12);  // Six centres, twice.
  EXPECT_THAT(pairs->languages(), ElementsAre("en"));
  std::map<std::string, std::multiset<std::string>> contexts;
  for (std::int64_t i = 0; i < pairs->size(); ++i) {
    const Example pair = pairs->at(i);
    EXPECT_EQ(pair.pair_language, "en");
    EXPECT_EQ(std::abs(pair.text[1] - pair.pair_text[1]), 1) << pair.text << " " << pair.pair_text;
    EXPECT_EQ(pair.text[0], pair.pair_text[0]);
    contexts[pair.text].insert(pair.pair_text);
  }
  EXPECT_EQ(contexts.size(), 6U);
  for (const auto& [centre, found] : contexts) EXPECT_EQ(found.size(), 2U) << centre;
  // Two sides of a parallel text do not draw the same contexts at the same places.
  const SourcePtr other = window_source(documents("target"), 1, 3);
  bool differs = false;
  for (std::int64_t i = 0; i < pairs->size(); ++i)
    differs =
        differs || pairs->at(i).pair_text != other->at(i).pair_text || pairs->at(i).text != other->at(i).text;
  EXPECT_TRUE(differs);
}

TEST(WindowSource, RefusesPairsAndDocumentsWithoutNeighbours) {
  Example pair;
  pair.text = "a\nb";
  pair.pair_text = "c";
  EXPECT_THAT([&] { (void)window_source(make_source("pairs", "en", {pair}), 1, 3); },
              ThrowsMessage<DataError>(HasSubstr("row 1 of source 'pairs' is a pair")));
  Example alone;
  alone.text = "alone";
  EXPECT_THAT([&] { (void)window_source(make_source("alone", "en", {alone}), 1, 3); },
              ThrowsMessage<DataError>(HasSubstr("no document has two")));
}

SourcePtr pairs(std::int64_t count) {
  std::vector<Example> examples;
  for (std::int64_t i = 0; i < count; ++i) {
    Example& example = examples.emplace_back();
    example.text = "t" + std::to_string(i);
    example.pair_text = "p" + std::to_string(i);
    example.pair_language = "es";
  }
  return make_source("pairs", "en", examples);
}

// HMDE: hard negatives of both languages from the subject of the document.
TEST(NeighbourSource, DrawsHardNegativesNearby) {
  const SourcePtr source = neighbour_source(pairs(20), 3, 7);
  std::set<std::int64_t> drawn;
  for (std::int64_t i = 0; i < 20; ++i) {
    const Example example = source->at(i);
    ASSERT_EQ(example.negatives.size(), 1U);
    ASSERT_EQ(example.text_negatives.size(), 1U);
    EXPECT_EQ(example.negatives[0][0], 'p');
    EXPECT_EQ(example.text_negatives[0][0], 't');
    for (const std::string& negative : {example.negatives[0], example.text_negatives[0]}) {
      const std::int64_t away = std::stol(negative.substr(1)) - i;
      EXPECT_NE(away, 0);
      EXPECT_LE(std::abs(away), 3);
      drawn.insert(away);
    }
    EXPECT_EQ(source->at(i).negatives, example.negatives);
  }
  EXPECT_EQ(drawn.size(), 6U);
}

TEST(NeighbourSource, RefusesASinglePair) {
  EXPECT_THAT([] { (void)neighbour_source(pairs(1), 3, 7); },
              ThrowsMessage<DataError>(HasSubstr("no neighbour")));
  EXPECT_THROW((void)neighbour_source(pairs(3), 0, 7), ConfigError);
}

/// Documents of sentences given by their ids; 9 ends a document.
Piece example(const std::vector<std::int32_t>& ids) {
  auto sequence = std::make_shared<TokenSequence>();
  std::int32_t document = 0;
  for (const std::int32_t id : ids) {
    if (id == 9) {
      ++document;
      continue;
    }
    sequence->ids.push_back(id);
    sequence->labels.push_back(-100);
    sequence->parts.push_back({static_cast<std::int32_t>(sequence->ids.size()), 0, document});
  }
  return {sequence, 0, 0, 0, sequence->size()};
}

TEST(WholeExamples, OfDocumentsMayShareSentencesButNoDocument) {
  std::vector<Piece> all = {example({1, 2, 9, 3}), example({1, 4, 9, 5}), example({6, 9, 1, 2}),
                            example({7, 9, 8})};
  std::size_t next = 0;
  std::vector<Piece> carry;
  const std::vector<Row> rows = pack_rows(
      Packing::kWhole, 3, 8, [&] { return all[next++]; }, carry, /*distinct=*/true);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(carry.size(), 1U);  // The third: its second document is the first's first.
  const Batch batch = batch_rows(rows.data(), rows.size(), true, 0);
  EXPECT_THAT(batch.group_ids, ElementsAre(0, 0, 0, 1, 1, 1, 2, 2));
  EXPECT_THAT(batch.document_ids, ElementsAre(0, 0, 1, 0, 0, 1, 0, 1));
}

}  // namespace
}  // namespace bitrain::data
