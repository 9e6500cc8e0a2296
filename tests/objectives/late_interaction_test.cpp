#include <bitrain/objectives/late_interaction.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>

#include "support/byte_tokenizer.h"
#include "support/letter_tokenizer.h"

namespace bitrain::objectives {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Ids = std::vector<text::TokenId>;

class Tokens : public ::testing::Test {
 protected:
  [[nodiscard]] text::TokenId id(const char* piece) const { return *tokenizer_->piece_to_id(piece); }

  std::shared_ptr<const text::Tokenizer> tokenizer_ = test::letter_tokenizer();
  models::LateInteractionOptions options_ = test::late_options(6, 7);
};

TEST_F(Tokens, QueriesAreFilledUpWithMaskTokens) {
  const InteractionTokens tokens(tokenizer_, options_);
  EXPECT_EQ(tokens.query("a b"),
            (Ids{id("[CLS]"), id("a"), id("b"), id("[SEP]"), id("[MASK]"), id("[MASK]")}));
  EXPECT_EQ(tokens.query("a b c d e f g"),
            (Ids{id("[CLS]"), id("a"), id("b"), id("c"), id("d"), id("[SEP]")}));
  options_.query_expansion = false;
  EXPECT_EQ(InteractionTokens(tokenizer_, options_).query("a b"),
            (Ids{id("[CLS]"), id("a"), id("b"), id("[SEP]")}));
}

TEST_F(Tokens, DocumentsAreCutAndPromptsComeFirst) {
  options_.query_prompt = "q ";
  options_.document_prompt = "d ";
  const InteractionTokens tokens(tokenizer_, options_);
  EXPECT_EQ(tokens.document("a"), (Ids{id("[CLS]"), id("d"), id("a"), id("[SEP]")}));
  EXPECT_EQ(tokens.document("a b c d e f g").size(), 7U);
  EXPECT_EQ(tokens.query("a")[1], id("q"));
}

TEST_F(Tokens, PunctuationDoesNotCountAndSpecialTokensDo) {
  const InteractionTokens tokens(tokenizer_, options_);
  const Ids document = tokens.document("a, b!");
  EXPECT_EQ(tokens.count(document), 4);
  EXPECT_FALSE(tokens.counts(id(",")));
  EXPECT_TRUE(tokens.counts(id("[UNK]"))) << "a mark that is no piece must not stand for it";
  const Ids marks = tokens.document("?!.");
  EXPECT_EQ(tokens.count(marks), 2) << "[CLS] and [SEP]";
}

TEST_F(Tokens, QueryExpansionNeedsAMaskToken) {
  const auto bytes = std::make_shared<test::ByteTokenizer>(false, false);
  EXPECT_THAT([&] { InteractionTokens(bytes, options_); },
              ThrowsMessage<ConfigError>(HasSubstr("the tokenizer has none")));
  options_.query_expansion = false;
  const InteractionTokens tokens(bytes, options_);
  EXPECT_EQ(tokens.count(tokens.document("...")), 0) << "nothing frames the text";
}

data::Example example(const std::string& query, const std::string& document,
                      std::vector<std::string> negatives = {}) {
  data::Example row;
  row.text = query;
  row.pair_text = document;
  row.negatives = std::move(negatives);
  row.language = "en";
  row.pair_language = "es";
  row.source = "pairs";
  return row;
}

TEST_F(Tokens, ExamplesAreQueryPositiveAndAsManyNegatives) {
  const auto tokens = std::make_shared<InteractionTokens>(tokenizer_, options_);
  const LateInteraction objective(tokens, {"es", "en"}, {.negatives = 2});
  const data::TokenSequence sequence = objective.encode(example("a", "b", {"c", "b", "c", "d e", "f"}));
  ASSERT_EQ(sequence.parts.size(), 4U);
  EXPECT_EQ(sequence.parts[0].end, 6);
  EXPECT_EQ(sequence.parts[0].language, 1);
  EXPECT_EQ(sequence.parts[1].end, 9);
  EXPECT_EQ(sequence.parts[1].language, 0);
  EXPECT_EQ(sequence.parts[2].end, 12) << "c";
  EXPECT_EQ(sequence.parts[3].end, 16) << "d e: the positive and what came before are no negatives";
  EXPECT_EQ(sequence.labels.size(), sequence.ids.size());
}

TEST_F(Tokens, ExamplesWithNothingToLearnAreEmpty) {
  const auto tokens = std::make_shared<InteractionTokens>(tokenizer_, options_);
  const LateInteraction objective(tokens, {"en", "es"}, {.negatives = 1});
  EXPECT_TRUE(objective.encode(example("a", "b")).empty()) << "no hard negative";
  EXPECT_TRUE(objective.encode(example("a", "b", {"b", "a"})).empty());
  EXPECT_TRUE(objective.encode(example("a", "a", {"b"})).empty());
  EXPECT_TRUE(objective.encode(example("", "a", {"b"})).empty());
  EXPECT_THAT([&] { (void)objective.encode(example("a", "", {"b"})); },
              ThrowsMessage<DataError>(HasSubstr("row 1 of source 'pairs' is not a pair")));
  // Documents of punctuation alone, where nothing frames them.
  options_.query_expansion = false;
  const auto bytes =
      std::make_shared<InteractionTokens>(std::make_shared<test::ByteTokenizer>(false, false), options_);
  const LateInteraction bare(bytes, {"en", "es"}, {.negatives = 1});
  EXPECT_TRUE(bare.encode(example("a", "...", {"b"})).empty());
  EXPECT_TRUE(bare.encode(example("a", "b", {"..."})).empty());
  EXPECT_EQ(bare.encode(example("a", "b", {"...", "c"})).parts.size(), 3U);
}

}  // namespace
}  // namespace bitrain::objectives
