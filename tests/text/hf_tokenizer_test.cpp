#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/line_reader.h>
#include <bitrain/text/hf_tokenizer.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>
#include <bitrain/text/tokenizer_json.h>

#include "support/temporary_directory.h"
#include "text/corpus.h"

namespace bitrain::text {
namespace {

using io::Json;
using ::testing::HasSubstr;

/// What Hugging Face's `tokenizers` gives (golden/make_tokenizers.py).
const Json& golden() {
  static const Json kGolden = [] {
    io::LineReader reader(std::string(BITRAIN_SOURCE_DIR) + "/tests/text/golden/tokenizers.json.zst");
    std::string text;
    EXPECT_TRUE(reader.next(text));
    return io::parse_json(text, "golden");
  }();
  return kGolden;
}

std::shared_ptr<const Tokenizer> make(const std::string& json, const Json& config = nullptr) {
  return make_hf_tokenizer(json, config, "tokenizer.json");
}
std::shared_ptr<const Tokenizer> make_golden(const std::string& name) {
  for (const Json& entry : golden()) {
    if (entry["name"] == name) return make(entry["tokenizer"].get<std::string>());
  }
  throw StateError("no golden tokenizer ", name);
}

TEST(HfTokenizer, GivesTheIdsOfTokenizers) {
  ASSERT_EQ(golden().size(), 9U);
  for (const Json& entry : golden()) {
    const auto tokenizer = make(entry["tokenizer"].get<std::string>());
    for (const Json& sample : entry["cases"]) {
      const auto text = sample["text"].get<std::string>();
      EXPECT_EQ(tokenizer->encode(text), sample["ids"].get<std::vector<TokenId>>())
          << entry["name"] << ": " << text;
      EXPECT_EQ(tokenizer->encode_with_offsets(text).ids, tokenizer->encode(text));
    }
  }
}

TEST(HfTokenizer, DecodesAsTokenizersDoes) {
  for (const Json& entry : golden()) {
    const auto tokenizer = make(entry["tokenizer"].get<std::string>());
    for (const Json& sample : entry["cases"]) {
      const auto ids = sample["ids"].get<std::vector<TokenId>>();
      EXPECT_EQ(tokenizer->decode(ids), sample["decoded"].get<std::string>())
          << entry["name"] << ": " << sample["text"];
    }
  }
}

TEST(HfTokenizer, OffsetsLieInTheTextAndTileItWithoutNormalisation) {
  for (const Json& entry : golden()) {
    const auto tokenizer = make(entry["tokenizer"].get<std::string>());
    for (const Json& sample : entry["cases"]) {
      const auto text = sample["text"].get<std::string>();
      const Encoding encoding = tokenizer->encode_with_offsets(text);
      ASSERT_EQ(encoding.offsets.size(), encoding.ids.size());
      const auto size = static_cast<std::int32_t>(text.size());
      std::int32_t at = 0;
      bool tiled = true;
      for (const Offset& offset : encoding.offsets) {
        EXPECT_LE(0, offset.begin);
        EXPECT_LE(offset.begin, offset.end);
        EXPECT_LE(offset.end, size);
        tiled = tiled && offset.begin == at;
        at = offset.end;
      }
      // Without normalisation nothing is left out and nothing is covered twice.
      EXPECT_TRUE(entry["name"] != "gpt2" || (tiled && at == size)) << text;
    }
  }
}

TEST(HfTokenizer, ReadsWhatWeWrite) {
  for (const char* type : {"bpe", "unigram"}) {
    const std::vector<std::string> lines = test::corpus_column(1, 1500);
    TrainOptions options;
    options.vocab_size = 900;
    options.model_type = type;
    options.pad = true;
    const auto ours = make_sentencepiece_tokenizer(train_sentencepiece(lines_of(lines), options));
    const test::TemporaryDirectory folder;
    ours->save(folder.path());
    std::filesystem::remove(folder.path() / "tokenizer.model");
    const auto read = open_tokenizer(folder.path());
    EXPECT_EQ(read->vocab_size(), ours->vocab_size());
    EXPECT_EQ(read->special_tokens().bos, 1);
    EXPECT_EQ(read->special_tokens().eos, 2);
    EXPECT_EQ(read->special_tokens().unk, 0);
    EXPECT_EQ(read->special_tokens().pad, 3);
    std::vector<std::string> texts = test::corpus_column(2, 500);
    texts.insert(texts.end(), {"", " ", "  a  b ", "日本 😀", std::string(500, '=')});
    for (const std::string& text : texts) {
      const Encoding a = ours->encode_with_offsets(text);
      const Encoding b = read->encode_with_offsets(text);
      ASSERT_EQ(a.ids, b.ids) << text;
      for (std::size_t i = 0; i < a.ids.size(); ++i) {
        EXPECT_EQ(a.offsets[i].begin, b.offsets[i].begin);
        EXPECT_EQ(a.offsets[i].end, b.offsets[i].end);
      }
      EXPECT_EQ(ours->decode(a.ids), read->decode(a.ids));
    }
  }
}

TEST(OpenTokenizer, TakesTheFileWithAddedTokens) {
  const std::vector<std::string> lines = test::corpus_column(1, 500);
  TrainOptions options;
  options.vocab_size = 500;
  const auto ours = make_sentencepiece_tokenizer(train_sentencepiece(lines_of(lines), options));
  const test::TemporaryDirectory folder;
  ours->save(folder.path());
  Json json = io::read_json(folder.path() / "tokenizer.json");
  json["added_tokens"].push_back({{"id", 500}, {"content", "<|user|>"}, {"special", true}});
  io::write_json(folder.path() / "tokenizer.json", json);
  const auto opened = open_tokenizer(folder.path());
  EXPECT_EQ(opened->vocab_size(), 501);
  EXPECT_EQ(opened->piece_to_id("<|user|>"), 500);
  EXPECT_EQ(opened->encode(lines[3]), ours->encode(lines[3]));
  // tokenizer.model says the same of all that it knows: the added token joins its pieces.
  const auto* pieces = dynamic_cast<const SentencePieceTokenizer*>(opened.get());
  ASSERT_NE(pieces, nullptr);
  EXPECT_EQ(pieces->model().pieces.back().text, "<|user|>");
  EXPECT_EQ(opened->encode_markup("<|user|>", {{0, 8}}).ids, (std::vector<TokenId>{500}));
}

TEST(OpenTokenizer, LeavesATokenizerModelOfAnotherTokenizer) {
  const std::vector<std::string> lines = test::corpus_column(1, 500);
  TrainOptions options;
  options.vocab_size = 500;
  const auto ours = make_sentencepiece_tokenizer(train_sentencepiece(lines_of(lines), options));
  options.vocab_size = 501;
  const auto other = make_sentencepiece_tokenizer(train_sentencepiece(lines_of(lines), options));
  const test::TemporaryDirectory folder;
  ours->save(folder.path());
  io::write_file_atomic(folder.path() / "tokenizer.model", other->model().serialize());
  std::vector<std::string> said;
  const LogSink before = set_log_sink([&](LogLevel, const std::string& line) { said.push_back(line); });
  const auto opened = open_tokenizer(folder.path());
  set_log_sink(before);
  EXPECT_EQ(opened->vocab_size(), 500);
  EXPECT_THAT(said,
              testing::ElementsAre(HasSubstr("tokenizer.model is not the tokenizer of tokenizer.json")));
  const test::TemporaryDirectory to;
  opened->save(to.path());
  EXPECT_FALSE(std::filesystem::exists(to.path() / "tokenizer.model"));
  EXPECT_EQ(io::read_file(to.path() / "tokenizer.json"), io::read_file(folder.path() / "tokenizer.json"));
}

TEST(HfTokenizer, SavesWhatItRead) {
  const auto tokenizer = make_golden("llama3");
  const test::TemporaryDirectory folder;
  tokenizer->save(folder.path());
  const auto again = open_tokenizer(folder.path());
  EXPECT_EQ(again->encode("¡Ñandú! 123"), tokenizer->encode("¡Ñandú! 123"));
  EXPECT_EQ(io::read_json(folder.path() / "tokenizer_config.json")["tokenizer_class"],
            "PreTrainedTokenizerFast");
}

TEST(HfTokenizer, SpecialTokensComeFromTheConfiguration) {
  const Json config = {
      {"bos_token", {{"content", "<|endoftext|>"}}}, {"eos_token", "<|endoftext|>"}, {"pad_token", nullptr}};
  for (const Json& entry : golden()) {
    if (entry["name"] != "gpt2") continue;
    const auto tokenizer = make(entry["tokenizer"].get<std::string>(), config);
    EXPECT_EQ(tokenizer->special_tokens().bos, 0);
    EXPECT_EQ(tokenizer->special_tokens().eos, 0);
    EXPECT_FALSE(tokenizer->special_tokens().pad);
    EXPECT_EQ(tokenizer->decode({0}), "");
    EXPECT_GT(tokenizer->encode("<|endoftext|>").size(), 1U);
  }
}

/// "a" to "f" and a few added tokens: special ones, one that takes spaces, one that is not special.
std::shared_ptr<const Tokenizer> with_markers(const Json& config = nullptr) {
  const Json vocabulary = {{"a", 0}, {"b", 1}, {"<", 2}, {">", 3}, {"s", 4}, {" ", 5}, {"x", 6}};
  Json json = {{"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}},
               {"normalizer", {{"type", "Lowercase"}}},
               {"added_tokens", Json::array()}};
  const auto add = [&](TokenId id, const char* text, Json more) {
    more["id"] = id;
    more["content"] = text;
    json["added_tokens"].push_back(more);
  };
  add(10, "<s>", {{"special", true}});
  add(11, "<s>x", {{"special", true}});
  add(12, "<S>", {{"special", true}, {"normalized", true}, {"lstrip", true}, {"rstrip", true}});
  add(13, "sx", {{"special", false}, {"normalized", false}});
  return make(json.dump(), config);
}

std::vector<std::pair<std::int32_t, std::int32_t>> pairs(const std::vector<Offset>& offsets) {
  std::vector<std::pair<std::int32_t, std::int32_t>> result;
  for (const Offset& offset : offsets) result.emplace_back(offset.begin, offset.end);
  return result;
}

TEST(HfTokenizer, MarkupDecidesWhereSpecialTokensAreRead) {
  const auto tokenizer = with_markers();
  const std::string text = "a<s>b<s>a";
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(tokenizer->encode(text), (Ids{0, 2, 4, 3, 1, 2, 4, 3, 0}));
  EXPECT_EQ(tokenizer->encode_markup(text, {}).ids, tokenizer->encode(text));
  const Encoding all = tokenizer->encode_markup(text, {{0, 9}});
  EXPECT_EQ(all.ids, (Ids{0, 10, 1, 10, 0}));
  EXPECT_THAT(pairs(all.offsets),
              testing::ElementsAre(testing::Pair(0, 1), testing::Pair(1, 4), testing::Pair(4, 5),
                                   testing::Pair(5, 8), testing::Pair(8, 9)));
  EXPECT_EQ(tokenizer->encode_markup(text, {{1, 4}}).ids, (Ids{0, 10, 1, 2, 4, 3, 0}));
  EXPECT_EQ(tokenizer->encode_markup(text, {{5, 8}}).ids, (Ids{0, 2, 4, 3, 1, 10, 0}));
  EXPECT_EQ(tokenizer->encode_markup(text, {{0, 3}, {3, 9}}).ids, (Ids{0, 2, 4, 3, 1, 10, 0}));
  EXPECT_EQ(tokenizer->encode_markup(text, {{0, 3}, {6, 9}}).ids, tokenizer->encode(text));
}

TEST(HfTokenizer, ATextBehindAMarkerMakesItNoOther) {
  const auto tokenizer = with_markers();
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(tokenizer->encode_markup("<s>x", {{0, 4}}).ids, (Ids{11}));
  EXPECT_EQ(tokenizer->encode_markup("<s>x", {{0, 3}}).ids, (Ids{10, 6}));
  // As `tokenizers` does with encode_special_tokens: "<s>x" is passed over, and "sx" alone is a token.
  EXPECT_EQ(tokenizer->encode("<s>x"), (Ids{2, 4, 3, 6}));
  EXPECT_EQ(tokenizer->encode("<sx"), (Ids{2, 13}));
}

TEST(HfTokenizer, MarkupCountsInTheTextBeforeNormalisation) {
  const auto tokenizer = with_markers();
  using Ids = std::vector<TokenId>;
  const std::string text = "a <S> b <S>";
  const Encoding all = tokenizer->encode_markup(text, {{0, 11}});
  EXPECT_EQ(all.ids, (Ids{0, 12, 1, 12}));
  EXPECT_EQ(tokenizer->encode_markup(text, {{2, 5}}).ids, (Ids{0, 12, 1, 5, 2, 4, 3}));
}

TEST(HfTokenizer, SplitsSpecialTokensWhereTheFolderSaysSo) {
  const auto tokenizer = with_markers({{"split_special_tokens", true}});
  EXPECT_EQ(tokenizer->encode_markup("<s>", {{0, 3}}).ids, tokenizer->encode("<s>"));
}

TEST(HfTokenizer, InvalidUtf8BecomesReplacementCharacters) {
  const auto tokenizer = make_golden("gpt2");
  const std::string text = "ab\xFF\xC3(";
  const Encoding encoding = tokenizer->encode_with_offsets(text);
  EXPECT_EQ(tokenizer->decode(encoding.ids), "ab\xEF\xBF\xBD\xEF\xBF\xBD(");
  EXPECT_EQ(encoding.offsets.back().end, static_cast<std::int32_t>(text.size()));
}

TEST(HfTokenizer, RefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = make_golden("gpt2");
  EXPECT_THROW(static_cast<void>(tokenizer->decode({-1})), DataError);
  EXPECT_THROW(static_cast<void>(tokenizer->id_to_piece(1 << 20)), DataError);
}

std::string message_of(const std::string& json) {
  try {
    static_cast<void>(make(json));
  } catch (const Error& error) {
    return std::string(kind_name(error.kind())) + ": " + error.what();
  }
  return "none";
}

/// A good little tokenizer with one part replaced.
std::string with(const std::string& key, const Json& value) {
  Json json = {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}}}};
  json[Json::json_pointer(key)] = value;
  return json.dump();
}

