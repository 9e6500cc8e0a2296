#include <bitrain/data/row_leftovers.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include <gmock/gmock.h>

#include <bitrain/data/row_values.h>
#include <support/conversation_rows.h>

namespace bitrain::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using RowLeftoversTest = test::ConversationRows;

const std::string kChat =
    R"("messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])";
const std::string kSharegpt =
    R"("conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}])";

std::string list(const std::vector<std::pair<std::string, std::string>>& messages) {
  io::Json made = io::Json::array();
  for (const auto& [role, content] : messages) made.push_back({{"role", role}, {"content", content}});
  return made.dump();
}

TEST_F(RowLeftoversTest, RowsOfPublicSetsAreReadWithWhatElseTheyHave) {
  for (
      const std::string& row : std::vector<std::string>{
          // UltraChat, no_robots, UltraFeedback's rows for SFT, Tulu 3, smoltalk2.
          R"({"prompt": "q", "prompt_id": "7f", "category": "x", )" + kChat + "}",
          R"({"prompt": "q", "prompt_id": "7f", "chosen": )" + list({{"user", "q"}, {"assistant", "a"}}) +
              R"(, "rejected": )" + list({{"user", "q"}, {"assistant", "b"}}) +
              R"(, "score_chosen": 8.5, "score_rejected": 2, )" + kChat + "}",
          R"({"id": "x", "source": "ai2/tulu", "constraints": ["short"], )" + kChat + "}",
          R"({"chat_template_kwargs": {"custom_instructions": "", "enable_thinking": false, "python_tools": "[]", "xml_tools": []}, "source": "s", )" +
              kChat + "}",
          // Nemotron: reasoning is a switch. NuminaMath and OpenR1: the problem is the prompt, the solution
          // no part.
          R"({"reasoning": "on", "category": "math", "license": "cc", "metadata": {"a": "b"}, )" + kChat +
              "}",
          R"({"problem": "q", "solution": "s", "answer": "7", "generations": ["g"], )" + kChat + "}",
          // OpenHermes, SlimOrca, Magpie, WildChat, ShareGPT with empty tools.
          R"({"custom_instruction": null, "topic": "t", "system_prompt": null, "idx": 3, "views": 1.5, )" +
              kSharegpt + "}",
          R"({"conversations": [{"from": "human", "value": "q", "weight": null}, {"from": "gpt", "value": "a", "weight": 1}]})",
          R"({"instruction": "q", "response": "a", "intent": "i", "knowledge": "k", "language": "EN", )" +
              kSharegpt + "}",
          R"({"conversation": [{"role": "user", "content": "q", "country": "x", "toxic": false, "turn_identifier": 1},
                {"role": "assistant", "content": "a", "timestamp": null}], "turn": 1, "openai_moderation": [{"flagged": false}]})",
          R"({"tools": "[]", "system": "", "images": [], )" + kSharegpt + "}",
          // Alpaca with its rendering, code_instructions_120k, math_10k, Dolly, LongAlpaca, Platypus.
          R"({"instruction": "q", "input": "", "output": "a", "prompt": "### Instruction:\nq\n### Output:\na"})",
          R"({"instruction": "q", "input": "", "output": "a", "answer": "7"})",
          R"({"instruction": "q", "context": "", "response": "a", "category": "open_qa"})",
          R"({"instruction": "q", "output": "a", "input": "", "file": "x.pdf", "data_source": "scienceqa"})",
          // OpenOrca, MetaMath, HelpSteer, UltraInteract, ms-swift, HotpotQA without its context.
          R"({"id": "niv.1", "system_prompt": "", "question": "q", "response": "a"})",
          R"({"type": "GSM", "query": "q", "original_question": "o", "response": "a"})",
          R"({"prompt": "q", "response": "a", "helpfulness": 4, "verbosity": 2})",
          R"({"task": "Coding", "dataset": "x", "prompt": "q", "response": "a", "parent_id": "1"})",
          R"({"query": "q", "response": "a", "history": [], "system": null, "label": true})",
          R"({"prompt": "q", "response": "a", "score": -3, "lang": "es", "label": 0, "weight": 1, "loss": 0.25})",
          R"({"question": "q", "answer": "a", "type": "bridge", "level": "hard", "context": [], "choices": null})",
          // Kimi's and Qwen's templates: reasoning that the content has already.
          R"({"messages": [{"role": "user", "content": "q", "name": "bob"},
                {"role": "assistant", "content": "a", "reasoning_content": "", "tool_calls": null, "thinking": null}]})",
      }) {
    std::string one_line = row;
    one_line.erase(std::remove(one_line.begin(), one_line.end(), '\n'), one_line.end());
    EXPECT_THAT(read(one_line), ElementsAre("user: q", "assistant: a")) << row;
  }
  SourceOptions slim_orca = options(
      R"({"conversations": [{"from": "human", "value": "q", "weight": 0}, {"from": "gpt", "value": "a", "weight": 1}]})");
  slim_orca.learnt_roles = {"assistant"};
  EXPECT_THAT(read(slim_orca), ElementsAre("user: q", "assistant: a"));
  slim_orca.learnt_roles = {"assistant", "user"};
  EXPECT_THAT(read(slim_orca).front(),
              HasSubstr("message 1 in 'conversations' is marked as not to be learnt"));
}

