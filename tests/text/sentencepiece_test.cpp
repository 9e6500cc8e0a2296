#include <cstring>
#include <limits>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

// sentencepiece defines its own absl::string_view: no Abseil header before it.
#include <sentencepiece_processor.h>

#include <bitrain/base/error.h>
#include <bitrain/io/file.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>
#include <bitrain/text/utf8.h>

#include "support/temporary_directory.h"
#include "text/corpus.h"

// Of libc10; its header is not for us.
extern bool FLAGS_caffe2_use_fatal_for_enforce;

namespace bitrain::text {
namespace {

using test::corpus_column;
using ::testing::HasSubstr;

const std::vector<std::string>& english() {
  static const std::vector<std::string> kLines = corpus_column(1, 3000);
  return kLines;
}
const std::vector<std::string>& spanish() {
  static const std::vector<std::string> kLines = corpus_column(2, 3000);
  return kLines;
}

/// Texts at which tokenizers go wrong.
const std::vector<std::string>& hard_texts() {
  static const std::vector<std::string> kTexts = {
      "",
      " ",
      "  ",
      "a",
      " a",
      "a ",
      "  two  spaces  ",
      "¡Ñandú! ¿Qué?",
      "日本語のテキスト",
      "😀👨‍👩‍👧 emoji",
      "e\xCC\x81 combining",
      "\tTab\xE2\x80\xA8line separator\xC2\xA0nbsp",
      "<s> </s> <0x41> <unk>",
      "\xE2\x96\x81 \xE2\x96\x81\xE2\x96\x81x",
      "1234567890",
      "======= ----- aaaaaaaaaaaaaaa",
      "\xEF\xBF\xBD",
      "x\n\ny",
      std::string(3000, 'a') + std::string(500, ' ') + std::string(300, '=')};
  return kTexts;
}

SpmModel train(const std::string& type, std::int64_t size = 1200, bool byte_fallback = true) {
  TrainOptions options;
  options.vocab_size = size;
  options.model_type = type;
  options.byte_fallback = byte_fallback;
  return train_sentencepiece(lines_of(english()), options);
}

class SentencePiece : public ::testing::TestWithParam<const char*> {
 protected:
  static const SentencePieceTokenizer& tokenizer() {
    static std::map<std::string, std::shared_ptr<const SentencePieceTokenizer>> made;
    auto& found = made[GetParam()];
    if (found == nullptr) found = make_sentencepiece_tokenizer(train(GetParam()));
    return *found;
  }
};
INSTANTIATE_TEST_SUITE_P(Types, SentencePiece, ::testing::Values("bpe", "unigram"));

void expect_as_library(const SentencePieceTokenizer& ours, const std::vector<std::string>& texts) {
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(ours.model().serialize()).ok());
  for (const std::string& text : texts) {
    const std::vector<TokenId> ids = ours.encode(text);
    EXPECT_EQ(ids, library.EncodeAsIds(text)) << text;
    EXPECT_EQ(ours.decode(ids), library.DecodeIds(ids)) << text;
    const Encoding encoding = ours.encode_with_offsets(text);
    EXPECT_EQ(encoding.ids, ids);
    sentencepiece::ImmutableSentencePieceText pieces;
    ASSERT_TRUE(library.Encode(text, pieces.mutable_proto()).ok());
    ASSERT_EQ(pieces.pieces_size(), ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ours.model().pieces[static_cast<std::size_t>(ids[i])].type == PieceType::kByte) continue;
      EXPECT_EQ(encoding.offsets[i].begin,
                static_cast<std::int32_t>(pieces.pieces(static_cast<int>(i)).begin()));
      EXPECT_EQ(encoding.offsets[i].end, static_cast<std::int32_t>(pieces.pieces(static_cast<int>(i)).end()));
    }
  }
}

TEST_P(SentencePiece, EncodesAsTheLibraryDoes) {
  expect_as_library(tokenizer(), english());
  expect_as_library(tokenizer(), spanish());
  expect_as_library(tokenizer(), hard_texts());
}

TEST_P(SentencePiece, EncodesAsTheLibraryDoesWithoutByteFallback) {
  expect_as_library(SentencePieceTokenizer(train(GetParam(), 1000, false)), hard_texts());
}

