#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/io/line_reader.h>
#include <bitrain/text/hf_tokenizer.h>

#include "support/temporary_directory.h"

namespace bitrain::text {
namespace {

using io::Json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<TokenId>;

/// What Hugging Face's `tokenizers` gives (golden/make_encoder_tokenizers.py).
const Json& golden() {
  static const Json kGolden = [] {
    io::LineReader reader(std::string(BITRAIN_SOURCE_DIR) + "/tests/text/golden/encoder_tokenizers.json.zst");
    std::string text;
    EXPECT_TRUE(reader.next(text));
    return io::parse_json(text, "golden");
  }();
  return kGolden;
}

std::shared_ptr<const HfTokenizer> make(const std::string& json, const Json& config = nullptr) {
  return make_hf_tokenizer(json, config, "tokenizer.json");
}

std::vector<std::vector<std::int32_t>> pairs_of(const std::vector<Offset>& offsets) {
  std::vector<std::vector<std::int32_t>> pairs;
  for (const Offset& offset : offsets) pairs.push_back({offset.begin, offset.end});
  return pairs;
}

TEST(EncoderTokenizers, GiveTheIdsAndOffsetsOfTokenizers) {
  ASSERT_EQ(golden().size(), 8U);
  for (const Json& entry : golden()) {
    const auto tokenizer = make(entry["tokenizer"].get<std::string>());
    for (const Json& sample : entry["cases"]) {
      const auto text = sample["text"].get<std::string>();
      const Encoding encoding = tokenizer->encode_with_offsets(text);
      EXPECT_EQ(encoding.ids, sample["ids"].get<Ids>()) << entry["name"] << ": " << text;
      EXPECT_EQ(tokenizer->encode(text), encoding.ids);
      EXPECT_TRUE(encoding.type_ids.empty());
      EXPECT_EQ(tokenizer->decode(encoding.ids), sample["decoded"].get<std::string>())
          << entry["name"] << ": " << text;
      if (entry["name"] == "roberta")
        continue;  // Byte-level tokens have their own bytes, not whole characters.
      EXPECT_EQ(pairs_of(encoding.offsets), sample["offsets"].get<std::vector<std::vector<std::int32_t>>>())
          << entry["name"] << ": " << text;
    }
  }
}

TEST(EncoderTokenizers, FrameTextsAsTokenizersDoes) {
  for (const Json& entry : golden()) {
    const auto tokenizer = make(entry["tokenizer"].get<std::string>());
    const InputTemplate& frame = tokenizer->input_template();
    const auto text = [&](int i) {
      return tokenizer->encode_with_offsets(
          entry["pair"]["texts"][static_cast<std::size_t>(i)].get<std::string>());
    };
    const Encoding one = frame.frame(text(0));
    EXPECT_EQ(one.ids, entry["single"]["ids"].get<Ids>()) << entry["name"];
    EXPECT_EQ(one.type_ids, entry["single"]["type_ids"].get<std::vector<std::int32_t>>()) << entry["name"];
    EXPECT_EQ(frame.frame(text(0).ids), one.ids);
    EXPECT_EQ(frame.special_count(), 2);
    EXPECT_EQ(one.offsets.front().end, 0);
    EXPECT_EQ(one.offsets.back().end, 0);
    EXPECT_EQ(one.offsets[1].end, text(0).offsets[0].end);
    const Encoding two = frame.frame(text(0), text(1));
    EXPECT_EQ(two.ids, entry["pair"]["ids"].get<Ids>()) << entry["name"];
    EXPECT_EQ(two.type_ids, entry["pair"]["type_ids"].get<std::vector<std::int32_t>>()) << entry["name"];
    EXPECT_EQ(two.offsets.size(), two.ids.size());
    EXPECT_EQ(frame.special_count(true), entry["name"].get<std::string>().rfind("bert", 0) == 0 ? 3 : 4);
  }
}

/// A good little BERT tokenizer.
Json little() {
  return Json::parse(R"({
    "added_tokens": [{"id": 0, "content": "[UNK]", "special": true}],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                   "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 8,
              "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4, "##bc": 5, "ab": 6, "##c": 7,
                        "n": 8, "##n": 9, ".": 10, "##": 11}}})");
}
std::shared_ptr<const HfTokenizer> make_little(const Json& json = little()) {
  return make(json.dump());
}