TEST_F(RowLeftoversTest, HistoryIsReadInEveryLayoutOrRefused) {
  for (const char* row :
       {R"({"query": "q", "response": "a", "history": [["h", "i"]]})",
        R"({"prompt": "q", "completion": "a", "chat_history": [["h", "i"]]})",
        R"({"question": "q", "answer": "a", "history": [["h", "i"]], "chat_history": [["h", "i"]]})",
        R"({"input": "q", "output": "a", "conversation_history": [["h", "i"]]})"})
    EXPECT_THAT(read(row), ElementsAre("user: h", "assistant: i", "user: q", "assistant: a")) << row;
  EXPECT_THAT(read(R"({"history": [["h", "i"]], "messages": )" +
                   list({{"system", "s"}, {"user", "q"}, {"assistant", "a"}}) + "}"),
              ElementsAre("system: s", "user: h", "assistant: i", "user: q", "assistant: a"));
  EXPECT_THAT(read(R"({"history": [["q", "a"]], )" + kChat + "}"), ElementsAre("user: q", "assistant: a"));
  for (const char* history : {R"(["h", "i"])", R"("h")", R"([["h", null]])", R"([["h", "i", "j"]])",
                              R"([{"role": "user", "content": "h"}])", R"({"h": "i"})"})
    EXPECT_THAT(read(std::string(R"({"query": "q", "response": "a", "history": )") + history + "}").front(),
                AllOf(HasSubstr("x.jsonl:1: 'history' must be a list of [prompt, response]"),
                      HasSubstr("prompt_field: query and response_field: response")))
        << history;
  EXPECT_THAT(
      read(R"({"query": "q", "response": "a", "history": [["h", "i"]], "chat_history": [["j", "k"]]})")
          .front(),
      HasSubstr("has 'history' and 'chat_history', which are not the same"));
}

