#include <bitrain/data/row_layout.h>

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bitrain/base/error.h>
#include <support/conversation_rows.h>

namespace bitrain::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using RowLayoutTest = test::ConversationRows;

TEST_F(RowLayoutTest, LayoutsOfPublicSetsAreRead) {
  for (
      const char* row : {
          R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})",
          R"({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})",
          R"({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})",
          R"({"conversations": [{"from": "Human", "value": "q"}, {"from": "chatbot", "value": "a"}], "id": 1})",
          R"({"conversation": [{"role": "user", "content": "q"}, {"role": "model", "content": "a"}]})",
          R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]},
               {"role": "assistant", "content": "a"}]})",
          R"({"instruction": "q", "input": "", "output": "a", "text": "### Instruction: q"})",
          R"({"instruction": "q", "input": null, "output": "a", "system": null, "history": []})",
          R"({"instruction": "q", "context": "", "response": "a", "category": "x"})",
          R"({"prompt": "q", "completion": "a"})",
          R"({"prompt": "q", "response": "a", "messages": null})",
          R"({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]})",
          R"({"question": "q", "answer": "a"})",
          R"({"system_prompt": "", "question": "q", "response": "a"})",
          R"({"query": "q", "response": "a"})",
          R"({"input": "q", "output": "a"})",
      }) {
    std::string one_line = row;
    one_line.erase(std::remove(one_line.begin(), one_line.end(), '\n'), one_line.end());
    EXPECT_THAT(read(one_line), ElementsAre("user: q", "assistant: a")) << row;
  }
}

TEST_F(RowLayoutTest, InputSystemAndHistoryHaveTheirPlaces) {
  EXPECT_THAT(
      read(R"({"instruction": "add", "input": "1 2", "output": "3", "system": "be brief",)"
           R"( "history": [["hi", "hello"]]})"),
      ElementsAre("system: be brief", "user: hi", "assistant: hello", "user: add\n\n1 2", "assistant: 3"));
  EXPECT_THAT(read(R"({"system_prompt": "s", "question": "q", "response": "a"})"),
              ElementsAre("system: s", "user: q", "assistant: a"));
  EXPECT_THAT(
      read(
          R"({"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})"),
      ElementsAre("system: s", "user: q", "assistant: a"));
  EXPECT_THAT(
      read(
          R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]})"),
      ElementsAre("user: ab"));
  EXPECT_THAT(
      read(R"({"question": "q", "context": "c", "answer": "a"})").front(),
      AllOf(HasSubstr("x.jsonl:1: has 'context' beside 'question' and 'answer'"), HasSubstr("prompt_field")));
}

TEST_F(RowLayoutTest, NamedKeysWinOverTheKnownOnes) {
  SourceOptions o = options(R"({"messages": [], "q": "Q", "a": "A", "instruction": "I", "output": "O"})");
  o.prompt_field = "q";
  o.response_field = "a";
  EXPECT_THAT(read(o), ElementsAre("user: Q", "assistant: A"));
  o.prompt_field = "instruction";
  o.response_field = "output";
  EXPECT_THAT(read(o), ElementsAre("user: I", "assistant: O"));
  o.messages_field = "messages";
  EXPECT_THAT(read(o).front(), AllOf(HasSubstr("config error"), HasSubstr("set one of")));
  o.prompt_field = o.response_field = "";
  EXPECT_THAT(read(o).front(),
              HasSubstr("x.jsonl:1: 'messages' must be a list of {role, content}, not an empty one"));
  o.messages_field = "turns";
  EXPECT_THAT(read(o).front(),
              AllOf(HasSubstr("'turns' is missing"), HasSubstr("its keys are 'messages', 'q'")));
}

