#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/spm_trainer.h>

#include <bitrain/vocab/apply.h>
#include <bitrain/vocab/wordpiece_plan.h>

#include "support/temporary_directory.h"
#include "support/tiny_bert.h"
#include "text/corpus.h"

namespace bitrain::vocab {
namespace {

using io::Json;
using ::testing::HasSubstr;
using text::TokenId;

/// A BERT tokenizer whose vocabulary is `pieces` behind [UNK], [CLS] and [SEP].
std::shared_ptr<const text::HfTokenizer> make_base(const std::vector<std::string>& pieces,
                                                   bool lowercase = true) {
  Json vocabulary = {{"[UNK]", 0}, {"[CLS]", 1}, {"[SEP]", 2}};
  for (const std::string& piece : pieces) vocabulary[piece] = vocabulary.size();
  const Json json = {
      {"normalizer",
       {{"type", "BertNormalizer"},
        {"clean_text", true},
        {"handle_chinese_chars", true},
        {"strip_accents", nullptr},
        {"lowercase", lowercase}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor", {{"type", "BertProcessing"}, {"sep", {"[SEP]", 2}}, {"cls", {"[CLS]", 1}}}},
      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", false}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", "[UNK]"},
        {"continuing_subword_prefix", "##"},
        {"max_input_chars_per_word", 100},
        {"vocab", vocabulary}}}};
  return text::make_hf_tokenizer(json.dump(), nullptr, "tokenizer.json");
}

/// Every ASCII letter, in both forms, and some English.
std::vector<std::string> english_pieces() {
  std::vector<std::string> pieces;
  for (char c = 'a'; c <= 'z'; ++c) {
    pieces.emplace_back(1, c);
    pieces.push_back(std::string("##") + c);
  }
  for (const char* piece :
       {"the", "and", "of", "##ing", "##ed", "in", "##er", ",", ".", "1", "##1", "2", "##2"})
    pieces.emplace_back(piece);
  return pieces;
}

ExtensionOptions options_of(std::int64_t pieces, std::int64_t min_frequency = 2) {
  ExtensionOptions options;
  options.pieces = pieces;
  options.min_frequency = min_frequency;
  return options;
}

WordPiecePlan plan_of(const std::shared_ptr<const text::HfTokenizer>& base,
                      const std::vector<std::string>& lines, const ExtensionOptions& options) {
  return plan_wordpiece_extension(base, text::lines_of(lines), options);
}

std::vector<std::string> texts_of(const WordPiecePlan& plan) {
  std::vector<std::string> texts;
  for (const NewPiece& piece : plan.pieces) texts.push_back(piece.text);
  return texts;
}

TEST(WordPiecePlan, WarnsWhenTheNormaliserRemovesVowelSigns) {
  const auto warnings_of = [](const char* line, bool lowercase) {
    std::vector<std::string> warnings;
    const LogSink previous = set_log_sink([&](LogLevel level, const std::string& message) {
      if (level == LogLevel::kWarn) warnings.push_back(message);
    });
    (void)plan_of(make_base(english_pieces(), lowercase), std::vector<std::string>(4, line), options_of(30));
    set_log_sink(previous);
    return warnings;
  };
  for (const char* line : {"हिन्दी में क्षत्रिय और कुछ", "ภาษาไทยไม่มีช่องว่างที่", "العَرَبِيَّةُ مُفِيدَةٌ"}) {
    EXPECT_THAT(warnings_of(line, true), ::testing::ElementsAre(HasSubstr("combining marks"))) << line;
    EXPECT_TRUE(warnings_of(line, false).empty()) << line;
  }
  EXPECT_TRUE(warnings_of("árbol y niño están aquí", true).empty())
      << "accents of letters are no marks of their own";
}

TEST(WordPiecePlan, JoinsTheMostFrequentPairsFirst) {
  const auto base = make_base({"a", "##a", "b", "##b", "c", "##c"});
  // Pairs: a+##b 5, ##b+##c 3 (which the merge of "ab" leaves as ab+##c), c+##a 2.
  const WordPiecePlan plan = plan_of(base, {"ab ab abc abc abc", "ca ca"}, options_of(9));
  EXPECT_THAT(texts_of(plan), ::testing::ElementsAre("ab", "abc", "ca"));
  EXPECT_EQ(plan.pieces[0].uses, 2);
  EXPECT_EQ(plan.pieces[1].uses, 3);
  EXPECT_EQ(plan.pieces[1].id, 10);
  EXPECT_EQ(plan.pieces[1].source, (std::vector<TokenId>{3, 6, 8}));
  EXPECT_EQ(plan.tokenizer->encode("abc ca ab"), (std::vector<TokenId>{10, 11, 9}));
}

TEST(WordPiecePlan, GivesPlacesOfPiecesThatOthersMadeRareToOthers) {
  const auto base = make_base({"a", "##a", "##b", "##c", "##d"});
  // "ab" and "abc" only lead to "abcd"; then their two places go to what comes next.
  const WordPiecePlan plan = plan_of(base, {"abcd abcd abcd abcd", "ac ac ac", "ad ad"}, options_of(3));
  EXPECT_EQ(plan.pieces.size(), 3U);
  EXPECT_THAT(texts_of(plan), ::testing::UnorderedElementsAre("abcd", "ac", "ad"));
  for (const NewPiece& piece : plan.pieces) EXPECT_GE(piece.uses, 2) << piece.text;
  EXPECT_EQ(plan.dropped.size(), 2U);
  for (const DroppedPiece& piece : plan.dropped) EXPECT_EQ(piece.reason, "rare");
}

TEST(WordPiecePlan, CutsWordsAnewWhereTheLongestPieceChanges) {
  // "ab" is learned from other words; it then begins "abc" too, which was a + ##bc.
  const auto base = make_base({"a", "##a", "##b", "##c", "##bc"});
  const WordPiecePlan plan = plan_of(base, {"ab ab ab aba aba abc"}, options_of(1));
  EXPECT_THAT(texts_of(plan), ::testing::ElementsAre("ab"));
  EXPECT_EQ(plan.pieces[0].uses, 6);
}

TEST(WordPiecePlan, NeverMakesAWordOfTheTextUnknown) {
  // With "ab" the word "abc" could not be cut: "##c" is no piece.
  const auto base = make_base({"a", "##b", "##bc", "##d"});
  const WordPiecePlan plan = plan_of(base, {"ab ab ab ab abc ad ad"}, options_of(5));
  EXPECT_THAT(texts_of(plan), ::testing::ElementsAre("ad"));
  ASSERT_EQ(plan.dropped.size(), 1U);
  EXPECT_EQ(plan.dropped[0].text, "ab");
  EXPECT_EQ(plan.dropped[0].reason, "breaks");
  EXPECT_EQ(plan.tokenizer->encode("abc"), base->encode("abc"));
}

TEST(WordPiecePlan, AddsCharactersInBothForms) {
  const auto base = make_base({"a", "##a", "##n"}, false);
  const WordPiecePlan plan = plan_of(base,
                                     {"\xC3\xB1"
                                      "a \xC3\xB1"
                                      "a a\xC3\xB1 a\xC3\xB1 an"},
                                     options_of(8));
  ASSERT_GE(plan.pieces.size(), 2U);
  EXPECT_THAT(texts_of(plan), ::testing::UnorderedElementsAre("##\xC3\xB1", "\xC3\xB1",
                                                              "\xC3\xB1"
                                                              "a",
                                                              "a\xC3\xB1"));
  EXPECT_EQ(plan.pieces[0].source, (std::vector<TokenId>{0}));
  EXPECT_EQ(plan.tokenizer
                ->encode("\xC3\xB1\xC3\xB1"
                         "n")
                .size(),
            3U);
}

TEST(WordPiecePlan, KeepsDigitsAndKindsApart) {
  const auto base = make_base(english_pieces());
  const std::vector<std::string> lines(5, "12 12 a1 a1 1211");
  EXPECT_THROW(static_cast<void>(plan_of(base, lines, options_of(5))), DataError);
  ExtensionOptions options = options_of(5);
  options.split_digits = false;
  EXPECT_THAT(texts_of(plan_of(base, lines, options)), ::testing::Contains("12"));
  EXPECT_THAT(texts_of(plan_of(base, lines, options)), ::testing::Not(::testing::Contains("a1")));
}

TEST(WordPiecePlan, ExtendsToSpanish) {
  const auto base = make_base(english_pieces());
  const std::vector<std::string> spanish = test::corpus_column(2, 1500);
  ExtensionOptions options = options_of(300, 3);
  options.max_piece_length = 6;
  const WordPiecePlan plan = plan_of(base, spanish, options);
  ASSERT_EQ(plan.pieces.size(), 300U);
  EXPECT_EQ(plan.vocab_size(), plan.old_vocab_size() + 300);
  for (TokenId id = 0; id < plan.old_vocab_size(); ++id)
    ASSERT_EQ(plan.tokenizer->id_to_piece(id), base->id_to_piece(id));
  std::vector<std::int64_t> uses(300, 0);
  std::size_t before = 0;
  std::size_t after = 0;
  for (const std::string& line : spanish) {
    before += base->encode(line).size();
    for (const TokenId id : plan.tokenizer->encode(line)) {
      ++after;
      if (id >= plan.old_vocab_size()) ++uses[static_cast<std::size_t>(id - plan.old_vocab_size())];
    }
  }
  EXPECT_LT(static_cast<double>(after), 0.6 * static_cast<double>(before));
  for (std::size_t i = 0; i < 300; ++i) {
    const NewPiece& piece = plan.pieces[i];
    EXPECT_EQ(plan.tokenizer->piece_to_id(piece.text), piece.id);
    EXPECT_EQ(piece.uses, uses[i]) << piece.text;
    EXPECT_EQ(piece.source, base->wordpiece()->encode_piece(piece.text));
    EXPECT_FALSE(piece.source.empty());
    EXPECT_LE(piece.text.size(), piece.text.rfind("##", 0) == 0 ? 8U : 6U) << piece.text;
    EXPECT_TRUE(piece.uses >= 3 || piece.text.size() <= 4) << piece.text;  // Characters stay, used or not.
  }
  EXPECT_EQ(texts_of(plan_of(base, spanish, options)), texts_of(plan));
}

TEST(WordPiecePlan, IsFoundAgainFromTheFolders) {
  const auto base = make_base(english_pieces());
  const WordPiecePlan plan = plan_of(base, test::corpus_column(2, 300), options_of(50));
  const test::TemporaryDirectory folder;
  plan.tokenizer->save(folder.path());
  const auto opened = text::open_tokenizer(folder.path());
  const WordPiecePlan again = wordpiece_plan_between(base, opened);
  ASSERT_EQ(again.pieces.size(), plan.pieces.size());
  for (std::size_t i = 0; i < plan.pieces.size(); ++i) {
    EXPECT_EQ(again.pieces[i].text, plan.pieces[i].text);
    EXPECT_EQ(again.pieces[i].source, plan.pieces[i].source);
  }
  // The lines of vocab.txt are the pieces by id.
  const std::string lines = io::read_file(folder.path() / "vocab.txt");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), plan.vocab_size());
  EXPECT_EQ(lines.substr(0, 18), "[UNK]\n[CLS]\n[SEP]\n");
  EXPECT_THROW(static_cast<void>(wordpiece_plan_between(opened, base)), StateError);
  EXPECT_THROW(static_cast<void>(wordpiece_plan_between(make_base({"x"}), opened)), StateError);
}

