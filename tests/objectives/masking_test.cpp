#include <bitrain/objectives/masking.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/batch.h>
#include <bitrain/base/error.h>
#include <support/byte_tokenizer.h>
#include <support/toy_tokenizers.h>

namespace bitrain::objectives {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using testing::toy_unigram;
using testing::toy_wordpiece;
using text::TokenId;

constexpr std::int32_t kNo = kNoWord;
constexpr auto kIgnored = static_cast<TokenId>(kIgnoreIndex);

/// 200 pieces that begin a word ("a0" to "a199") and 100 that go on.
std::shared_ptr<const text::HfTokenizer> many_pieces() {
  std::vector<std::string> pieces;
  for (int i = 0; i < 200; ++i) pieces.push_back("a" + std::to_string(i));
  for (int i = 0; i < 100; ++i) pieces.push_back("##b" + std::to_string(i));
  return toy_wordpiece(pieces);
}

constexpr TokenId kFirstStart = 5;
constexpr TokenId kFirstContinuation = 205;

/// [CLS] words [SEP]: words of one to four tokens.
std::vector<TokenId> random_text(std::uint64_t number, std::size_t length) {
  RandomStream random(11, "text", number);
  std::vector<TokenId> ids = {2};
  while (ids.size() < length) {
    ids.push_back(kFirstStart + static_cast<TokenId>(random.below(200)));
    for (auto more = random.below(4); more > 0; --more)
      ids.push_back(kFirstContinuation + static_cast<TokenId>(random.below(100)));
  }
  ids.push_back(3);
  return ids;
}

std::size_t count_labels(const MaskedTokens& masked) {
  std::size_t count = 0;
  for (const TokenId label : masked.labels) count += label != kIgnored;
  return count;
}

TEST(MaskingVocabulary, WordsOfWordPieceBeginWithoutThePrefix) {
  const MaskingVocabulary vocabulary(*toy_wordpiece({"ca", "##sa", "##s", ",", "\u4eba"}));
  // [CLS] ca ##sa ##s , [SEP] ##s [UNK] ca [SEP]
  EXPECT_THAT(vocabulary.words({2, 5, 6, 7, 8, 3, 7, 1, 5, 3}),
              ElementsAre(kNo, 0, 0, 0, 1, kNo, 2, kNo, 3, kNo));
  EXPECT_EQ(vocabulary.mask(), 4);
  EXPECT_THAT(vocabulary.ordinary(), ElementsAre(5, 6, 7, 8, 9));
}

TEST(MaskingVocabulary, WordsOfSentencePieceBeginWithTheSpaceMark) {
  const auto tokenizer = toy_unigram({"\u2581ca", "sa", "\u2581", ",", "\u4eba", "\u0e01\u0e32"});
  const MaskingVocabulary vocabulary(*tokenizer);
  // <s> sa | ▁ca sa , | ▁ sa </s> </s> | ▁ca | 人 | 人 | กา </s>
  EXPECT_THAT(vocabulary.words({0, 5, 4, 5, 7, 6, 5, 2, 2, 4, 8, 8, 9, 2}),
              ElementsAre(kNo, 0, 1, 1, 1, 2, 2, kNo, kNo, 3, 4, 5, 6, kNo));
  const auto ids = tokenizer->encode("casa casa");
  EXPECT_THAT(vocabulary.words(ids), ElementsAre(0, 0, 1, 1));
  EXPECT_EQ(vocabulary.mask(), 10);
}

TEST(MaskingVocabulary, ScriptsWithoutSpacesHaveNoLongWords) {
  const MaskingVocabulary wordpiece(*toy_wordpiece({"\u0e01", "##\u0e02", "##\u0e03", "##a"}));
  EXPECT_THAT(wordpiece.words({2, 5, 6, 7, 8, 3}), ElementsAre(kNo, 0, 1, 2, 2, kNo));
}

TEST(MaskingVocabulary, WithoutWholeWordsEveryTokenIsAWord) {
  const MaskingVocabulary vocabulary(*toy_wordpiece({"ca", "##sa"}), /*whole_words=*/false);
  EXPECT_THAT(vocabulary.words({2, 5, 6, 6, 3}), ElementsAre(kNo, 0, 1, 2, kNo));
}

TEST(MaskingVocabulary, TokenizersThatCannotBeMaskedAreNamed) {
  EXPECT_THAT([] { MaskingVocabulary vocabulary(test::ByteTokenizer{}); },
              ThrowsMessage<ConfigError>(HasSubstr("no mask token")));
  EXPECT_THAT([] { MaskingVocabulary vocabulary(*toy_wordpiece({})); },
              ThrowsMessage<ConfigError>(HasSubstr("special tokens only")));
  EXPECT_THAT(
      [] {
        MaskingVocabulary vocabulary(*toy_unigram({"ca", "sa"}));
      },
      ThrowsMessage<UnsupportedError>(HasSubstr("set whole_words: false")));
  EXPECT_NO_THROW(MaskingVocabulary(*toy_unigram({"ca", "sa"}), false));
  const MaskingVocabulary vocabulary(*toy_wordpiece({"ca"}));
  EXPECT_THAT(
      [&] {
        (void)vocabulary.words({2, 6});
      },
      ThrowsMessage<DataError>(HasSubstr("token 6 is outside the vocabulary of 6")));
}

TEST(Masking, ChoosesWholeWordsAndNeverSpecialTokens) {
  const MaskingVocabulary vocabulary(*many_pieces());
  const MaskingOptions options;
  for (std::uint64_t sample = 0; sample < 500; ++sample) {
    const std::vector<TokenId> ids = random_text(sample, 20 + sample);
    const std::vector<std::int32_t> words = vocabulary.words(ids);
    const MaskedTokens masked = mask_words(ids, words, vocabulary, options, RandomStream(1, "masks", sample));
    std::map<std::int32_t, std::set<bool>> chosen;
    std::size_t tokens = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const bool predicted = masked.labels[i] != kIgnored;
      if (words[i] == kNoWord) {
        EXPECT_FALSE(predicted) << "a special token";
      } else {
        chosen[words[i]].insert(predicted);
        ++tokens;
      }
      if (predicted) {
        EXPECT_EQ(masked.labels[i], ids[i]);
        EXPECT_TRUE(masked.ids[i] == vocabulary.mask() || masked.ids[i] >= kFirstStart);
      } else {
        EXPECT_EQ(masked.ids[i], ids[i]);
      }
    }
    for (const auto& [word, states] : chosen) EXPECT_EQ(states.size(), 1U) << "word " << word << " is cut";
    const std::size_t count = count_labels(masked);
    EXPECT_GE(count, 1U);
    EXPECT_LE(count, 80U);
    // Words have up to four tokens, so up to three of the room may stay free.
    const double wanted = std::min(80.0, 0.15 * static_cast<double>(tokens));
    EXPECT_LE(static_cast<double>(count), std::max(4.0, wanted + 0.5));
    EXPECT_GE(static_cast<double>(count), wanted - 3.5);
  }
}