TEST(HfTokenizer, NamesUnknownComponents) {
  EXPECT_EQ(message_of(with("/version", "1.0")), "none");
  EXPECT_THAT(message_of(with("/normalizer", {{"type", "Other"}})),
              HasSubstr("tokenizer.json: normalizer: the type 'Other' is not supported"));
  EXPECT_THAT(message_of(with("/pre_tokenizer", {{"type", "Other"}})),
              HasSubstr("pre_tokenizer: the type 'Other' is not supported"));
  EXPECT_THAT(message_of(with("/decoder", {{"type", "Other"}})), HasSubstr("decoder: the type 'Other'"));
  EXPECT_THAT(message_of(with("/post_processor", {{"type", "Other"}})),
              HasSubstr("post_processor: the type 'Other'"));
  EXPECT_THAT(message_of(with("/model/type", "Other")), HasSubstr("the type 'Other' is not supported"));
  EXPECT_THAT(message_of(with("/model/dropout", 0.1)), HasSubstr("'dropout' is not supported"));
  EXPECT_THAT(message_of(with(
                  "/pre_tokenizer",
                  Json::parse(R"({"type":"Split","pattern":{"Regex":"(unclosed"},"behavior":"Isolated"})"))),
              HasSubstr("the expression '(unclosed' is not supported"));
}

TEST(HfTokenizer, RefusesComponentsThatCannotBe) {
  const auto message = [](const std::string& key, const char* json) {
    return message_of(with(key, Json::parse(json)));
  };
  EXPECT_THAT(message("/pre_tokenizer", R"({"type":"FixedLength","length":0})"), HasSubstr("'length' is 0"));
  EXPECT_THAT(message("/pre_tokenizer", R"({"type":"CharDelimiterSplit","delimiter":"ab"})"),
              HasSubstr("the delimiter 'ab' is not one character"));
  EXPECT_THAT(message("/pre_tokenizer", R"({"type":"CharDelimiterSplit","delimiter":""})"),
              HasSubstr("the delimiter '' is not one character"));
  EXPECT_THAT(message("/decoder", R"({"type":"BPEDecoder","suffix":""})"), HasSubstr("an empty 'suffix'"));
  EXPECT_THAT(
      message("/decoder", R"({"type":"CTC","pad_token":"","word_delimiter_token":"|","cleanup":true})"),
      HasSubstr("an empty 'pad_token'"));
  EXPECT_THAT(message("/model", R"({"type":"WordLevel","vocab":{"a":-1},"unk_token":"a"})"),
              HasSubstr("the id of 'a'"));
  EXPECT_THAT(message("/model", R"({"type":"WordLevel","vocab":["a"],"unk_token":"a"})"),
              HasSubstr("'vocab' is not an object"));
  EXPECT_THAT(message("/model", R"({"type":"WordLevel","vocab":{"a":0}})"),
              HasSubstr("'unk_token' is missing"));
  EXPECT_THAT(
      message("/model", R"({"type":"BPE","vocab":{"a":0,"<0x41>":1},"merges":[],"byte_fallback":true})"),
      HasSubstr("1 of the 256 pieces"));
  EXPECT_THAT(message("/model", R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"],
                                   "continuing_subword_prefix":"###"})"),
              HasSubstr("lacks the prefix '###'"));
}

