#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/log.h>
#include <bitrain/cli/cli.h>
#include <bitrain/data/source.h>
#include <bitrain/hub/sentence_transformers.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/text/hf_tokenizer.h>

#include "support/temporary_directory.h"
#include "support/tiny_bert.h"

namespace bitrain::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

/// Made-up pairs, an encoder of 26 letters, and the program run in this process.
class MineNegatives : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < kPairs; ++i)
      rows_ +=
          io::Json{{"query", "cat " + name(i) + " saw dog"}, {"positive", "gato " + name(i) + " vio perro"}}
              .dump() +
          "\n";
    write("pairs.jsonl", rows_);
    set_log_sink([this](LogLevel, const std::string& message) {
      log_ += message + "\n";
      if (on_log_) on_log_(message);
    });
  }
  void TearDown() override {
    set_log_sink({});
    set_log_level(LogLevel::kInfo);
  }

  static std::string name(int i) {
    std::string letters;
    for (int rest = i + 26; rest > 0; rest /= 26) letters += static_cast<char>('a' + rest % 26);
    return letters;
  }

  [[nodiscard]] std::string path(const std::string& file) const {
    return (directory_.path() / file).string();
  }
  void write(const std::string& file, const std::string& text) const { std::ofstream(path(file)) << text; }

  void write_encoder() const {
    fs::create_directories(path("vocabulary"));
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
    for (char c = 'a'; c <= 'z'; ++c) vocabulary += std::string(1, c) + "\n##" + c + "\n";
    write("vocabulary/vocab.txt", vocabulary);
    write("vocabulary/tokenizer_config.json", R"({"tokenizer_class": "BertTokenizer"})");
    const auto tokenizer = text::open_hf_tokenizer(path("vocabulary"));
    models::BertConfig config = testing::tiny_bert_config();
    config.vocab_size = tokenizer->vocab_size();
    models::SentenceEncoder model(testing::tiny_bert(at::kFloat, config), {{nn::Pooling::kMean}, true});
    hub::save_sentence_encoder(path("encoder"), model, tokenizer.get(), {});
  }

  /// Exit code of `bitrain mine-negatives` with these arguments; stdout and stderr are kept.
  int mine(std::vector<std::string> arguments, bool verbose = false) {
    arguments.insert(arguments.begin(), {"bitrain", verbose ? "-v" : "-q", "mine-negatives"});
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    log_.clear();
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int code = run_program(static_cast<int>(pointers.size()), pointers.data());
    err_ = ::testing::internal::GetCapturedStderr();
    out_ = ::testing::internal::GetCapturedStdout();
    return code;
  }
  int mine_to(const std::string& file, std::vector<std::string> arguments, bool verbose = false) {
    arguments.insert(arguments.begin(), {path("pairs.jsonl"), "--out", path(file)});
    return mine(std::move(arguments), verbose);
  }

  /// What a contrastive stage reads of a file.
  [[nodiscard]] std::vector<data::Example> read_back(const std::string& file,
                                                     const std::string& negatives = "negatives") const {
    data::SourceOptions options;
    options.path = path(file);
    options.text_field = "query";
    options.pair_field = "positive";
    options.negatives_field = negatives;
    const data::SourcePtr source = data::open_source(options);
    std::vector<data::Example> examples;
    for (std::int64_t i = 0; i < source->size(); ++i) examples.push_back(source->at(i));
    return examples;
  }

  static constexpr int kPairs = 50;
  std::string rows_;
  std::string out_;
  std::string err_;
  std::string log_;
  std::function<void(const std::string&)> on_log_;

 private:
  test::TemporaryDirectory directory_;
};