TEST_F(RowLeftoversTest, PartsThatALayoutDoesNotReadAreRefused) {
  const std::map<std::string, std::string> rows = {
      {R"({"prompt": "P", "input": "q", "output": "a"})", "'prompt' beside 'input' and 'output'"},
      {R"({"question": "P", "input": "q", "output": "a"})", "'question' beside 'input' and 'output'"},
      {R"({"instruction": "P", "question": "q", "answer": "a"})",
       "'instruction' beside 'question' and 'answer'"},
      {R"({"passage": "P", "question": "q", "answer": "a"})", "'passage' beside 'question' and 'answer'"},
      {R"({"text": "P", "question": "q", "answer": "a"})", "'text' beside 'question' and 'answer'"},
      {R"({"Context": "P", "prompt": "q", "response": "a"})", "'Context' beside 'prompt' and 'response'"},
      {R"({"question": "q", "choices": ["x", "y"], "answer": "a"})", "'choices' beside"},
      {R"({"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "a"})",
       "'choices' beside"},
      {R"({"question": "q", "A": "x", "B": "y", "answer": "a"})", "'A' beside"},
      {R"({"question": "q", "option_a": "x", "option_b": "y", "answer": "a"})", "'option_a' beside"},
      {R"({"instruction": "q", "passage": "P", "output": "a"})", "'passage' beside"},
      {R"({"instruction": "q", "output": "a", "response": "b"})", "and so two replies"},
      {R"({"prompt": "q", "completion": "a", "response": "b"})", "and so two replies"},
      {R"({"question": "q", "answer": "a", "rationale": "because"})", "may belong to the reply"},
      {R"({"prompt": "q", "response": "a", "rejected": "b"})", "as data of preferences have"},
      {R"({"rejected_response": "b", )" + kChat + "}", "as data of preferences have"},
      {R"({"prompt": "P", )" + kChat + "}", "'prompt' beside 'messages'"},
      {R"({"conversations": [{"from": "human", "value": "z"}], )" + kChat + "}", "another conversation"},
      {R"({"tools": [{"name": "f"}], )" + kChat + "}", "no form as text"},
      {R"({"functions": "[{\"name\": \"f\"}]", )" + kChat + "}", "no form as text"},
      {R"({"tool_calls": [{"name": "f"}], )" + kChat + "}", "no form as text"},
      {R"({"chat_template_kwargs": {"custom_instructions": "rhyme"}, )" + kChat + "}", "custom_instructions"},
      {R"({"reasoning": "so and so", )" + kChat + "}", "'reasoning' beside 'messages'"},
      {R"({"images": ["a.png"], )" + kChat + "}", "only texts can be read"},
  };
  for (const auto& [row, words] : rows) {
    EXPECT_THAT(read(row).front(), AllOf(HasSubstr("data error"), HasSubstr("x.jsonl:1: has '"),
                                         HasSubstr(words), HasSubstr("_field: "), HasSubstr("skip_invalid")))
        << row;
    // The advice that each gives first.
    SourceOptions named = options(row);
    const std::string message = read(named).front();
    const auto value_of = [&](const std::string& key) {
      const std::size_t at = message.find(key + ": ");
      if (at == std::string::npos) return std::string();
      const std::size_t begin = at + key.size() + 2;
      return message.substr(begin, message.find_first_of(" )", begin) - begin);
    };
    named.messages_field = value_of("messages_field");
    named.prompt_field = value_of("prompt_field");
    named.response_field = value_of("response_field");
    EXPECT_THAT(read(named), ElementsAre("user: q", "assistant: a")) << row;
    named = options(row + "\n{" + (named.messages_field.empty() ? row.substr(1) : kChat + "}") + "\n");
    named.skip_invalid = true;
    EXPECT_THAT(read(named).front(), Not(HasSubstr("x.jsonl:2: has"))) << row;
  }
}

TEST_F(RowLeftoversTest, SystemTextsThatDifferAreRefused) {
  const std::string chat = list({{"system", "s"}, {"user", "q"}, {"assistant", "a"}});
  EXPECT_THAT(read(R"({"system": " s", "messages": )" + chat + "}"),
              ElementsAre("system: s", "user: q", "assistant: a"));
  EXPECT_THAT(read(R"({"system": "s", "system_prompt": "s", "question": "q", "answer": "a"})"),
              ElementsAre("system: s", "user: q", "assistant: a"));
  EXPECT_THAT(read(R"({"system_message": "s", "prompt": "q", "completion": "a"})"),
              ElementsAre("system: s", "user: q", "assistant: a"));
  EXPECT_THAT(read(R"({"system": "t", "messages": )" + chat + "}").front(),
              AllOf(HasSubstr("x.jsonl:1: has 'system', but its messages begin with another"),
                    HasSubstr("jq -c 'del(.system)'")));
  for (const char* other : {"system_prompt", "system_message", "System-Prompt"})
    EXPECT_THAT(
        read(R"({"system": "s", ")" + std::string(other) + R"(": "t", )" + kChat + "}").front(),
        HasSubstr("x.jsonl:1: has 'system' and '" + std::string(other) + "', which are not the same"));
  SourceOptions o = options(R"({"system_prompt": "q", "answer": "a"})");
  o.prompt_field = "system_prompt";
  o.response_field = "answer";
  EXPECT_THAT(read(o), ElementsAre("user: q", "assistant: a"));
}

