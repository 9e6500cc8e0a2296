#include <bitrain/recipe/conversation_files.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <bitrain/recipe/decode.h>
#include <bitrain/recipe/document.h>
#include <bitrain/recipe/explain.h>
#include <bitrain/recipe/references.h>
#include <bitrain/recipe/sources.h>
#include <support/temporary_directory.h>

namespace bitrain::recipe {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Read {
  SftStage stage;
  std::vector<std::string> problems;
};

Read read(const std::string& text) {
  Read result;
  Problems problems;
  decode_to(parse_yaml(text, "r.yaml"), "s", any(), result.stage, problems);
  for (const Problem& problem : problems.list()) result.problems.push_back(problem.key + ": " + problem.what);
  return result;
}

TEST(ConversationFiles, ArePathsOrMaps) {
  const Read both = read("files: [a.jsonl, {path: b.json, name: b, prompt_field: q, skip_invalid: true}]");
  EXPECT_THAT(both.problems, IsEmpty());
  ASSERT_EQ(both.stage.files.size(), 2u);
  EXPECT_EQ(both.stage.files[0].path, "a.jsonl");
  EXPECT_EQ(name_of(both.stage.files[0]), "a");
  EXPECT_EQ(both.stage.files[1].prompt_field, "q");
  EXPECT_TRUE(both.stage.files[1].skip_invalid);
  EXPECT_EQ(name_of(both.stage.files[1]), "b");
  EXPECT_EQ(read("files: a.jsonl").stage.files.at(0).path, "a.jsonl");
  EXPECT_THAT(read("files: ['']").problems, ElementsAre(HasSubstr("s.files[0]: must not be empty")));
  EXPECT_THAT(read("files: [{name: x}]").problems, ElementsAre(HasSubstr("s.files[0].path: is missing")));
  EXPECT_THAT(read("files: [{path: x, promt_field: y}]").problems,
              ElementsAre(HasSubstr("did you mean 'prompt_field'?")));
  EXPECT_THAT(read("files: [[a]]").problems,
              ElementsAre(HasSubstr("s.files[0]: should be a map, not a list")));
}

TEST(ConversationFiles, AreReferencesAndExplained) {
  auto stage = read("files: [a.jsonl, {path: b.json}]").stage;
  const std::vector<Reference> references = references_of(fields_of(stage));
  ASSERT_EQ(references.size(), 2u);
  EXPECT_EQ(references[1].key, "files[1].path");
  EXPECT_EQ(references[1].name, "b.json");
  EXPECT_THAT(explain("sft", false),
              AllOf(HasSubstr("files (list of text or map"), HasSubstr("files[].path (text")));
  EXPECT_THAT(schema().dump(),
              HasSubstr(R"("items":{"anyOf":[{"type":"string","minLength":1},{"type":"object")"));
}

class ConversationSources : public ::testing::Test {
 protected:
  ConversationFileOptions file(const std::string& name, const std::string& rows) const {
    ConversationFileOptions options;
    options.path = (folder_.path() / name).string();
    std::ofstream(options.path) << rows;
    return options;
  }
  std::string error_of(const SftStage& stage) const {
    try {
      (void)open_conversations(recipe_, stage, data::Split::kTrain);
    } catch (const Error& error) {
      return std::string(kind_name(error.kind())) + ": " + error.what();
    }
    return "no error";
  }

  bitrain::test::TemporaryDirectory folder_;
  Recipe recipe_;
};

const std::string kRows =
    R"({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
{"conversations": [{"from": "human", "value": "q"}, {"from": "tool", "value": "a"}]}
{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "b"}]}
)";

TEST_F(ConversationSources, FaultsAreOfTheFileAndMayBeSkipped) {
  SftStage stage;
  stage.files = {file("share.json", kRows)};
  EXPECT_THAT(error_of(stage),
              AllOf(HasSubstr("data error"), HasSubstr("share.json:2: message 2 is of the role 'tool'"),
                    HasSubstr("skip_invalid")));
  recipe_.stages = {{"tune", "sft", "base", stage}};
  EXPECT_THAT(count_invalid_rows(recipe_), IsEmpty());
  stage.files[0].skip_invalid = true;
  EXPECT_EQ(error_of(stage), "no error");
  recipe_.stages = {{"tune", "sft", "base", stage}};
  EXPECT_THAT(count_invalid_rows(recipe_), ElementsAre(testing::Pair(stage.files[0].path, 1)));
  stage.objective.roles["tool"] = {"Tool: ", "\n", false};
  stage.files[0].skip_invalid = false;
  const auto sources = open_conversations(recipe_, stage, data::Split::kTrain);
  ASSERT_EQ(sources.size(), 1u);
  EXPECT_EQ(sources[0]->name(), "share");
  EXPECT_EQ(sources[0]->size(), 3);
}

TEST_F(ConversationSources, AdviceCanBeFollowed) {
  SftStage stage;
  stage.files = {file("odd.jsonl", R"({"title": "q", "body": "a"})")};
  EXPECT_THAT(error_of(stage), HasSubstr("name them: messages_field, or prompt_field and response_field"));
  stage.files[0].prompt_field = "title";
  stage.files[0].response_field = "body";
  EXPECT_EQ(error_of(stage), "no error");
  stage.files = {file("words.txt", "the cat\n")};
  EXPECT_THAT(error_of(stage), HasSubstr("conversations are read from JSON rows"));
}

}  // namespace
}  // namespace bitrain::recipe