TEST_P(SentencePiece, EncodesAsTheLibraryDoesUnderNormalisation) {
  for (const char* normalization : {"nmt_nfkc", "nfkc_cf"}) {
    TrainOptions options;
    options.vocab_size = 900;
    options.model_type = GetParam();
    options.normalization = normalization;
    options.remove_extra_whitespaces = true;
    const SentencePieceTokenizer made(train_sentencepiece(lines_of(english()), options));
    std::vector<std::string> texts = hard_texts();
    texts.insert(texts.end(),
                 {"ﬁne ① ＡＢＣ ﷺ Ⅷ", " e\xCC\x81  Å ", "가각힣", "\xE3\x80\x80wide\xE3\x80\x80"});
    expect_as_library(made, texts);
    expect_as_library(made, spanish());
  }
}

TEST_P(SentencePiece, GivesTextBack) {
  for (const auto* texts : {&english(), &spanish(), &hard_texts()}) {
    for (const std::string& text : *texts) {
      if (text.find(kSpaceMark) != std::string::npos) continue;  // A mark reads as a space.
      EXPECT_EQ(tokenizer().decode(tokenizer().encode(text)), text);
    }
  }
}

TEST_P(SentencePiece, OffsetsTileTheText) {
  for (const auto* texts : {&spanish(), &hard_texts()}) {
    for (const std::string& text : *texts) {
      const Encoding encoding = tokenizer().encode_with_offsets(text);
      std::int32_t at = 0;
      for (const Offset& offset : encoding.offsets) {
        EXPECT_EQ(offset.begin, at) << text;
        EXPECT_LE(offset.begin, offset.end);
        at = offset.end;
      }
      EXPECT_EQ(at, static_cast<std::int32_t>(text.size()));
    }
  }
}

TEST_P(SentencePiece, BytePiecesHaveTheirOwnByte) {
  const Encoding encoding = tokenizer().encode_with_offsets("日");
  ASSERT_EQ(encoding.ids.size(), 4U);  // "▁" and three bytes.
  EXPECT_EQ(tokenizer().id_to_piece(encoding.ids[1]), "<0xE6>");
  EXPECT_EQ(tokenizer().id_to_piece(encoding.ids[3]), "<0xA5>");
  for (std::int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(encoding.offsets[static_cast<std::size_t>(i) + 1].begin, i);
    EXPECT_EQ(encoding.offsets[static_cast<std::size_t>(i) + 1].end, i + 1);
  }
}