TEST_F(RowLeftoversTest, RepliesThatBeginWithTheirPromptAreReadOnce) {
  const auto preference = [&](const std::string& prompt, const std::string& chosen) {
    SourceOptions o =
        options(R"({"prompt": )" + prompt + R"(, "chosen": )" + chosen + R"(, "rejected": "b"})");
    o.prompt_field = "prompt";
    o.response_field = "chosen";
    return o;
  };
  const std::string pair = list({{"user", "q"}, {"assistant", "a"}});
  const std::string with_system = list({{"system", "s"}, {"user", "q"}, {"assistant", "a"}});
  EXPECT_THAT(read(preference("\"q\"", pair)), ElementsAre("user: q", "assistant: a"));
  EXPECT_THAT(read(preference("\"q\"", with_system)), ElementsAre("system: s", "user: q", "assistant: a"));
  EXPECT_THAT(read(preference(list({{"user", "q"}}), pair)), ElementsAre("user: q", "assistant: a"));
  EXPECT_THAT(read(preference(list({{"system", "s"}, {"user", "q"}}), pair)),
              ElementsAre("system: s", "user: q", "assistant: a"));
  EXPECT_THAT(read(preference("\"q\"", list({{"assistant", "a"}, {"user", "r"}, {"assistant", "b"}}))),
              ElementsAre("user: q", "assistant: a", "user: r", "assistant: b"));
  for (const std::string& prompt : {std::string("\"other\""), list({{"system", "t"}, {"user", "q"}})}) {
    SourceOptions o = preference(prompt, with_system);
    EXPECT_THAT(read(o).front(),
                AllOf(HasSubstr("x.jsonl:1: 'chosen' begins with a turn of the system that is not"),
                      HasSubstr("set messages_field: chosen alone")));
    o.prompt_field = o.response_field = "";
    o.messages_field = "chosen";
    EXPECT_THAT(read(o), ElementsAre("system: s", "user: q", "assistant: a"));
  }
  EXPECT_THAT(read(R"({"prompt": "q", "chosen": )" + pair + R"(, "rejected": )" + pair + "}").front(),
              AllOf(HasSubstr("set messages_field: chosen"), Not(HasSubstr("jq"))));
  EXPECT_THAT(
      read(R"({"question": "q", "chosen": "a", "rejected": "b"})").front(),
      AllOf(HasSubstr("set prompt_field: question and response_field: chosen"), Not(HasSubstr("jq"))));
  EXPECT_THAT(read(R"({"instruction": "q", "completions": [{"model": "m", "text": "t"}]})").front(),
              Not(HasSubstr("jq")));
}

TEST_F(RowLeftoversTest, MarksOfTurnsAndRowsAreRefusedUnlessTheySayLearn) {
  for (const char* mark : {R"("weight": 0)", R"("weight": "0")", R"("weight": 0.5)", R"("weight": -1)",
                           R"("weight": 2)", R"("train": "false")", R"("train": 0)", R"("training": false)",
                           R"("loss": false)", R"("loss_weight": 0.0)", R"("masked": true)", R"("mask": 1)",
                           R"("train_detail": [{"begin_offset": 0, "train": false}])"})
    EXPECT_THAT(fault(R"({"messages": [{"role": "assistant", "content": "x", )" + std::string(mark) + "}]}"),
                AllOf(HasSubstr("data error"), HasSubstr("x.jsonl:2: message 1 in 'messages'"),
                      HasSubstr("learnt"), HasSubstr("jq -c 'del(.messages[]?.")))
        << mark;
  for (const char* mark : {R"("weight": 1)", R"("weight": "1.0")", R"("train": true)", R"("loss": true)",
                           R"("masked": false)", R"("weight": null)", R"("mask": "")"})
    EXPECT_THAT(read(R"({"messages": [{"role": "assistant", "content": "x", )" + std::string(mark) + "}]}"),
                ElementsAre("assistant: x"))
        << mark;
  EXPECT_THAT(
      fault(
          R"({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x", "train": false}]}]})"),
      HasSubstr("x.jsonl:2: a part of the content of message 1 in 'messages' is marked"));
  for (const char* mark : {R"("weight": 0)", R"("weight": 0.5)", R"("label": false)", R"("kto_tag": false)",
                           R"("label": "False")", R"("train": false)", R"("loss": false)"})
    EXPECT_THAT(fault("{" + std::string(mark) + ", " + kChat + "}"),
                AllOf(HasSubstr("x.jsonl:2: has '"), HasSubstr("not to be learnt")))
        << mark;
}