TEST_F(RowLayoutTest, WhatIsReadDecidesBetweenTextAndConversation) {
  SourceOptions o = options(R"({"instruction": "q", "output": "a", "text": "t"})");
  o.reads = "text";
  EXPECT_EQ(open_source(o)->at(0).text, "t");
  o.reads = "any";
  EXPECT_EQ(open_source(o)->at(0).messages.size(), 2u);
  o = options(R"({"body": "t", "id": 3})");
  EXPECT_THAT(read(o).front(), AllOf(HasSubstr("x.jsonl:1: is no conversation in a known layout"),
                                     HasSubstr("its keys are 'body', 'id'"), HasSubstr("messages_field")));
  o.reads = "text";
  EXPECT_THAT(read(o).front(), AllOf(HasSubstr("has no key 'text'"), HasSubstr("text_field")));
  o.text_field = "body";
  EXPECT_EQ(open_source(o)->at(0).text, "t");
  o = options(R"({"text": "### Human: q ### Assistant: a"})");
  EXPECT_THAT(read(o).front(),
              HasSubstr("x.jsonl:1: is no conversation in a known layout; it has a 'text' alone"));
  o = options("plain words\n", "x.txt");
  EXPECT_THAT(read(o).front(), HasSubstr("conversations are read from JSON rows"));
}

TEST_F(RowLayoutTest, OneFileHasOneLayout) {
  const std::string other = fault(R"({"prompt": "q", "completion": "a"})");
  EXPECT_THAT(other, AllOf(HasSubstr("data error"), HasSubstr("x.jsonl:2: has 'prompt' and 'completion'"),
                           HasSubstr("the rows before it 'messages'")));
  SourceOptions o = options(R"({"text": "odd"})"
                            "\n"
                            R"({"prompt": "q", "completion": "a"})"
                            "\n"
                            R"({"messages": [{"role": "user", "content": "q"}]})");
  o.skip_invalid = true;  // Which of the two is meant, it cannot know.
  EXPECT_THAT(read(o).front(), HasSubstr("x.jsonl:3: has 'messages'"));
}

TEST_F(RowLayoutTest, FaultsOfRowsNameFileLineAndMessage) {
  for (const auto& [row, words] : std::vector<std::pair<std::string, std::string>>{
           {R"({"messages": null})", "'messages' must be a list of {role, content}, not null"},
           {R"({"messages": "[]"})", "not a text"},
           {R"({"messages": [{"role": "user"}]})", "message 1 in 'messages' has no 'content'"},
           {R"({"messages": [{"role": "user", "content": null}]})",
            "message 1 in 'messages' has no content (null)"},
           {R"({"messages": [{"role": "user", "content": 3}]})",
            "must be a text or a list of parts, not a number"},
           {R"({"messages": [{"content": "x"}]})", "has no 'role'"},
           {R"({"messages": ["x"]})", "must be an object"},
           {R"({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]})",
            "a part of type 'image'"},
           {R"({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]})",
            "calls a tool"},
           {R"({"messages": [{"role": "assistant", "content": "x", "weight": 0}]})",
            "not to be learnt ('weight')"},
           {R"({"messages": [{"role": "assistant", "content": "x", "train": false}]})",
            "not to be learnt ('train')"},
           {R"({"text": "t"})", "'messages' is missing"},
           {R"({"messages": [{"role": "user", "content": "x", "n": NaN}]})", "JSON has no NaN, Infinity"},
           {R"({"messages": [{"role": "user", "content": "x", "n": -Infinity}]})",
            "JSON has no NaN, Infinity"},
           {R"({"messages": [], "messages": []})", "occurs twice"},
           {R"({"messages": [{"role": "user", "content": "\ud83d"}]})", "surrogate"},
           {R"({"messages": [], "deep": )" + std::string(200, '[') + std::string(200, ']') + "}",
            "nested deeper"},
           {R"(["a"])", "is a list; a row must be an object"}}) {
    EXPECT_THAT(fault(row), AllOf(HasSubstr("data error"), HasSubstr("x.jsonl:2: "), HasSubstr(words),
                                  HasSubstr("skip_invalid")))
        << row;
  }
}

TEST_F(RowLayoutTest, RolesWithoutFormatAreFaultsOfTheRow) {
  const std::string good = R"({"messages": [{"role": "user", "content": "q"}]})";
  SourceOptions o =
      options(good + "\n" + R"({"messages": [{"role": "tool", "content": "3"}]})" + "\n" + good);
  EXPECT_EQ(open_source(o)->size(), 3);
  o.roles = {"assistant", "system", "user"};
  EXPECT_THAT(read(o).front(), AllOf(HasSubstr("x.jsonl:2: message 1 is of the role 'tool'"),
                                     HasSubstr("there are: assistant, system, user")));
  o.skip_invalid = true;
  SourceCounts counts;
  EXPECT_EQ(open_source(o, Split::kAll, &counts)->size(), 2);
  EXPECT_EQ(counts.invalid, 1);
  o = options(R"({"messages": [{"role": "tool", "content": "3"}]})");
  o.roles = {"user"};
  o.skip_invalid = true;
  EXPECT_THAT(read(o).front(),
              AllOf(HasSubstr("1 invalid"), HasSubstr("the first that is invalid:"), HasSubstr("'tool'")));
}

TEST_F(RowLayoutTest, PipesAreReadOnceOrRefused) {
  SourceOptions o;
  o.path = (folder_.path() / "pipe").string();
  ASSERT_EQ(::mkfifo(o.path.c_str(), 0600), 0);
  try {
    (void)open_source(o);
    FAIL() << "a recipe reads its files several times";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("pipe: is a pipe, which can be read only once"));
  }
  for (const std::string text :
       {"a\nb\n", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n", "[{\"text\": \"a\"}, {\"text\": \"b\"}]"}) {
    std::thread writer([&] { std::ofstream(o.path) << text; });
    EXPECT_THAT(texts_of(*open_source_once(o)), ElementsAre("a", "b"));
    writer.join();
  }
}

TEST_F(RowLayoutTest, FilesOfNoSizeMayHaveText) {
  SourceOptions o;
  o.path = "/proc/self/status";
  if (!std::ifstream(o.path)) GTEST_SKIP() << "there is no /proc";
  EXPECT_GT(open_source(o)->size(), 3);
}

}  // namespace
}  // namespace bitrain::data