TEST(WordPiece, TakesTheLongestPieceFromTheLeft) {
  const auto tokenizer = make_little();
  EXPECT_THAT(tokenizer->encode("abc"), ElementsAre(6, 7));
  EXPECT_THAT(tokenizer->encode("nbc"), ElementsAre(8, 5));
  EXPECT_THAT(tokenizer->encode("A\xCC\x81"
                                "B n."),
              ElementsAre(6, 8, 10));
  EXPECT_THAT(tokenizer->encode("abx a"), ElementsAre(0, 3));  // The whole word is unknown.
  EXPECT_THAT(tokenizer->encode("bn"), ElementsAre(0));        // "b" only goes on.
  EXPECT_THAT(tokenizer->encode("abbbbbbb"), ElementsAre(6, 4, 4, 4, 4, 4, 4));
  EXPECT_THAT(tokenizer->encode("abbbbbbbb"), ElementsAre(0));  // Nine characters.
  EXPECT_THAT(pairs_of(tokenizer
                           ->encode_with_offsets(" \xC3\xA1"
                                                 "bc")
                           .offsets),
              ElementsAre(ElementsAre(1, 4), ElementsAre(4, 5)));
}

TEST(WordPiece, CutsPiecesAndCharactersItLacks) {
  const auto tokenizer = make_little();
  const WordPieceModel& model = *tokenizer->wordpiece();
  EXPECT_THAT(model.encode_piece("abc"), ElementsAre(6, 7));
  EXPECT_THAT(model.encode_piece("##bcb"), ElementsAre(5, 4));
  EXPECT_THAT(model.encode_piece("a\xC3\xB1"
                                 "b"),
              ElementsAre(3, 0, 4));
  EXPECT_THAT(model.encode_piece("\xC3\xB1"), ElementsAre(0));
  EXPECT_EQ(model.prefix(), "##");
  EXPECT_EQ(model.max_input_characters(), 8);
}

TEST(WordPiece, ReadsModelsWithoutType) {
  Json json = little();
  json["model"].erase("type");
  EXPECT_THAT(make_little(json)->encode("abc"), ElementsAre(6, 7));
}

TEST(WordPiece, LongWordsTakeNoLongerPerCharacter) {
  Json json = little();
  json["model"]["max_input_chars_per_word"] = 1LL << 40;
  const auto tokenizer = make_little(json);
  const auto seconds = [&](std::size_t length) {
    const std::string word = "a" + std::string(length, 'b') + "x";  // Unknown only at its end.
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(tokenizer->encode(word).size(), 1U);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  // Quadratic time would take minutes here.
  EXPECT_LT(seconds(4'000'000), 20);
}

TEST(WordPiece, GivesTheWordsAndTakesMorePieces) {
  const auto tokenizer = make_little();
  EXPECT_THAT(tokenizer->words("N\xC3\x81. ab\t\xE6\x97\xA5"), ElementsAre("na", ".", "ab", "\xE6\x97\xA5"));
  const auto more = tokenizer->with_pieces({"nn", "##x"});
  EXPECT_EQ(more->vocab_size(), 14);
  EXPECT_THAT(more->encode("nn abx abc"), ElementsAre(12, 6, 13, 6, 7));
  EXPECT_EQ(more->input_template().special_count(), 2);
  EXPECT_THROW(static_cast<void>(tokenizer->with_pieces({"ab"})), DataError);
  EXPECT_THROW(static_cast<void>(tokenizer->with_pieces({"x", "x"})), DataError);
  EXPECT_THROW(static_cast<void>(tokenizer->with_pieces({""})), DataError);
  EXPECT_THROW(static_cast<void>(tokenizer->with_pieces({"\xFF"})), DataError);
  const auto bpe = make(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})");
  EXPECT_EQ(bpe->wordpiece(), nullptr);
  EXPECT_THROW(static_cast<void>(bpe->with_pieces({"x"})), UnsupportedError);
}