TEST(HfTokenizer, AWordWithoutATokenIsAnError) {
  const auto tokenizer = make(R"({"model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"[UNK]"},
                                  "pre_tokenizer":{"type":"WhitespaceSplit"}})");
  EXPECT_EQ(tokenizer->encode("a a"), (std::vector<TokenId>{0, 0}));
  EXPECT_THROW(static_cast<void>(tokenizer->encode("a b")), DataError);
}

TEST(HfTokenizer, StepsBehindByteLevelSeeItsCharacters) {
  const auto tokenizer = make(R"({
      "model":{"type":"WordLevel","vocab":{"[UNK]":0,"Ġ":1,"Ã":2,"²":3,"b":4},"unk_token":"[UNK]"},
      "pre_tokenizer":{"type":"Sequence","pretokenizers":[
        {"type":"ByteLevel","add_prefix_space":false,"use_regex":false},
        {"type":"Digits","individual_digits":true},
        {"type":"Split","pattern":{"String":"Ġ"},"behavior":"Isolated"}]}})");
  const Encoding encoding = tokenizer->encode_with_offsets("\xC3\xB2 b");  // "ò", whose second byte is "²".
  EXPECT_EQ(encoding.ids, (std::vector<TokenId>{2, 3, 1, 4}));
  std::vector<std::pair<int, int>> offsets;
  for (const Offset& offset : encoding.offsets) offsets.emplace_back(offset.begin, offset.end);
  EXPECT_EQ(offsets, (std::vector<std::pair<int, int>>{{0, 1}, {1, 2}, {2, 3}, {3, 4}}));
}