TEST(Masking, TokensBecomeMaskRandomOrStayAsAskedFor) {
  const MaskingVocabulary vocabulary(*many_pieces());
  std::map<TokenId, double> random_ids;
  double predicted = 0, masks = 0, kept = 0, tokens = 0;
  for (std::uint64_t sample = 0; sample < 2000; ++sample) {
    const std::vector<TokenId> ids = random_text(sample, 128);
    const MaskedTokens masked =
        mask_words(ids, vocabulary.words(ids), vocabulary, {}, RandomStream(2, "masks", sample));
    tokens += static_cast<double>(ids.size()) - 2;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (masked.labels[i] == kIgnored) continue;
      ++predicted;
      if (masked.ids[i] == vocabulary.mask())
        ++masks;
      else if (masked.ids[i] == ids[i])
        ++kept;
      else
        ++random_ids[masked.ids[i]];
    }
  }
  // 38,000 tokens: three standard deviations are 0.006 and less.
  EXPECT_NEAR(predicted / tokens, 0.15, 0.005);
  EXPECT_NEAR(masks / predicted, 0.8, 0.007);
  EXPECT_NEAR(kept / predicted, 0.1 + 0.1 / 300, 0.006);
  EXPECT_GT(random_ids.size(), 295U) << "all ordinary tokens stand in for others";
  for (const auto& [id, count] : random_ids) EXPECT_LT(count, 40) << id << ": 13 are to be expected";
}