TEST(WordPiece, IsSafeToShareBetweenThreads) {
  const auto tokenizer = make(golden()[0]["tokenizer"].get<std::string>());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (const Json& sample : golden()[0]["cases"])
        EXPECT_EQ(tokenizer->encode(sample["text"].get<std::string>()), sample["ids"].get<Ids>());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::string message_of(const Json& json) {
  try {
    static_cast<void>(make_little(json));
  } catch (const Error& error) {
    return std::string(kind_name(error.kind())) + ": " + error.what();
  }
  return "none";
}
std::string message_with(const std::string& key, const Json& value) {
  Json json = little();
  json[Json::json_pointer(key)] = value;
  return message_of(json);
}
std::string message_without(const std::string& part, const std::string& key) {
  Json json = little();
  json[part].erase(key);
  return message_of(json);
}

TEST(WordPiece, RefusesDamage) {
  EXPECT_EQ(message_of(little()), "none");
  for (const char* key : {"unk_token", "continuing_subword_prefix", "max_input_chars_per_word"})
    EXPECT_THAT(message_without("model", key),
                HasSubstr(std::string("format error: tokenizer.json: model: '") + key + "' is missing"));
  EXPECT_THAT(message_without("model", "vocab"), HasSubstr("model: 'vocab' is not an object"));
  EXPECT_THAT(message_with("/model/vocab/ab", -6), HasSubstr("the id of 'ab' is not a whole number"));
  EXPECT_THAT(message_with("/model/unk_token", "<unk>"),
              HasSubstr("the unk_token '<unk>' is not in the vocabulary"));
  EXPECT_THAT(message_with("/model/unk_token", 0), HasSubstr("'unk_token' has the wrong type"));
  EXPECT_THAT(message_with("/model/max_input_chars_per_word", 0),
              HasSubstr("'max_input_chars_per_word' is 0"));
  for (const char* key : {"clean_text", "handle_chinese_chars", "lowercase"})
    EXPECT_THAT(message_without("normalizer", key),
                HasSubstr(std::string("normalizer: '") + key + "' is missing"));
  EXPECT_THAT(message_with("/normalizer/strip_accents", "yes"),
              HasSubstr("'strip_accents' has the wrong type"));
  EXPECT_THAT(message_without("decoder", "prefix"), HasSubstr("decoder: 'prefix' is missing"));
  EXPECT_THAT(message_without("decoder", "cleanup"), HasSubstr("decoder: 'cleanup' is missing"));
}

TEST(PostProcessor, RefusesDamage) {
  EXPECT_THAT(message_without("post_processor", "sep"),
              HasSubstr("post_processor: 'sep' is not a token and its id"));
  EXPECT_THAT(message_with("/post_processor/cls", {"[CLS]", "1"}),
              HasSubstr("'cls': an id is not a whole number"));
  EXPECT_THAT(message_with("/post_processor/cls", {"[CLS]", 99}),
              HasSubstr("the id 99 is not in the vocabulary"));
  const auto message = [](const char* single, const char* pair = R"([{"Sequence":{"id":"A","type_id":0}},)"
                                                                 R"({"Sequence":{"id":"B","type_id":1}}])") {
    return message_with(
        "/post_processor",
        Json::parse(std::string(R"({"type":"TemplateProcessing","single":)") + single + R"(,"pair":)" + pair +
                    R"(,"special_tokens":{"[CLS]":{"id":"[CLS]","ids":[1],"tokens":["[CLS]"]},)"
                    R"("[SEP]":{"id":"[SEP]","tokens":[]}}})"));
  };
  const std::string a = R"({"Sequence":{"id":"A","type_id":0}})";
  EXPECT_EQ(message(("[" + a + "]").c_str()), "none");
  EXPECT_THAT(message("7"), HasSubstr("post_processor: 'single' is not a list"));
  EXPECT_THAT(message("[]"), HasSubstr("'single': the text 'A' does not stand in it once"));
  EXPECT_THAT(message(("[" + a + "," + a + "]").c_str()),
              HasSubstr("the text 'A' does not stand in it once"));
  EXPECT_THAT(message(("[" + a + "]").c_str(), ("[" + a + "]").c_str()),
              HasSubstr("'pair': the text 'B' does not stand in it once"));
  EXPECT_THAT(message(R"([{"Sequence":{"id":"B","type_id":0}}])"), HasSubstr("there is no text 'B'"));
  EXPECT_THAT(message(R"([{"Sequence":{"id":"A"}}])"), HasSubstr("'type_id' is missing"));
  EXPECT_THAT(message(R"([{"Sequence":{"id":"A","type_id":-1}}])"), HasSubstr("'type_id' is -1"));
  EXPECT_THAT(message(R"([{"Token":{"id":"A","type_id":0}}])"), HasSubstr("'single': not an object"));
  EXPECT_THAT(message(R"([{"SpecialToken":{"id":"[X]","type_id":0}}])"),
              HasSubstr("the token '[X]' is not among the special_tokens"));
  EXPECT_THAT(message(R"([{"SpecialToken":{"id":"[SEP]","type_id":0}}])"),
              HasSubstr("the ids of '[SEP]' are not a list"));
  const Json bert = little()["post_processor"];
  EXPECT_EQ(message_with("/post_processor", {{"type", "Sequence"},
                                             {"processors", Json::array({bert, {{"type", "ByteLevel"}}})}}),
            "none");
  EXPECT_THAT(
      message_with("/post_processor", {{"type", "Sequence"}, {"processors", Json::array({bert, bert})}}),
      HasSubstr("two steps that add special tokens"));
}

/// A BERT folder of the old form.
class OldFolder : public ::testing::Test {
 protected:
  void write(const std::string& lines, const Json& config = Json::object()) {
    io::write_file_atomic(folder_.path() / "vocab.txt", lines);
    io::write_json(folder_.path() / "tokenizer_config.json", config);
  }
  std::string message(const std::string& lines, const Json& config = Json::object()) {
    write(lines, config);
    try {
      static_cast<void>(open_tokenizer(folder_.path()));
    } catch (const Error& error) {
      return std::string(kind_name(error.kind())) + ": " + error.what();
    }
    return "none";
  }
  const std::string lines_ = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nab\n##c\nC\n\xC3\xA1\na\n";
  test::TemporaryDirectory folder_;
};

TEST_F(OldFolder, IsReadByItsConfiguration) {
  write(lines_);
  const auto lower = open_tokenizer(folder_.path());
  EXPECT_EQ(lower->vocab_size(), 10);
  EXPECT_THAT(lower->encode("ABC \xC3\xA1 C"), ElementsAre(5, 6, 9, 1));
  EXPECT_THAT(lower->input_template().frame(lower->encode("ab")), ElementsAre(2, 5, 3));
  EXPECT_EQ(lower->decode({2, 5, 6, 3}), "abc");
  write(lines_, {{"do_lower_case", false}, {"cls_token", "[CLS]"}, {"tokenizer_class", "BertTokenizerFast"}});
  const auto cased = open_tokenizer(folder_.path());
  EXPECT_THAT(cased->encode("AB \xC3\xA1 C"), ElementsAre(1, 8, 7));
  EXPECT_EQ(cased->special_tokens().cls, 2);
  write(lines_, {{"strip_accents", false}});
  EXPECT_THAT(open_tokenizer(folder_.path())->encode("\xC3\x81"), ElementsAre(8));
}

TEST_F(OldFolder, IsSavedWithTokenizerJson) {
  write(lines_, {{"do_lower_case", false}, {"mask_token", {{"content", "[MASK]"}}}});
  const auto tokenizer = open_tokenizer(folder_.path());
  const test::TemporaryDirectory to;
  tokenizer->save(to.path());
  EXPECT_EQ(io::read_file(to.path() / "vocab.txt"), lines_);
  EXPECT_TRUE(std::filesystem::exists(to.path() / "tokenizer.json"));
  const Json config = io::read_json(to.path() / "tokenizer_config.json");
  EXPECT_EQ(config["do_lower_case"], false);
  EXPECT_EQ(config["tokenizer_class"], "BertTokenizer");
  EXPECT_EQ(config["mask_token"], (Json{{"content", "[MASK]"}}));
  EXPECT_EQ(open_tokenizer(to.path())->encode("abc C x"), tokenizer->encode("abc C x"));
}

TEST_F(OldFolder, TakesWindowsLines) {
  write("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nab");
  EXPECT_THAT(open_tokenizer(folder_.path())->encode("ab"), ElementsAre(5));
}

TEST_F(OldFolder, TakesLinesAsTheyAre) {
  // Of two equal lines the later counts, an empty line is one, white space at an end is none of the token's.
  write("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nab\n\nc \t\nab\n\n");
  const auto tokenizer = open_tokenizer(folder_.path());
  EXPECT_THAT(tokenizer->encode("ab c"), ElementsAre(8, 7));
  EXPECT_EQ(tokenizer->vocab_size(), 10);
}

TEST_F(OldFolder, AddsSpecialTokensThatItLacks) {
  write("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n");
  const auto tokenizer = open_tokenizer(folder_.path());
  EXPECT_EQ(tokenizer->special_tokens().mask, 5);
  EXPECT_THAT(tokenizer->encode_markup("a[MASK]", {{0, 7}}).ids, ElementsAre(4, 5));
}

TEST_F(OldFolder, RefusesDamage) {
  EXPECT_THAT(message("[PAD]\n[CLS]\n[SEP]\n[MASK]\n"), HasSubstr("[UNK]"));
  EXPECT_THAT(message(""), HasSubstr("vocab.txt: is empty"));
  EXPECT_THAT(message("\xEF\xBB\xBF" + lines_), HasSubstr("vocab.txt: begins with a byte order mark"));
  EXPECT_THAT(message("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\nb\n"),
              HasSubstr("the added token '[MASK]' the id 6, which is another token's"));
  EXPECT_THAT(message(lines_ + "\xFF\n"), HasSubstr("is not UTF-8"));
  EXPECT_THAT(message(lines_, {{"do_lower_case", "no"}}), HasSubstr("'do_lower_case' has the wrong type"));
  EXPECT_THAT(message(lines_, {{"tokenizer_class", "MPNetTokenizer"}}),
              HasSubstr("tokenizer_config.json: AutoTokenizer makes a MPNetTokenizer of this folder"));
  EXPECT_THAT(message(lines_, {{"unk_token", Json::array()}}),
              HasSubstr("tokenizer_config.json: 'unk_token' is neither a text nor an object"));
}

}  // namespace
}  // namespace bitrain::text
