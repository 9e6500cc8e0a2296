#include <bitrain/text/spm_trainer.h>

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/base/log.h>
#include <bitrain/text/sentencepiece_tokenizer.h>

#include "support/comma_locale.h"

namespace bitrain::text {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using namespace std::string_literals;

/// What was logged while it lives.
class Log {
 public:
  Log() {
    previous_ = set_log_sink([this](LogLevel, const std::string& message) { text_ += message + "\n"; });
  }
  ~Log() { set_log_sink(previous_); }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
  LogSink previous_;
};

TrainOptions small(const std::string& type = "bpe") {
  TrainOptions options;
  options.model_type = type;
  options.vocab_size = 320;
  options.exact_vocab_size = false;
  return options;
}

std::shared_ptr<const SentencePieceTokenizer> learn(const std::vector<std::string>& lines,
                                                    const TrainOptions& options) {
  return make_sentencepiece_tokenizer(train_sentencepiece(lines_of(lines), options));
}

std::string refusal(const std::vector<std::string>& lines, const TrainOptions& options) {
  try {
    static_cast<void>(train_sentencepiece(lines_of(lines), options));
  } catch (const Error& error) {
    return std::string(kind_name(error.kind())) + ": " + error.what();
  }
  return "none";
}

std::string repeated(const std::string& text, std::size_t times) {
  std::string all;
  for (std::size_t i = 0; i < times; ++i) all += text;
  return all;
}

class TrainerText : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Types, TrainerText, ::testing::Values("bpe", "unigram"));

/// Every line is one that the trainer alone passes over.
TEST_P(TrainerText, LinesThatTheTrainerPassesOverAreLearnedFrom) {
  const std::vector<std::string> words = {"alpha beta gamma\u2585", "alpha\0beta gamma"s,
                                          "\u2585alpha beta gamma\0"s};
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < 60; ++i) lines.push_back(words[i % words.size()]);
  lines.push_back(repeated("delta epsilon ", 6000));  // 84,000 bytes.
  const Log log;
  const auto tokenizer = learn(lines, small(GetParam()));
  for (const char* word : {"alpha", "beta", "gamma", "delta", "epsilon"}) {
    if (GetParam() == "bpe"s) {
      EXPECT_TRUE(tokenizer->piece_to_id("\u2581"s + word)) << word;
    }
    for (const TokenId id : tokenizer->encode(word))  // Every letter was learned.
      EXPECT_FALSE(byte_of_piece(tokenizer->id_to_piece(id))) << word;
  }
  EXPECT_THAT(log.text(), AllOf(HasSubstr("of 61 lines to learn from 1 were longer than 65,536 bytes"),
                                HasSubstr("60 held U+2585 or NUL")));
}

/// The trainer would write outside its memory above 32,767 characters of one word.
TEST_P(TrainerText, WordsWithoutEndAreLearnedFrom) {
  for (const std::string& line : {repeated("\u0e20\u0e32\u0e29\u0e32", 12000), repeated("abcd", 16000),
                                  std::string(50000, ' ') + "word", repeated("\ufdfa", 5000)}) {
    for (const char* normalization : {"identity", "nfkc"}) {
      TrainOptions options = small(GetParam());
      options.normalization = normalization;
      options.max_line_bytes = 1 << 20;
      const Log log;
      EXPECT_GT(learn({line, "some words beside it", "some more words"}, options)->vocab_size(), 262);
      if (line.size() > 50000) {
        EXPECT_THAT(log.text(), HasSubstr("characters between two spaces"));
      }
    }
  }
}

/// Cut at its spaces a long line teaches the same as its words on lines of their own.
TEST(SpmTrainer, ACutLineTeachesWhatItsPartsDo) {
  TrainOptions options = small();
  options.max_line_bytes = 16;
  std::string line;
  std::vector<std::string> words;
  for (int i = 0; i < 300; ++i) {
    words.push_back(
        std::vector<std::string>{"alpha", "beta", "gamma", "delta"}[static_cast<std::size_t>(i * i % 4)]);
    line += (i == 0 ? "" : " ") + words.back();
  }
  EXPECT_EQ(train_sentencepiece(lines_of({line}), options).serialize(),
            train_sentencepiece(lines_of(words), options).serialize());
}

TEST_P(TrainerText, BlanksAloneDoNotEndTheProgram) {
  for (const char* normalization : {"identity", "nmt_nfkc", "nfkc"}) {
    for (const bool remove : {false, true}) {
      SCOPED_TRACE(std::string(normalization) + (remove ? " removed" : ""));
      TrainOptions options = small(GetParam());
      options.normalization = normalization;
      options.remove_extra_whitespaces = remove;
      options.exact_vocab_size = true;
      const std::string message = refusal({"   ", " ", "\u3000", "\x01"}, options);
      if (remove || std::string(normalization) == "nmt_nfkc")
        EXPECT_THAT(message,
                    HasSubstr("data error: there is no text to learn a tokenizer from: 4 lines, all empty"));
      else
        EXPECT_THAT(message, Not(HasSubstr("none")));
    }
  }
}