TEST(Masking, EveryWordIsAsLikelyWhereverItStands) {
  const MaskingVocabulary vocabulary(*many_pieces());
  std::vector<TokenId> ids = {2};
  for (TokenId i = 0; i < 20; ++i) ids.push_back(kFirstStart + i);
  ids.push_back(3);
  std::vector<double> chosen(ids.size());
  for (std::uint64_t sample = 0; sample < 10000; ++sample) {
    const MaskedTokens masked =
        mask_words(ids, vocabulary.words(ids), vocabulary, {}, RandomStream(3, "masks", sample));
    EXPECT_EQ(count_labels(masked), 3U);
    for (std::size_t i = 0; i < ids.size(); ++i) chosen[i] += masked.labels[i] != kIgnored;
  }
  for (std::size_t i = 1; i + 1 < ids.size(); ++i) EXPECT_NEAR(chosen[i] / 10000, 0.15, 0.015) << i;
}

TEST(Masking, IsAFunctionOfItsArguments) {
  const MaskingVocabulary vocabulary(*many_pieces());
  const std::vector<TokenId> ids = random_text(1, 100);
  const auto mask = [&](std::uint64_t seed, std::uint64_t sample) {
    return mask_words(ids, vocabulary.words(ids), vocabulary, {}, RandomStream(seed, "masks", sample));
  };
  EXPECT_EQ(mask(1, 5).ids, mask(1, 5).ids);
  EXPECT_EQ(mask(1, 5).labels, mask(1, 5).labels);
  EXPECT_NE(mask(1, 5).labels, mask(1, 6).labels);
  EXPECT_NE(mask(1, 5).labels, mask(2, 5).labels);
}

TEST(Masking, ShortTextsGiveOneWordAndOfLongerOnesWhatFits) {
  const MaskingVocabulary vocabulary(*many_pieces());
  std::vector<TokenId> word = {2, kFirstStart, kFirstContinuation, kFirstContinuation, 3};
  const auto mask = [&](const std::vector<TokenId>& ids, const MaskingOptions& options) {
    return mask_words(ids, vocabulary.words(ids), vocabulary, options, RandomStream(1, "masks"));
  };
  EXPECT_EQ(count_labels(mask(word, {})), 3U);
  MaskingOptions narrow;
  narrow.max_predictions = 2;
  EXPECT_EQ(count_labels(mask(word, narrow)), 1U) << "15 % of three tokens, one at least";
  EXPECT_EQ(count_labels(mask({2, 3}, {})), 0U);
  EXPECT_EQ(count_labels(mask({}, {})), 0U);
  MaskingOptions all;
  all.share = 1;
  EXPECT_EQ(count_labels(mask(random_text(1, 70), all)), random_text(1, 70).size() - 2);
  EXPECT_LE(count_labels(mask(random_text(1, 500), all)), 80U);
  EXPECT_GE(count_labels(mask(random_text(1, 500), all)), 77U);
}

TEST(Masking, SharesThatAreNoneAreNamed) {
  MaskingOptions options;
  EXPECT_NO_THROW(check(options));
  options.share = 0;
  EXPECT_THAT([&] { check(options); }, ThrowsMessage<ConfigError>(HasSubstr("share must be above 0")));
  options = {};
  options.max_predictions = 0;
  EXPECT_THAT([&] { check(options); }, ThrowsMessage<ConfigError>(HasSubstr("max_predictions")));
  options = {};
  options.random_share = 0.3;
  EXPECT_THAT([&] { check(options); }, ThrowsMessage<ConfigError>(HasSubstr("add up to at most 1")));
  const MaskingVocabulary vocabulary(*many_pieces());
  EXPECT_THROW((void)mask_words({2, 5, 3}, {kNo, 0}, vocabulary, {}, RandomStream(1, "masks")), StateError);
}

}  // namespace
}  // namespace bitrain::objectives
