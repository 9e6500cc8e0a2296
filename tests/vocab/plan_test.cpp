#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/vocab/fertility.h>
#include <bitrain/vocab/piece_learner.h>
#include <bitrain/vocab/plan.h>

#include "support/byte_tokenizer.h"
#include "text/corpus.h"

namespace bitrain::vocab {
namespace {

using test::corpus_column;
using ::testing::HasSubstr;
using text::lines_of;
using text::TokenId;

const std::vector<std::string>& english() {
  static const std::vector<std::string> kLines = corpus_column(1, 2500);
  return kLines;
}
const std::vector<std::string>& spanish() {
  static const std::vector<std::string> kLines = corpus_column(2, 2500);
  return kLines;
}

std::shared_ptr<const text::Tokenizer> base(const std::string& type = "bpe", std::int64_t size = 1500) {
  static std::map<std::pair<std::string, std::int64_t>, std::shared_ptr<const text::Tokenizer>> made;
  auto& found = made[{type, size}];
  if (found == nullptr) {
    text::TrainOptions options;
    options.vocab_size = size;
    options.model_type = type;
    found = text::make_sentencepiece_tokenizer(text::train_sentencepiece(lines_of(english()), options));
  }
  return found;
}

struct Case {
  const char* type;
  const char* method;
};
class Plan : public ::testing::TestWithParam<Case> {
 protected:
  static ExtensionPlan make(std::int64_t pieces = 600) {
    ExtensionOptions options;
    options.pieces = pieces;
    options.method = GetParam().method;
    return plan_extension(base(GetParam().type), lines_of(spanish()), options);
  }
};
INSTANTIATE_TEST_SUITE_P(
    Methods, Plan, ::testing::Values(Case{"bpe", "continue"}, Case{"bpe", "merge"}, Case{"unigram", "merge"}),
    [](const auto& param) { return std::string(param.param.type) + "_" + param.param.method; });

TEST_P(Plan, KeepsOldIdsAndReachesEveryNewPiece) {
  const ExtensionPlan plan = make();
  ASSERT_GT(plan.pieces.size(), 300U);
  ASSERT_LE(plan.pieces.size(), 600U);
  ASSERT_EQ(plan.vocab_size(), plan.old_vocab_size() + static_cast<std::int64_t>(plan.pieces.size()));
  for (TokenId id = 0; id < plan.old_vocab_size(); ++id)
    ASSERT_EQ(plan.tokenizer->id_to_piece(id), plan.base->id_to_piece(id));
  TokenId next = static_cast<TokenId>(plan.old_vocab_size());
  for (const NewPiece& piece : plan.pieces) {
    EXPECT_EQ(piece.id, next++);
    EXPECT_EQ(plan.tokenizer->id_to_piece(piece.id), piece.text);
    EXPECT_FALSE(plan.base->piece_to_id(piece.text));
    EXPECT_EQ(plan.tokenizer->encode_normalized(piece.text), std::vector<TokenId>{piece.id});
    EXPECT_EQ(piece.source, plan.base->encode_normalized(piece.text));
    // The sources spell the piece.
    EXPECT_EQ(plan.base->decode(piece.source), plan.tokenizer->decode({piece.id}));
  }
}

TEST_P(Plan, ShortensTheTargetAndHardlyChangesTheSource) {
  const ExtensionPlan plan = make();
  const Fertility before = measure_fertility(*plan.base, lines_of(spanish()));
  const Fertility after = measure_fertility(*plan.tokenizer, lines_of(spanish()));
  EXPECT_LT(static_cast<double>(after.tokens), 0.75 * static_cast<double>(before.tokens));
  EXPECT_EQ(after.words, before.words);
  EXPECT_EQ(after.bytes, before.bytes);
  EXPECT_LT(after.continued_share(), before.continued_share());
  const SegmentationChange change = segmentation_change(*plan.base, *plan.tokenizer, lines_of(english()));
  EXPECT_EQ(change.lines, 2500);
  EXPECT_LT(change.token_share(), 0.25);
  EXPECT_LE(change.token_share(), change.line_share());
  // Text comes back whole.
  for (const std::string& line : spanish())
    ASSERT_EQ(plan.tokenizer->decode(plan.tokenizer->encode(line)), line);
}

TEST_P(Plan, SaysWhyPiecesWereDropped) {
  const ExtensionPlan plan = make(40);
  for (const DroppedPiece& piece : plan.dropped) {
    EXPECT_THAT((std::set<std::string>{"exists", "unreachable", "rare", "surplus"}),
                ::testing::Contains(piece.reason));
    EXPECT_EQ(plan.base->piece_to_id(piece.text).has_value(), piece.reason == "exists") << piece.text;
  }
  if (std::string(GetParam().method) == "merge") {
    EXPECT_GT(plan.dropped_counts().at("exists"), 10);
    EXPECT_GT(plan.dropped_counts().at("surplus"), 10);
  }
}

TEST_P(Plan, IsAFunctionOfItsArguments) {
  EXPECT_EQ(make(50).tokenizer->model().serialize(), make(50).tokenizer->model().serialize());
}

TEST_P(Plan, CountsTheUsesOfPieces) {
  const ExtensionPlan plan = make(200);
  std::vector<std::int64_t> uses(static_cast<std::size_t>(plan.vocab_size()));
  for (const std::string& line : spanish())
    for (const TokenId id : plan.tokenizer->encode(line)) ++uses[static_cast<std::size_t>(id)];
  for (const NewPiece& piece : plan.pieces) EXPECT_EQ(piece.uses, uses[static_cast<std::size_t>(piece.id)]);
}

TEST_P(Plan, CanBeReadOffTwoTokenizers) {
  const ExtensionPlan plan = make(100);
  const ExtensionPlan same = plan_between(plan.base, plan.tokenizer);
  ASSERT_EQ(same.pieces.size(), plan.pieces.size());
  for (std::size_t i = 0; i < plan.pieces.size(); ++i) {
    EXPECT_EQ(same.pieces[i].text, plan.pieces[i].text);
    EXPECT_EQ(same.pieces[i].source, plan.pieces[i].source);
  }
}

TEST(Continuation, BeatsASeparateVocabularyOfTheSameSize) {
  ExtensionOptions options;
  options.pieces = 500;
  const auto tokens = [&](const char* method) {
    options.method = method;
    const ExtensionPlan plan = plan_extension(base(), lines_of(spanish()), options);
    return measure_fertility(*plan.tokenizer, lines_of(spanish())).tokens;
  };
  EXPECT_LT(tokens("continue"), tokens("merge"));
}

TEST(Continuation, MergesByHand) {
  // "ab" occurs 10 times, more than "▁a" and "ba"; then "▁" "ab" "ab" joins from the left.
  text::SpmModel model = dynamic_cast<const text::SentencePieceTokenizer&>(*base("bpe", 400)).model();
  std::vector<text::SpmPiece> kept;  // Characters only: no merges yet.
  for (const text::SpmPiece& piece : model.pieces)
    if (piece.type != text::PieceType::kNormal || text::SpmPiece(piece).text.size() == 1 || piece.text == "▁")
      kept.push_back(piece);
  model.pieces = kept;
  ExtensionOptions options;
  options.pieces = 3;
  options.min_frequency = 2;
  EXPECT_EQ(continue_merging(model, {{"▁abab", 5}, {"▁ac", 2}}, options),
            (std::vector<std::string>{"ab", "▁ab", "▁abab"}));
  options.pieces = 10;
  // "ac" occurs as often as min_frequency; digits never join, nor do letters and signs. "1" was missing.
  EXPECT_EQ(continue_merging(model, {{"▁ac", 2}, {"11", 9}, {"a,", 9}, {"x", 9}}, options),
            (std::vector<std::string>{"1", "▁a", "▁ac"}));
  options.min_frequency = 3;
  EXPECT_TRUE(continue_merging(model, {{"▁ac", 2}}, options).empty());
}

TEST(Continuation, AddsMissingCharactersFirst) {
  const auto tokenizer = base("bpe", 400);
  const auto& model = dynamic_cast<const text::SentencePieceTokenizer&>(*tokenizer).model();
  const std::vector<WordCount> words = {{"▁ж", 7}, {"▁жш", 5}, {"▁the", 100}, {"ы", 1}};
  EXPECT_EQ(missing_characters(model, words, 1.0, 1), (std::vector<std::string>{"ж", "ш", "ы"}));
  EXPECT_EQ(missing_characters(model, words, 1.0, 2), (std::vector<std::string>{"ж", "ш"}));
  EXPECT_EQ(missing_characters(model, words, 0.97, 1), (std::vector<std::string>{"ж"}));
}

TEST(Plan, NamesBadInput) {
  const auto tokenizer = base("bpe", 600);
  const auto message_of = [&](const std::shared_ptr<const text::Tokenizer>& from,
                              const std::vector<std::string>& lines) -> std::string {
    try {
      static_cast<void>(plan_extension(from, lines_of(lines), {}));
    } catch (const Error& error) {
      return std::string(kind_name(error.kind())) + ": " + error.what();
    }
    return "none";
  };
  EXPECT_THAT(message_of(tokenizer, {}), HasSubstr("data error: there is no text"));
  EXPECT_THAT(message_of(tokenizer, {"ok", "a\xFF"}), HasSubstr("data error: line 2: byte 2 is not UTF-8"));
  EXPECT_THAT(message_of(tokenizer, {"a"}), HasSubstr("data error: the text gives no piece"));
  EXPECT_THAT(message_of(std::make_shared<test::ByteTokenizer>(), {"a"}), HasSubstr("unsupported"));
  EXPECT_THROW(static_cast<void>(plan_between(base("bpe", 700), tokenizer)), StateError);
  EXPECT_THROW(static_cast<void>(plan_between(tokenizer, base("unigram", 700))), StateError);
}

TEST(Fertility, CountsByHand) {
  // One token a byte: a token belongs to the word it lies in, spaces to none.
  const std::vector<std::string> lines = {"ab c", "", "  d\t"};
  const Fertility result = measure_fertility(test::ByteTokenizer(), lines_of(lines));
  EXPECT_EQ(result.lines, 3);
  EXPECT_EQ(result.bytes, 8);
  EXPECT_EQ(result.tokens, 8);
  EXPECT_EQ(result.words, 3);
  EXPECT_EQ(result.continued_words, 1);
  EXPECT_DOUBLE_EQ(result.tokens_per_word(), 8.0 / 3.0);
  EXPECT_DOUBLE_EQ(result.bytes_per_token(), 1.0);
  EXPECT_DOUBLE_EQ(result.efficiency(), 3.0 / 8.0);
  EXPECT_DOUBLE_EQ(Fertility().tokens_per_word(), 0.0);
}

TEST(Fertility, CountsPiecesThatAreBytes) {
  const auto measured = [](const text::Tokenizer& tokenizer, const std::string& line) {
    const std::vector<std::string> lines = {line};
    return measure_fertility(tokenizer, lines_of(lines));
  };
  // Of one byte a token, those that are whole characters are none.
  EXPECT_EQ(measured(test::ByteTokenizer(), "se\u00f1al").byte_tokens, 2);
  EXPECT_EQ(measured(test::ByteTokenizer(), "").byte_share(), 0.0);
  // Byte fallback of SentencePiece: a character that no piece has, and a text that only looks like a piece.
  const Fertility snowman = measured(*base("bpe", 700), "the \u2603");
  EXPECT_EQ(snowman.byte_tokens, 3);
  EXPECT_DOUBLE_EQ(snowman.byte_share(), 3.0 / static_cast<double>(snowman.tokens));
  const auto words = text::make_hf_tokenizer(R"({
      "model":{"type":"WordLevel","vocab":{"[UNK]":0,"<0xC3>":1},"unk_token":"[UNK]"},
      "pre_tokenizer":{"type":"WhitespaceSplit"}})",
                                             nullptr, "tokenizer.json");
  EXPECT_EQ(measured(*words, "<0xC3> <0xC3>").byte_tokens, 0);
  // Byte-level pieces: halves of a character count, others do not.
  const auto byte_level = text::make_hf_tokenizer(R"({
      "model":{"type":"WordLevel","vocab":{"[UNK]":0,"\u0120":1,"\u00c3":2,"\u00b2":3,"b":4},"unk_token":"[UNK]"},
      "pre_tokenizer":{"type":"Sequence","pretokenizers":[
        {"type":"ByteLevel","add_prefix_space":false,"use_regex":false},
        {"type":"Digits","individual_digits":true},
        {"type":"Split","pattern":{"String":"\u0120"},"behavior":"Isolated"}]}})",
                                                  nullptr, "tokenizer.json");
  const Fertility halves = measured(*byte_level, "\u00f2 b");
  EXPECT_EQ(halves.tokens, 4);
  EXPECT_EQ(halves.byte_tokens, 2);
}

TEST(SegmentationChange, CountsTokensThatAreGone) {
  const auto tokenizer = base("bpe", 600);
  const auto& model = dynamic_cast<const text::SentencePieceTokenizer&>(*tokenizer).model();
  ASSERT_EQ(tokenizer->encode("the").size(), 1U);
  const auto extended = text::make_sentencepiece_tokenizer(append_below(model, {"zq"}));
  const std::vector<std::string> lines = {"the the", "the z the", "the zq the"};
  const SegmentationChange change = segmentation_change(*tokenizer, *extended, lines_of(lines));
  EXPECT_EQ(change.lines, 3);
  EXPECT_EQ(change.changed_lines, 1);
  EXPECT_EQ(change.changed_tokens, 2);  // "z" and "q" became "zq".
  EXPECT_EQ(segmentation_change(*tokenizer, *tokenizer, lines_of(lines)).changed_tokens, 0);
}

}  // namespace
}  // namespace bitrain::vocab