TEST_P(SentencePiece, InvalidUtf8BecomesReplacementCharacters) {
  const std::string text = "ab\xFF\xC3(\xE6\x97";
  const Encoding encoding = tokenizer().encode_with_offsets(text);
  EXPECT_EQ(encoding.ids, tokenizer().encode(text));
  EXPECT_EQ(tokenizer().decode(encoding.ids), "ab\xEF\xBF\xBD\xEF\xBF\xBD(\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(encoding.offsets.back().end, static_cast<std::int32_t>(text.size()));
  EXPECT_EQ(tokenizer().decode({*tokenizer().piece_to_id("<0xC3>")}), "\xEF\xBF\xBD");
}

TEST_P(SentencePiece, SpecialTokensHaveTheirIdsAndNeverComeFromText) {
  EXPECT_EQ(tokenizer().special_tokens().unk, 0);
  EXPECT_EQ(tokenizer().special_tokens().bos, 1);
  EXPECT_EQ(tokenizer().special_tokens().eos, 2);
  EXPECT_FALSE(tokenizer().special_tokens().pad);
  for (const TokenId id : tokenizer().encode("<s></s><unk>")) EXPECT_GT(id, 2);
  EXPECT_EQ(tokenizer().decode({1, *tokenizer().piece_to_id("▁the"), 2}), "the");
}

TEST_P(SentencePiece, MarkupDecidesWhereSpecialTokensAreRead) {
  const std::string text = "the </s> the <s>";
  const Encoding none = tokenizer().encode_markup(text, {});
  EXPECT_EQ(none.ids, tokenizer().encode(text));
  const Encoding one = tokenizer().encode_markup(text, {{0, 8}});
  EXPECT_EQ(std::count(one.ids.begin(), one.ids.end(), 2), 1);
  EXPECT_EQ(std::count(one.ids.begin(), one.ids.end(), 1), 0);
  const auto end = static_cast<std::size_t>(std::find(one.ids.begin(), one.ids.end(), 2) - one.ids.begin());
  EXPECT_EQ(one.offsets[end].begin, 4);
  EXPECT_EQ(one.offsets[end].end, 8);
  const Encoding all = tokenizer().encode_markup(text, {{0, 16}});
  EXPECT_EQ(std::count(all.ids.begin(), all.ids.end(), 1), 1);
  EXPECT_EQ(all.ids.back(), 1);
}

TEST_P(SentencePiece, RefusesIdsOutsideTheVocabulary) {
  EXPECT_THROW(static_cast<void>(tokenizer().decode({-1})), DataError);
  EXPECT_THROW(static_cast<void>(tokenizer().decode({1200})), DataError);
  EXPECT_THROW(static_cast<void>(tokenizer().id_to_piece(1200)), DataError);
  EXPECT_FALSE(tokenizer().piece_to_id("no such piece"));
}

TEST_P(SentencePiece, TrainsTheSameModelAgain) {
  EXPECT_EQ(train(GetParam(), 600).serialize(), train(GetParam(), 600).serialize());
}

TEST_P(SentencePiece, SavesAndOpens) {
  const test::TemporaryDirectory folder;
  tokenizer().save(folder.path());
  for (const char* file :
       {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
    EXPECT_TRUE(std::filesystem::exists(folder.path() / file)) << file;
  const auto opened = open_tokenizer(folder.path());
  EXPECT_EQ(opened->encode(spanish()[7]), tokenizer().encode(spanish()[7]));
  EXPECT_EQ(opened->vocab_size(), tokenizer().vocab_size());
}

TEST(SpmTrainer, DoesNotWriteOverLibTorchsFlags) {
  EXPECT_FALSE(FLAGS_caffe2_use_fatal_for_enforce);  // text/sentencepiece_flag.cpp says how it could.
}

TEST(SpmTrainer, AddsPadAndControlSymbols) {
  TrainOptions options;
  options.vocab_size = 500;
  options.pad = true;
  options.control_symbols = {"<|user|>", "<|end|>"};
  const auto made = make_sentencepiece_tokenizer(train_sentencepiece(lines_of(english()), options));
  EXPECT_EQ(made->special_tokens().pad, 3);
  ASSERT_TRUE(made->piece_to_id("<|end|>"));
  EXPECT_EQ(made->decode({*made->piece_to_id("<|end|>")}), "");
  for (const TokenId id : made->encode("<|end|>")) EXPECT_NE(id, *made->piece_to_id("<|end|>"));
}

TEST(SpmTrainer, SplitsDigits) {
  TrainOptions options;
  options.vocab_size = 400;
  std::vector<std::string> lines(50, "in the year 1999 and in 1998 and 1997");
  options.exact_vocab_size = false;
  const auto made = make_sentencepiece_tokenizer(train_sentencepiece(lines_of(lines), options));
  EXPECT_EQ(made->encode("1999").size(), 5U);  // "▁" and the digits.
}

TEST(SpmTrainer, NamesBadText) {
  const auto message_of = [](const std::vector<std::string>& lines, std::int64_t size) -> std::string {
    TrainOptions options;
    options.vocab_size = size;
    try {
      static_cast<void>(train_sentencepiece(lines_of(lines), options));
    } catch (const Error& error) {
      return std::string(kind_name(error.kind())) + ": " + error.what();
    }
    return "none";
  };
  EXPECT_THAT(message_of({}, 400), HasSubstr("data error: there is no text"));
  EXPECT_THAT(message_of({"", ""}, 400), HasSubstr("data error: there is no text"));
  EXPECT_THAT(message_of({"good",
                          "b\xFF"
                          "ad"},
                         400),
              HasSubstr("data error: line 2: byte 2 is not UTF-8"));
  EXPECT_THAT(message_of({"too little text"}, 8000),
              HasSubstr("config error: cannot learn 8000 pieces from 1 lines"));
}

// --- models ---------------------------------------------------------------------------------------------

TEST(SpmModel, SerializesWhatItRead) {
  const SpmModel model = train("bpe", 500);
  const std::string bytes = model.serialize();
  // The trainer's own order of fields is kept, so nothing changes but what is edited.
  EXPECT_EQ(SpmModel::parse(bytes, "again").serialize(), bytes);
  sentencepiece::SentencePieceProcessor library;
  EXPECT_TRUE(library.LoadFromSerializedProto(bytes).ok());
  EXPECT_EQ(library.GetPieceSize(), 500);
}

TEST(SpmModel, KeepsUnknownFields) {
  std::string bytes = train("bpe", 400).serialize();
  const std::string extra = "\xA2\x06\x03xyz";  // Field 100, three bytes.
  SpmModel model = SpmModel::parse(bytes + extra, "model");
  EXPECT_EQ(model.other_fields.substr(model.other_fields.size() - extra.size()), extra);
  EXPECT_EQ(SpmModel::parse(model.serialize(), "again").other_fields, model.other_fields);
  model.pieces[5].unknown_fields = extra;
  EXPECT_EQ(SpmModel::parse(model.serialize(), "again").pieces[5].unknown_fields, extra);
}

TEST(SpmModel, AppendsAndUpdatesItsSize) {
  SpmModel model = train("bpe", 400);
  model.append({{"▁zzqq", model.lowest_score() - 1, PieceType::kNormal, {}}});
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(model.serialize()).ok());
  EXPECT_EQ(library.GetPieceSize(), 401);
  EXPECT_EQ(library.IdToPiece(400), "▁zzqq");
  EXPECT_THROW(model.append({{"▁zzqq", 0, PieceType::kNormal, {}}}), StateError);
  EXPECT_THROW(model.append({{"\xFF", 0, PieceType::kNormal, {}}}), StateError);
}

TEST(SpmModel, RefusesDamage) {
  const std::string good = train("bpe", 400).serialize();
  const auto refused = [](const std::string& bytes) {
    try {
      static_cast<void>(SpmModel::parse(bytes, "bad.model"));
    } catch (const FormatError& error) {
      EXPECT_THAT(error.what(), HasSubstr("bad.model"));
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused("not a model"));
  EXPECT_TRUE(refused(good.substr(0, good.size() / 2)));
  EXPECT_TRUE(refused(good.substr(0, 20) + '\xFF' + good.substr(21)));
  EXPECT_TRUE(refused(std::string(1000, '\xFF')));                   // A varint without end.
  EXPECT_TRUE(refused("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"));  // A length of 2^63.
  SpmModel model = SpmModel::parse(good, "good");
  const auto changed = [&](auto&& change) {
    SpmModel copy = model;
    change(copy);
    return copy.serialize();
  };
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[300].text = m.pieces[301].text; })));
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[300].text.clear(); })));
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[300].text = "\xC3"; })));
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[300].text = std::string(5000, 'a'); })));
  EXPECT_TRUE(
      refused(changed([](SpmModel& m) { m.pieces[300].score = std::numeric_limits<float>::quiet_NaN(); })));
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[300].type = PieceType::kUnknown; })));
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[0].type = PieceType::kControl; })));
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[10].type = PieceType::kNormal; })));  // 255 bytes.
  EXPECT_TRUE(refused(changed([](SpmModel& m) { m.pieces[10].text = "<0xZZ>"; })));
}

