#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/hub/encoder_dir.h>
#include <bitrain/hub/model_dir.h>
#include <bitrain/io/file.h>
#include <bitrain/io/json.h>
#include <bitrain/recipe/validate.h>
#include <bitrain/text/sentencepiece_tokenizer.h>
#include <bitrain/text/spm_trainer.h>

#include "support/temporary_directory.h"
#include "support/tiny_llama.h"

/// What validate says of files that are there, and would end a run.
namespace bitrain::recipe {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class ValidateInputs : public ::testing::Test {
 protected:
  void SetUp() override {
    write("pairs.tsv", "1\tone cat\tun gato\n2\ttwo dogs\tdos perros\n");
    write("chat.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    write_base();
    write("r.yaml", R"(schema: 1
name: t
base: )" + path("base").string() +
                        R"(
source: {path: pairs.tsv, format: tsv, column: 2, language: en}
target:
  path: pairs.tsv
  format: tsv
  column: 3
  language: es
held_out: {every: 2}
stages:
  adapt:
    recipe: cpt
    lora: {target_modules: [q_proj]}
    train: {max_steps: 1}
  talk:
    recipe: sft
    from: base
    lora: {target_modules: [q_proj]}
    files: [chat.jsonl]
    train: {max_steps: 1}
)");
  }

  void write_base() const {
    std::vector<std::string> lines;
    for (int i = 0; i < 40; ++i) lines.push_back("cat " + std::to_string(i) + " gato dog perro");
    text::TrainOptions train;
    train.vocab_size = 300;
    train.exact_vocab_size = false;
    const auto tokenizer =
        text::make_sentencepiece_tokenizer(text::train_sentencepiece(text::lines_of(lines), train));
    models::LlamaConfig config = testing::tiny_config();
    config.vocab_size = tokenizer->vocab_size();
    hub::save_model(path("base"), *testing::tiny_llama(at::kFloat, config), tokenizer.get());
  }

  [[nodiscard]] fs::path path(const std::string& name) const { return directory_.path() / name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path(name)) << text; }
  [[nodiscard]] std::vector<std::string> problems(const std::vector<std::string>& overrides = {}) const {
    const Validation found = validate(path("r.yaml"), overrides);
    std::vector<std::string> texts;
    for (const Problem& problem : found.problems.list()) texts.push_back(problem.text());
    return texts;
  }
  [[nodiscard]] std::vector<std::string> with_target(const std::string& name) const {
    return problems({"target.path=" + path(name).string()});
  }

  test::TemporaryDirectory directory_;
};

TEST_F(ValidateInputs, NothingWrong) {
  EXPECT_THAT(problems(), IsEmpty());
}

TEST_F(ValidateInputs, AFileThatInheritsTheFormatOfAnother) {
  write("plain.txt", "un gato\ndos perros\n");
  EXPECT_THAT(with_target("plain.txt"),
              ElementsAre(AllOf(
                  StartsWith("on the command line: target.path: "), HasSubstr("plain.txt:1: has 1 column"),
                  HasSubstr("it is read with format: tsv ("), HasSubstr("r.yaml:7:3) and column: 3 ("),
                  HasSubstr("set target.format and target.column to what this file has"),
                  Not(HasSubstr("mend the row")))));
  // Its own settings mend it.
  EXPECT_THAT(
      problems({"target.path=" + path("plain.txt").string(), "target.format=text", "target.column=1"}),
      IsEmpty());
  EXPECT_THAT(problems({"target.path=" + path("plain.txt").string(), "target.format=text"}),
              ElementsAre(AllOf(HasSubstr("column 3 is asked for"), HasSubstr("set target.column to what"))));
  write("rows.jsonl", "{\"text\": \"un gato\"}\n");
  EXPECT_THAT(with_target("rows.jsonl"), ElementsAre(HasSubstr("set target.format and target.column")));
  EXPECT_THAT(
      problems({"target.path=" + path("rows.jsonl").string(), "target.format=jsonl", "target.column=1"}),
      IsEmpty());
}

TEST_F(ValidateInputs, ARowThatIsBadAmongGoodOnesIsToBeMended) {
  write("bad.tsv", "1\tone\tuno\n2\ttwo\n");
  EXPECT_THAT(with_target("bad.tsv"),
              ElementsAre(AllOf(HasSubstr("bad.tsv:2: has 2 columns, column 3 is asked for; mend the row"),
                                Not(HasSubstr("set target")))));
  write("latin.tsv", "1\tone\tse\xf1or\n");
  EXPECT_THAT(with_target("latin.tsv"),
              ElementsAre(AllOf(HasSubstr("not UTF-8"), HasSubstr("mend the row"))));
  // Rows that are left out are no problem, unless all are.
  EXPECT_THAT(problems({"target.path=" + path("bad.tsv").string(), "skip_invalid=true"}), IsEmpty());
  EXPECT_THAT(problems({"target.path=" + path("latin.tsv").string(), "skip_invalid=true"}),
              ElementsAre(HasSubstr("has no text")));
}