TEST(HfTokenizer, RefusesDamage) {
  EXPECT_THAT(message_of(""), HasSubstr("format error: tokenizer.json"));
  EXPECT_THAT(message_of("[]"), HasSubstr("no object"));
  EXPECT_THAT(message_of("{}"), HasSubstr("model: not an object"));
  EXPECT_THAT(message_of(with("/model/vocab", Json::array())), HasSubstr("'vocab' is not an object"));
  EXPECT_THAT(message_of(with("/model/vocab/a", -1)), HasSubstr("the id of 'a'"));
  EXPECT_THAT(message_of(with("/model/vocab/a", 1LL << 40)), HasSubstr("the id of 'a'"));
  EXPECT_THAT(message_of(with("/model/vocab/a", "0")), HasSubstr("the id of 'a'"));
  EXPECT_THAT(message_of(with("/model/merges", Json::array({"a c"}))),
              HasSubstr("merge 0, 'a' 'c', is not of the vocabulary"));
  EXPECT_THAT(message_of(with("/model/merges", Json::array({"abc"}))),
              HasSubstr("merge 0 is not two tokens"));
  EXPECT_THAT(message_of(with("/model/merges", Json::array({7}))), HasSubstr("merge 0 is not two tokens"));
  EXPECT_THAT(message_of(with("/model/unk_token", "zz")),
              HasSubstr("the unk_token 'zz' is not in the vocabulary"));
  EXPECT_THAT(message_of(with("/added_tokens", 3)), HasSubstr("added_tokens: not a list"));
  EXPECT_THAT(message_of(with("/added_tokens", Json::parse(R"([{"content":"x"}])"))),
              HasSubstr("'id' is missing"));
  EXPECT_THAT(message_of(with("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "!!"}})),
              HasSubstr("not base64"));
  EXPECT_THAT(message_of(with("/normalizer", {{"type", "Prepend"}})), HasSubstr("'prepend' is missing"));
  EXPECT_THAT(message_of(R"({"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":3}})"),
              HasSubstr("unk_id 3"));
  EXPECT_THAT(message_of(R"({"model":{"type":"Unigram","vocab":[["a"]]}})"),
              HasSubstr("piece 0 is not a text and a score"));
}

TEST(HfTokenizer, EndsARunawayExpression) {
  const auto tokenizer =
      make(with("/pre_tokenizer",
                Json::parse(R"({"type":"Split","pattern":{"Regex":"(a+)+$"},"behavior":"Isolated"})")));
  EXPECT_THROW(static_cast<void>(tokenizer->encode(std::string(60, 'a') + "b")), DataError);
}

TEST(HfTokenizer, CountsHolesInTheVocabulary) {
  const auto tokenizer = make(with("/model/vocab/b", 900));
  EXPECT_EQ(tokenizer->vocab_size(), 901);
  EXPECT_THROW(static_cast<void>(tokenizer->id_to_piece(500)), DataError);
}

TEST(HfTokenizer, NormalisersThatGrowATextWithoutEndAreAnError) {
  const Json doubles = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  Json steps = Json::array();
  for (int i = 0; i < 30; ++i) steps.push_back(doubles);
  const auto chain = make(with("/normalizer", {{"type", "Sequence"}, {"normalizers", steps}}));
  const auto message = [](const auto& act) {
    try {
      act();
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const char* const kRefused = "the tokenizer's rules make more than 65600 bytes of a text of 1 bytes";
  EXPECT_THAT(message([&] { (void)chain->encode("a"); }), HasSubstr(kRefused));
  EXPECT_THAT(message([&] { (void)chain->encode_with_offsets("a"); }), HasSubstr(kRefused));
  // In one step, and by an expression that matches nothing between all characters.
  const std::string long_text(std::size_t{1} << 20, 'b');
  const auto one = make(
      with("/normalizer", {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", long_text}}));
  EXPECT_THAT(message([&] { (void)one->encode("a"); }), HasSubstr(kRefused));
  const auto empty = make(
      with("/normalizer",
           {{"type", "Replace"}, {"pattern", {{"Regex", "(?=a)"}}}, {"content", std::string(1000, 'b')}}));
  EXPECT_THAT(message([&] { (void)empty->encode(std::string(10'000, 'a')); }),
              HasSubstr("make more than 705536 bytes of a text of 10000 bytes"));
}

TEST(HfTokenizer, OtherNormalisersInAChainDoNotBeginTheCountAnew) {
  for (const Json& between :
       {Json{{"type", "BertNormalizer"},
             {"clean_text", true},
             {"handle_chinese_chars", true},
             {"strip_accents", nullptr},
             {"lowercase", true}},
        Json{{"type", "NFKC"}}, Json{{"type", "Lowercase"}},
        Json{{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}}, Json{{"type", "ByteLevel"}}}) {
    Json steps = Json::array();
    for (int i = 0; i < 30; ++i) {
      steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
      steps.push_back(between);
    }
    const auto chain = make(with("/normalizer", {{"type", "Sequence"}, {"normalizers", steps}}));
    try {
      (void)chain->encode("a");
      ADD_FAILURE() << "nothing was thrown: " << between;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("bytes of a text of 1 bytes"));
    }
  }
}

TEST(HfTokenizer, WhatUnicodeMakesOfATextIsNotTooLong) {
  std::string texts;
  for (int i = 0; i < 50'000; ++i) texts += "\uFDFA";  // 18 characters each.
  const auto tokenizer = make(with("/normalizer", {{"type", "NFKD"}}));
  EXPECT_NO_THROW((void)tokenizer->encode_with_offsets(texts));
}

TEST(HfTokenizer, DecodersThatGrowATextWithoutEndAreAnError) {
  Json steps = Json::array();
  for (int i = 0; i < 30; ++i)
    steps.push_back({{"type", "Replace"}, {"pattern", {{"Regex", "."}}}, {"content", "aa"}});
  const Json one = {{"type", "Replace"},
                    {"pattern", {{"Regex", "."}}},
                    {"content", std::string(std::size_t{1} << 20, 'a')}};
  for (const Json& decoder : {Json{{"type", "Sequence"}, {"decoders", steps}}, one}) {
    const auto tokenizer = make(with("/decoder", decoder));
    try {
      (void)tokenizer->decode({0});
      ADD_FAILURE() << "nothing was thrown";
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("the tokenizer's decoder makes more than"));
    }
  }
}

}  // namespace
}  // namespace bitrain::text