TEST_F(MineNegatives, AContrastiveStageReadsWhatTheEncoderFound) {
  write_encoder();
  ASSERT_EQ(mine_to("out.jsonl", {"--encoder", path("encoder"), "--negatives", "3"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("150 negatives for 50 pairs; 0 pairs have fewer than 3"));
  const std::vector<data::Example> mined = read_back("out.jsonl");
  ASSERT_THAT(mined, SizeIs(kPairs));
  for (int i = 0; i < kPairs; ++i) {
    const data::Example& one = mined[static_cast<std::size_t>(i)];
    EXPECT_EQ(one.text, "cat " + name(i) + " saw dog");
    EXPECT_EQ(one.pair_text, "gato " + name(i) + " vio perro");
    EXPECT_THAT(one.negatives, SizeIs(3));
    EXPECT_THAT(one.negatives, Each(AllOf(Not(one.pair_text), HasSubstr("gato "))));
  }
  EXPECT_FALSE(fs::exists(path("out.jsonl.partial")) || fs::exists(path("out.jsonl.partial.json")));
}

TEST_F(MineNegatives, InterruptedRunsGoOnToTheSameBytes) {
  write_encoder();
  const std::vector<std::string> options = {"--encoder",  path("encoder"), "--block",  "8",
                                            "--sampling", "random",        "--margin", "0.001"};
  ASSERT_EQ(mine_to("whole.jsonl", options), 0) << err_;
  on_log_ = [](const std::string& message) {
    if (message.find("mining for pairs 16 to 24") != std::string::npos) std::raise(SIGINT);
  };
  ASSERT_EQ(mine_to("out.jsonl", options, true), 128 + SIGINT) << err_;
  EXPECT_THAT(err_, HasSubstr("interrupted after 16 pairs; run the same command to go on"));
  EXPECT_FALSE(fs::exists(path("out.jsonl")));
  on_log_ = {};
  // A kill may leave any number of whole lines, not only blocks, and a torn one.
  const std::string whole = io::read_file(path("whole.jsonl"));
  std::size_t cut = 0;
  for (int line = 0; line < 13; ++line) cut = whole.find('\n', cut) + 1;
  ASSERT_EQ(io::read_file(path("out.jsonl.partial")).substr(0, cut), whole.substr(0, cut));
  write("out.jsonl.partial", whole.substr(0, cut + 20));
  ASSERT_EQ(mine_to("out.jsonl", options, true), 0) << err_;
  EXPECT_THAT(log_, AllOf(HasSubstr("going on after 13 pairs"), HasSubstr("mining for pairs 8 to 16"),
                          Not(HasSubstr("mining for pairs 0 to 8"))));
  EXPECT_EQ(io::read_file(path("out.jsonl")), whole);
  const std::string figures = out_.substr(0, out_.find('\n'));
  ASSERT_EQ(mine_to("whole.jsonl", options), 0) << err_;
  EXPECT_EQ(out_.substr(0, out_.find('\n')), figures);  // Those of the earlier run are counted.
}

TEST_F(MineNegatives, AFullDiskLosesNothing) {
  ASSERT_EQ(mine_to("whole.jsonl", {"--bm25"}), 0) << err_;
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 3000;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const int code = mine_to("out.jsonl", {"--bm25", "--block", "4"});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(code, 5) << err_;
  EXPECT_EQ(fs::file_size(path("out.jsonl.partial")), 3000U);  // A torn line at its end.
  // How many pairs stand between two writes does not matter to BM25.
  ASSERT_EQ(mine_to("out.jsonl", {"--bm25", "--block", "7"}, true), 0) << err_;
  EXPECT_THAT(log_, HasSubstr("going on after"));
  EXPECT_EQ(io::read_file(path("out.jsonl")), io::read_file(path("whole.jsonl")));
}

TEST_F(MineNegatives, OtherOptionsOrInputsAreAnErrorThatSaysWhatToDo) {
  on_log_ = [](const std::string& message) {
    if (message.find("mining for pairs 8 to 16") != std::string::npos) std::raise(SIGTERM);
  };
  ASSERT_EQ(mine_to("out.jsonl", {"--bm25", "--block", "8"}, true), 128 + SIGTERM) << err_;
  on_log_ = {};
  const std::string there = io::read_file(path("out.jsonl.partial"));
  EXPECT_EQ(mine_to("out.jsonl", {"--bm25", "--negatives", "2", "--margin", "0.5"}), 6);
  EXPECT_THAT(err_, AllOf(HasSubstr("out.jsonl.partial was made from something else"),
                          HasSubstr("options.negatives (was 4, is 2)"),
                          HasSubstr("options.margin (was null, is 0.5)"), HasSubstr("or remove it")));
  write("pairs.jsonl", rows_ + R"({"query": "one more", "positive": "uno más"})" + "\n");
  EXPECT_EQ(mine_to("out.jsonl", {"--bm25"}), 6);
  EXPECT_THAT(err_, HasSubstr("texts (was "));
  EXPECT_EQ(io::read_file(path("out.jsonl.partial")), there);
}

TEST_F(MineNegatives, CandidatesComeFromACorpusAndQueriesMayHaveFewer) {
  write("pairs.jsonl", R"({"query": "red apple", "positive": "the apple is red"})"
                       "\n"
                       R"({"query": "blue sky", "positive": "the sky is blue"})"
                       "\n"
                       R"({"query": "nothing like it", "positive": "unique"})"
                       "\n");
  write("corpus.jsonl", R"({"_id": "1", "title": "Apple", "text": "pie"})"
                        "\n"
                        R"({"_id": "2", "title": "", "text": "the apple is red"})"
                        "\n"
                        R"({"_id": "3", "text": "red and blue apple"})"
                        "\n"
                        R"({"_id": "4", "text": ""})"
                        "\n");
  ASSERT_EQ(mine_to("out.jsonl", {"--bm25", "--corpus", path("corpus.jsonl"), "--negatives", "2"}), 0)
      << err_;
  const std::vector<data::Example> mined = read_back("out.jsonl");
  ASSERT_THAT(mined, SizeIs(3));
  EXPECT_THAT(mined[0].negatives, ElementsAre("red and blue apple", "Apple pie"));
  EXPECT_THAT(mined[1].negatives, ElementsAre("red and blue apple"));
  EXPECT_THAT(mined[2].negatives, IsEmpty());
  EXPECT_THAT(out_, HasSubstr("3 negatives for 3 pairs; 2 pairs have fewer than 2, of which 1 none"));
}

TEST_F(MineNegatives, ColumnsOfATsvAndOtherNames) {
  write("pairs.tsv", "1\tred apple\trojo\n2\tred house\trojo casa\n3\tred car\trojo coche\n4\tred\tred\n");
  ASSERT_EQ(mine({path("pairs.tsv"), "--column", "2", "--pair-column", "3", "--held-out-every", "3", "--out",
                  path("out.jsonl"), "--bm25", "--negatives-field", "hard"},
                 true),
            0)
      << err_;
  EXPECT_THAT(log_, HasSubstr("2 pairs, 2 candidates; left out for an empty side or twice the same text: 1"));
  EXPECT_THAT(read_back("out.jsonl", "hard"), SizeIs(2));
  EXPECT_EQ(
      io::parse_json(io::read_file(path("out.jsonl")).substr(0, io::read_file(path("out.jsonl")).find('\n')),
                     "line"),
      (io::Json{{"query", "red apple"}, {"positive", "rojo"}, {"hard", io::Json::array()}}));
}

TEST_F(MineNegatives, BadInputIsNamed) {
  const auto refused = [&](const std::vector<std::string>& arguments, int code, const std::string& part) {
    EXPECT_EQ(mine_to("out.jsonl", arguments), code) << err_;
    EXPECT_THAT(err_, HasSubstr(part));
    EXPECT_FALSE(fs::exists(path("out.jsonl")) || fs::exists(path("out.jsonl.partial")));
  };
  refused({}, 2, "--encoder or --bm25");
  refused({"--bm25", "--encoder", path("encoder")}, 2, "--encoder or --bm25");
  refused({"--bm25", "--block", "0"}, 2, "--block must be at least 1");
  refused({"--bm25", "--negatives", "0"}, 2, "negatives must be at least 1");
  refused({"--bm25", "--rank-from", "99"}, 2, "hold fewer than 4 candidates");
  refused({"--bm25", "--sampling", "best"}, 2, "best");
  refused({"--bm25", "--negatives-field", "query"}, 2, "three different ones");
  refused({"--bm25", "--pair-field", "answer"}, 3, "'answer' is missing");
  refused({"--bm25", "--corpus", path("none.jsonl")}, 5, "none.jsonl");
  refused({"--encoder", path("none")}, 5, "none");
  write("empty.jsonl", R"({"_id": "1", "text": " "})");
  refused({"--bm25", "--corpus", path("empty.jsonl")}, 3, "has no text");
  write("pairs.jsonl", R"({"query": "same", "positive": "same"})"
                       "\n"
                       R"({"query": "a", "positive": ""})");
  refused({"--bm25"}, 3, "in all of its 2 rows a side is empty or both are the same text");
  write("pairs.jsonl", "");
  refused({"--bm25"}, 3, "has no text");
  fs::remove(path("pairs.jsonl"));
  refused({"--bm25"}, 5, "pairs.jsonl");
}

}  // namespace
}  // namespace bitrain::cli