TEST(WordPiecePlan, RefusesWhatItCannotExtend) {
  const auto base = make_base(english_pieces());
  EXPECT_THROW(static_cast<void>(plan_of(base, {}, options_of(5))), DataError);
  EXPECT_THROW(static_cast<void>(plan_of(base, {" "}, options_of(5))), DataError);
  EXPECT_THROW(static_cast<void>(plan_of(base, {"the"}, options_of(5))), DataError);
  try {
    static_cast<void>(plan_of(base, {"fine", "not \xFF fine"}, options_of(5)));
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("line 2: byte 5 is not UTF-8"));
  }
  ExtensionOptions merge = options_of(5);
  merge.method = "merge";
  EXPECT_THROW(static_cast<void>(plan_of(base, {"abc abc"}, merge)), UnsupportedError);
  const auto bpe =
      text::make_hf_tokenizer(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})", nullptr, "x");
  EXPECT_THROW(static_cast<void>(plan_of(bpe, {"abc"}, options_of(5))), UnsupportedError);
  EXPECT_THROW(static_cast<void>(plan_of(nullptr, {"abc"}, options_of(5))), StateError);
}

TEST(WordPiecePlan, LeavesAddedTokensAlone) {
  Json json = {{"added_tokens", Json::array({{{"id", 9}, {"content", "ab"}, {"single_word", true}}})},
               {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
               {"model",
                {{"type", "WordPiece"},
                 {"unk_token", "[UNK]"},
                 {"continuing_subword_prefix", "##"},
                 {"max_input_chars_per_word", 100},
                 {"vocab", {{"[UNK]", 0}, {"a", 1}, {"##b", 2}, {"##c", 3}}}}}};
  const auto base = text::make_hf_tokenizer(json.dump(), nullptr, "tokenizer.json");
  const WordPiecePlan plan = plan_of(base, {"abb abb abc abc acc acc"}, options_of(9));
  EXPECT_THAT(texts_of(plan), ::testing::Not(::testing::Contains("ab")));
  EXPECT_EQ(plan.pieces[0].id, 10);  // Behind the added token.
}

TEST(WordPieceExtension, GivesAnEncoderRowsByZipTie) {
  const auto base = make_base(english_pieces());
  const std::vector<std::string> lines(4, "el perro de la casa y la gata de la villa");
  const WordPiecePlan plan = plan_wordpiece_extension(base, text::lines_of(lines), options_of(8));
  models::BertConfig config = testing::tiny_bert_config();
  config.vocab_size = base->vocab_size() + 2;  // Two rows of padding.
  const auto model = testing::tiny_bert(at::kFloat, config);
  const at::Tensor before = model->input_embeddings().weight.clone();
  const ApplyReport report = apply_extension(*model, plan, {}, 1, 8);
  const at::Tensor after = model->input_embeddings().weight;
  EXPECT_EQ(report.added, static_cast<std::int64_t>(plan.pieces.size()));
  EXPECT_EQ(report.reused_padding, 2);
  EXPECT_EQ(after.size(0) % 8, 0);
  EXPECT_EQ(model->config().vocab_size, after.size(0));
  EXPECT_TRUE(at::equal(after.narrow(0, 0, base->vocab_size()), before.narrow(0, 0, base->vocab_size())));
  ASSERT_FALSE(plan.pieces.empty());
  for (const NewPiece& piece : plan.pieces) {
    at::Tensor mean = at::zeros({config.hidden_size});
    for (const TokenId id : piece.source) mean += before[id] / static_cast<double>(piece.source.size());
    EXPECT_LT((after[piece.id] - mean).abs().max().item<double>(), 1e-6) << piece.text;
  }
  InitialiserOptions weighted;
  weighted.preset = "weighted_mean";
  initialise_new_rows(*model, plan, weighted, 1);
  for (const NewPiece& piece : plan.pieces) {
    at::Tensor sum = at::zeros({config.hidden_size});
    double bytes = 0;
    for (const TokenId id : piece.source) {
      const std::string spelling = base->id_to_piece(id);
      const auto size = static_cast<double>(spelling.size() - (spelling.compare(0, 2, "##") == 0 ? 2 : 0));
      sum += before[id] * size;
      bytes += size;
    }
    EXPECT_LT((model->input_embeddings().weight[piece.id] - sum / bytes).abs().max().item<double>(), 1e-6);
  }
}

TEST(WordPieceExtension, RefusesAnEncoderOfAnotherTokenizer) {
  const auto base = make_base(english_pieces());
  const std::vector<std::string> lines(4, "el perro de la casa y la gata de la villa");
  const WordPiecePlan plan = plan_wordpiece_extension(base, text::lines_of(lines), options_of(8));
  EXPECT_THROW(apply_extension(*testing::tiny_bert(), plan, {}, 1), StateError);
}

}  // namespace
}  // namespace bitrain::vocab