TEST_F(RowLeftoversTest, WhatAMessageHasBesideItsContentIsRefused) {
  for (const auto& [more, words] : std::vector<std::pair<std::string, std::string>>{
           {R"("reasoning_content": "so")", "has 'reasoning_content' beside its content"},
           {R"("thinking": "so")", "has 'thinking' beside its content"},
           {R"("reasoning": "so")", "has 'reasoning' beside its content"},
           {R"("functions": "[{}, {\"name\": \"f\"}]")", "offers tools"},
           {R"("images": ["x.png"])", "only texts"},
           {R"("value": "other")", "has 'content' and 'value', which are not the same"}})
    EXPECT_THAT(
        fault(R"({"messages": [{"role": "assistant", "content": "x", )" + more + "}]}"),
        AllOf(HasSubstr("x.jsonl:2: message 1 in 'messages'"), HasSubstr(words), HasSubstr("jq -c '")))
        << more;
  EXPECT_THAT(
      read(R"({"messages": [{"role": "assistant", "content": "<think>so</think> x", "reasoning": "so"}]})"),
      ElementsAre("assistant: <think>so</think> x"));
}

TEST_F(RowLeftoversTest, EmptyRepliesAreFaultsAndCounted) {
  EXPECT_THAT(
      fault(R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]})"),
      HasSubstr("x.jsonl:2: ends with an empty reply ('messages')"));
  const std::string good = R"({"instruction": "q", "output": "a"})";
  SourceOptions o = options(good + "\n" + R"({"instruction": "q", "output": ""})" + "\n" + good + "\n");
  EXPECT_THAT(read(o).front(), HasSubstr("x.jsonl:2: ends with an empty reply ('output')"));
  o.skip_invalid = true;
  SourceCounts counts;
  EXPECT_EQ(open_source(o, Split::kAll, &counts)->size(), 2);
  EXPECT_EQ(counts.invalid, 1);
}

/// The jq commands of messages, run as they stand; what they write is read.
TEST_F(RowLeftoversTest, CommandsThatMessagesAdviseWork) {
  if (std::system("jq --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "there is no jq";
  const std::string question = R"("role": "user", "content": "q"}, )";
  for (
      const std::string& row : std::vector<std::string>{
          std::string(R"({"context": "c", "question": "q", "answer": "a"})"),
          std::string(R"({"question": "q", "input": "i", "output": "a"})"),
          std::string(R"({"it's a": 1, "question": "q", "answer": "a", "Chain-of-thought": "so"})"),
          R"({"system": "s", "system prompt": "t", )" + kChat + "}",
          R"({"system": "t", "messages": )" + list({{"system", "s"}, {"user", "q"}, {"assistant", "a"}}) +
              "}",
          R"({"messages": [{)" + question + R"({"role": "assistant", "content": "a", "thinking": "so"}]})",
          R"({"messages": [{)" + question + R"({"role": "assistant", "content": "a", "weight": 0.5}]})",
          R"({"messages": [{)" + question + R"({"role": "assistant", "content": "a", "value": "b"}]})",
          R"({"messages": [{)" + question +
              R"({"role": "assistant", "content": "a", "tool_calls": [{"name": "f"}]}]})",
          R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "text": "a", "train": false}]}]})",
          std::string(R"({"version": 1, "rows": [{"prompt": "q", "response": "a"}]})"),
          R"({"label": false, )" + kChat + "}"}) {
    for (const bool array : {false, true}) {
      const SourceOptions o = array ? options("[" + row + ", " + row + "]", "x.json") : options(row + "\n");
      const std::string message = read(o).front();
      int commands = 0;
      for (std::size_t at = message.find("jq -c '"); at != std::string::npos;
           at = message.find("jq -c '", at + 1)) {
        std::string command = message.substr(at, message.find('\'', at + 7) + 1 - at);
        const std::string out = (folder_.path() / "out.jsonl").string();
        command += " '" + o.path + "' > '" + out + "'";
        ASSERT_EQ(std::system(command.c_str()), 0) << command;
        SourceOptions again = o;
        again.path = out;
        const std::vector<std::string> found = read(again);
        const bool left_out = command.find("select(") != std::string::npos;
        EXPECT_THAT(found.back(), left_out ? HasSubstr("the file is empty") : HasSubstr("assistant: "))
            << command;
        ++commands;
      }
      EXPECT_GE(commands, 1) << message;
    }
  }
}

}  // namespace
}  // namespace bitrain::data