TEST_F(ValidateInputs, OnlyFirstRowsAreRead) {
  std::string rows;
  for (int i = 0; i < 50; ++i) rows += "1\tone\tuno\n";
  write("late.tsv", rows + "broken\n");
  EXPECT_THAT(with_target("late.tsv"), IsEmpty());
}

TEST_F(ValidateInputs, PackedFilesAndThoseOfStages) {
  // "un gato\ndos perros\n".
  constexpr std::string_view kPacked(
      "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\xcd\x53\x48\x4f\x2c"
      "\xc9\xe7\x4a\xc9\x2f\x56\x28\x48\x2d\x2a\xca\x2f\xe6\x02\x00\x20"
      "\xc0\x83\xe2\x13\x00\x00\x00",
      39);
  write("plain.txt.gz", std::string(kPacked));
  EXPECT_THAT(with_target("plain.txt.gz"), ElementsAre(HasSubstr("set target.format and target.column")));
  EXPECT_THAT(problems({"target.path=" + path("plain.txt.gz").string(),
                        "target={path: " + path("plain.txt.gz").string() + ", language: es}"}),
              IsEmpty());
  EXPECT_THAT(problems({"stages.talk.files=[{path: " + path("pairs.tsv").string() + "}]"}),
              ElementsAre(AllOf(HasSubstr("stages.talk.files[0].path: "),
                                HasSubstr("conversations are read from JSON rows"))));
  write("odd.jsonl", "{\"question_text\": 1}\n");
  EXPECT_THAT(problems({"stages.talk.files=[" + path("odd.jsonl").string() + "]"}),
              ElementsAre(HasSubstr("odd.jsonl:1")));
}

TEST_F(ValidateInputs, ABaseWithoutWeights) {
  fs::remove(path("base") / "model.safetensors");
  EXPECT_THAT(problems(), ElementsAre(AllOf(HasSubstr("r.yaml:3:1: base: "), HasSubstr("safetensors"))));
}

TEST_F(ValidateInputs, ABaseWithoutATokenizer) {
  fs::remove(path("base") / "tokenizer.model");
  fs::remove(path("base") / "tokenizer.json");
  EXPECT_THAT(problems(), ElementsAre(AllOf(HasSubstr("r.yaml:3:1: base: "), HasSubstr("tokenizer"))));
}

TEST_F(ValidateInputs, WeightsOfAnotherShapeThanTheConfig) {
  const fs::path config = path("base") / "config.json";
  io::Json json = io::read_json(config);
  json["intermediate_size"] = 32;
  json["num_hidden_layers"] = 3;
  io::write_json(config, json);
  EXPECT_THAT(problems(), ElementsAre(AllOf(HasSubstr("the weights do not fit config.json"),
                                            HasSubstr("[24, 16], the model wants [32, 16]"),
                                            HasSubstr("missing: model.layers.2."))));
}

TEST_F(ValidateInputs, AnEncoderIsNoDecoder) {
  EXPECT_THAT(problems({"stages={x: {recipe: evaluate_encoder}}"}), ElementsAre(HasSubstr("base: ")));
}

TEST_F(ValidateInputs, AllAtOnceWithWhatShapesShow) {
  write("plain.txt", "un gato\ndos perros\n");
  EXPECT_THAT(problems({"target.path=" + path("plain.txt").string(), "stages.adapt.lora.target_modules=q_prj",
                        "stages.talk.lora.target_modules=v_prj"}),
              ElementsAre(HasSubstr("plain.txt:1"), AllOf(HasSubstr("stages.adapt: "), HasSubstr("q_prj")),
                          AllOf(HasSubstr("stages.talk: "), HasSubstr("v_prj"))));
}

TEST_F(ValidateInputs, OneFaultIsSaidOnce) {
  EXPECT_THAT(problems({"source.path=[1]"}), ElementsAre(HasSubstr("source.path: should be text")));
  EXPECT_THAT(problems({"source.path="}), ElementsAre(HasSubstr("source.path: is missing: the other side")));
  EXPECT_THAT(problems({"held_out.every=x"}),
              ElementsAre(HasSubstr("held_out.every: should be a whole number")));
}

}  // namespace
}  // namespace bitrain::recipe