TEST(SpmTrainer, GivesTheTrainersReason) {
  const std::vector<std::string> lines = {"the cat saw a dog", "", "a tree"};
  TrainOptions options = small();
  options.exact_vocab_size = true;
  options.vocab_size = 8000;
  EXPECT_THAT(refusal(lines, options),
              AllOf(HasSubstr("config error: cannot learn 8000 pieces from 3 lines: "),
                    HasSubstr("Please set it to a value <= ")));
  options.vocab_size = 262;
  EXPECT_THAT(refusal(lines, options), AllOf(HasSubstr("from 3 lines: "), HasSubstr("262 vs 27")));
  options.vocab_size = std::int64_t{1} << 40;  // Refused before a line is read: no number of lines is known.
  EXPECT_THAT(refusal(lines, options), AllOf(HasSubstr("pieces: cannot parse"), Not(HasSubstr("lines"))));
}

TEST(SpmTrainer, OptionsThatTheTrainerRefusesWithoutAWordAreNamed) {
  const auto refused = [](void (*change)(TrainOptions&)) {
    TrainOptions options = small();
    change(options);
    return refusal({"the cat saw a dog"}, options);
  };
  EXPECT_THAT(refused([](TrainOptions& o) { o.character_coverage = 0.95; }),
              HasSubstr("config error: character_coverage must be at least 0.98 and at most 1, not 0.95"));
  EXPECT_THAT(refused([](TrainOptions& o) { o.model_type = "word"; }),
              HasSubstr("'word' is none of bpe, unigram"));
  EXPECT_THAT(refused([](TrainOptions& o) { o.normalization = "nfc"; }),
              HasSubstr("normalization: 'nfc' is none of"));
  EXPECT_THAT(refused([](TrainOptions& o) { o.max_piece_length = 600; }),
              HasSubstr("max_piece_length must be"));
  EXPECT_THAT(refused([](TrainOptions& o) { o.max_line_bytes = 3; }), HasSubstr("max_line_bytes must be"));
  EXPECT_THAT(refused([](TrainOptions& o) { o.vocab_size = 0; }), HasSubstr("vocab_size must be at least 8"));
}

TEST(SpmTrainer, ControlSymbolsThatCannotBeAreNamed) {
  const auto refused = [](const std::vector<std::string>& symbols) {
    TrainOptions options = small();
    options.control_symbols = symbols;
    return refusal({"the cat saw a dog"}, options);
  };
  EXPECT_THAT(refused({"<a>", "<a>"}), HasSubstr("config error: control_symbols: '<a>' is listed twice"));
  EXPECT_THAT(refused({""}), HasSubstr("'' is empty"));
  EXPECT_THAT(refused({"<unk>"}), HasSubstr("'<unk>' is the piece of unknown text"));
  EXPECT_THAT(refused({"<0x41>"}), HasSubstr("'<0x41>' is spelled as a byte piece"));
  EXPECT_THAT(refused({"a\0b"s}), HasSubstr("holds NUL"));
  EXPECT_THAT(refused({"\xFF"}), HasSubstr("is not UTF-8"));
}

TEST(SpmTrainer, ControlSymbolsMayHaveCommasAndQuotes) {
  const std::vector<std::string> symbols = {"<a,b>", "\"", "<|\"x\",|>", "<s>", "plain", ","};
  TrainOptions options = small();
  options.control_symbols = symbols;
  const auto tokenizer = learn({"the cat saw a dog"}, options);
  for (const std::string& symbol : symbols) {
    ASSERT_TRUE(tokenizer->piece_to_id(symbol)) << symbol;
    EXPECT_EQ(tokenizer->decode({*tokenizer->piece_to_id(symbol)}), "") << symbol;
  }
  EXPECT_FALSE(tokenizer->piece_to_id("<a"));
}

TEST_P(TrainerText, TheProgramsLocaleChangesNoByte) {
  std::vector<std::string> lines;
  for (int i = 0; i < 200; ++i)
    lines.push_back("the cat number " + std::to_string(i) + " saw a dog, 0.5 or 1,5");
  const std::string expected = train_sentencepiece(lines_of(lines), small(GetParam())).serialize();
  const test::CommaLocale commas;
  EXPECT_EQ(train_sentencepiece(lines_of(lines), small(GetParam())).serialize(), expected);
}

}  // namespace
}  // namespace bitrain::text