TEST(SpmModel, RefusesADamagedNormalisationTable) {
  SpmModel model = train("bpe", 400);
  for (const std::string& table :
       {std::string("\x01"), std::string("\xFF\xFF\xFF\x7Fxxxx"), std::string(4, '\0')}) {
    model.precompiled_charsmap = table;
    EXPECT_THROW(SentencePieceTokenizer{model}, FormatError);
  }
  // Offsets that point nowhere are only ever not found.
  model.precompiled_charsmap = std::string("\x08\0\0\0", 4) + std::string(8, '\xFF') + "text";
  EXPECT_FALSE(SentencePieceTokenizer(model).encode("any text").empty());
}

TEST(SpmModel, RefusesWhatItCannotSegment) {
  SpmModel model = train("bpe", 400);
  model.type = SpmType::kWord;
  EXPECT_THROW(SentencePieceTokenizer{model}, UnsupportedError);
  model.type = SpmType::kBpe;
  model.treat_whitespace_as_suffix = true;
  EXPECT_THROW(SentencePieceTokenizer{model}, UnsupportedError);
}

TEST(SpmModel, UserDefinedPiecesAreWhole) {
  for (const char* type : {"bpe", "unigram"}) {
    SpmModel model = train(type, 600);
    model.pieces.push_back({"<sep>", 0, PieceType::kUserDefined, {}});
    model.pieces.push_back({"<sep>>", 0, PieceType::kUserDefined, {}});
    expect_as_library(SentencePieceTokenizer(model),
                      {"a<sep>b", "the <sep>> the", "<sep><sep>>", " <sep>", "<se"});
  }
}

TEST(OpenTokenizer, SaysWhatIsMissing) {
  const test::TemporaryDirectory folder;
  try {
    static_cast<void>(open_tokenizer(folder.path()));
    FAIL();
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("no tokenizer.model, tokenizer.json or vocab.txt"));
  }
  EXPECT_THROW(static_cast<void>(open_tokenizer(folder.path() / "absent")), IoError);
  io::write_file_atomic(folder.path() / "tokenizer.model", "damaged");
  EXPECT_THROW(static_cast<void>(open_tokenizer(folder.path())), FormatError);
}

}  // namespace
}  // namespace bitrain::text
